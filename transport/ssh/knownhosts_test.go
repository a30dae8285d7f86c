package ssh

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func publicKey(t testing.TB) xssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	key, err := xssh.NewPublicKey(pub)
	require.NoError(t, err)
	return key
}

// settled writes a file that has not changed for a while.
func settled(t testing.TB, name, content string, ago time.Duration) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	at := time.Now().Add(-ago)
	require.NoError(t, os.Chtimes(name, at, at))
}

// TestKnownNames looks names up that ssh-keygen looks up, too.
func TestKnownNames(t *testing.T) {
	keygen := realtest.Need(t, "ssh-keygen")
	key := publicKey(t)
	text := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key)))
	hosts := []string{
		"db1", "DB1", "db1,db2", "*", "*.example.com", "db?.example.com", "*.example.com,!db1.example.com", "!db1,*", "!db1",
		"[db1]:2222", "[*.example.com]:2222", "*:2222", "[db1]:22", "10.0.0.1", "[10.0.0.1]:2222", "10.0.0.*",
		"2001:db8::1", "[2001:db8::1]:2222", "2001:DB8::1", "fe80::1%eth0", "[fe80::1%eth0]:2222", "db1,,db2", ",", "d*1*", "**b1",
		"@cert-authority db1", "@cert-authority *.example.com", "@unknown db1", "@cert-authority @revoked db1",
	}
	for _, plain := range []string{"db1", "[db1]:2222", "2001:db8::1", "[2001:db8::1]:2222", "fe80::1%eth0", "DB1"} {
		hosts = append(hosts, knownhosts.HashHostname(plain))
	}
	hosts = append(hosts, "|1|rubbish|rubbish", "|2|"+strings.Repeat("A", 28)+"|"+strings.Repeat("A", 28), "|1|", "|")
	addrs := []string{"db1:22", "DB1:22", "db2:22", "db1:2222", "db1.example.com:22", "db2.Example.com:22", "db1.example.com:2222",
		"10.0.0.1:22", "10.0.0.1:2222", "10.0.0.12:22", "[2001:db8::1]:22", "[2001:DB8:0::1]:22", "[2001:db8::1]:2222", "[fe80::1%eth0]:22",
		"[fe80::1%eth0]:2222", "elsewhere:22"}
	var content strings.Builder
	for _, h := range hosts {
		content.WriteString(h + " " + text + "\n")
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(file, []byte(content.String()), 0o600))
	f, err := readKnown(file)
	require.NoError(t, err)
	for _, a := range addrs {
		name := knownName(a)
		out, _ := exec.Command(keygen, "-F", name, "-f", file).CombinedOutput()
		var want, got []string
		for _, m := range regexp.MustCompile(`found: line (\d+)`).FindAllSubmatch(out, -1) {
			want = append(want, file+":"+string(m[1]))
		}
		keys, err := f.find(name)
		require.NoError(t, err)
		for _, k := range keys {
			require.Equal(t, key.Marshal(), k.key.Marshal())
			got = append(got, k.where)
			_, n, _ := strings.Cut(k.where, ":")
			line, err := strconv.Atoi(n)
			require.NoError(t, err)
			require.Equal(t, strings.HasPrefix(hosts[line-1], "@"), k.authority)
		}
		require.Equal(t, want, got, "lines for %s; ssh-keygen says %s", name, out)
		require.NotEmpty(t, got)
	}
}

// TestKnownBrokenLines: what makes no sense concerns the hosts that it names alone,
// unless it revokes something.
func TestKnownBrokenLines(t *testing.T) {
	key := publicKey(t)
	text := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key)))
	good := "good " + text + "\n"
	for _, tt := range []struct {
		name, content string
		file, bad     bool // the file is refused; host bad is
		keys          int  // of bad
	}{
		{"empty", "", false, false, 0},
		{"comments", "# nobody\n\n  \t\n", false, false, 0},
		{"good", good, false, false, 0},
		{"spaces and a comment", " \t bad\t " + text + "  root@bad # x\r\n", false, false, 1},
		{"cut off", good + "bad ssh-ed25519 AAAAC3Nz", false, true, 0},
		{"no key", good + "bad ssh-ed25519\n", false, true, 0},
		{"name alone", good + "bad\n", false, true, 0},
		{"other type", good + "bad ssh-rsa " + strings.Fields(text)[1] + "\n", false, true, 0},
		{"not base64", good + "bad ssh-ed25519 AAAA*\n", false, true, 0},
		{"version 1", good + "bad 1024 35 1234567\nbad " + text + "\n", false, false, 1},
		{"unknown type", good + "bad ssh-new AAAAB3NzaC1uZXc=\nbad " + text + "\n", false, false, 1},
		{"revoked", good + "@revoked * " + text + "\n", false, false, 0},
		{"revoked without key", good + "@revoked *\n", true, false, 0},
		{"revoked twice", good + "@revoked @cert-authority bad " + text + "\n", true, false, 0},
		{"revoked garbled", good + "@revoked * ssh-ed25519 AAAAC3Nz\n", true, false, 0},
		{"revoked of an unknown type", good + "@revoked * ssh-new AAAAB3NzaC1uZXc=\n", false, false, 0},
		{"authorized_keys", text + "\n", true, false, 0},
		{"prose", "This is not what it seems.\n", true, false, 0},
		{"binary", "\x00\x01\x02\xff", true, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := parseKnown("known_hosts", tt.content)
			if tt.file {
				require.ErrorContains(t, err, "known_hosts")
				return
			}
			require.NoError(t, err)
			keys, err := f.find("bad")
			if tt.bad {
				require.ErrorIs(t, err, errKnownLine)
				require.ErrorContains(t, err, "known_hosts:2")
			} else {
				require.NoError(t, err)
				require.Len(t, keys, tt.keys)
			}
			if strings.Contains(tt.content, "good") {
				keys, err := f.find("good")
				require.NoError(t, err)
				require.Len(t, keys, 1)
			}
		})
	}
}

func TestKnownHostsIsBounded(t *testing.T) {
	t.Parallel()
	_, err := readKnown("/dev/zero")
	require.ErrorContains(t, err, "longer than")
	f, err := readKnown("/dev/null")
	require.NoError(t, err)
	require.Empty(t, f.lines)
	_, err = readKnown(t.TempDir())
	require.Error(t, err)
}

func TestKnownCache(t *testing.T) {
	var c knownCache
	name := filepath.Join(t.TempDir(), "known_hosts")
	one, two := "a "+string(xssh.MarshalAuthorizedKey(publicKey(t))), "b "+string(xssh.MarshalAuthorizedKey(publicKey(t)))
	get := func() *knownFile {
		t.Helper()
		f, err := c.get(t.Context(), name)
		require.NoError(t, err)
		return f
	}
	has := func(f *knownFile, host string) bool { return len(f.byName[host]) == 1 }
	_, err := c.get(t.Context(), name)
	require.ErrorIs(t, err, fs.ErrNotExist)

	settled(t, name, one, time.Hour)
	first := get()
	require.True(t, has(first, "a"))
	require.Same(t, first, get(), "it is not read again")
	require.Len(t, c.files, 1)

	settled(t, name, two, time.Minute) // another time alone
	second := get()
	require.True(t, has(second, "b"))
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name+"2", []byte(one), 0o600))
	require.NoError(t, os.Chtimes(name+"2", info.ModTime(), info.ModTime()))
	require.NoError(t, os.Rename(name+"2", name)) // another file of the same size and time
	require.True(t, has(get(), "a"))

	// What was written just now may be written again without looking different.
	settled(t, name, two, 0)
	require.True(t, has(get(), "b"))
	require.NotSame(t, get(), get())

	settled(t, name, "rubbish\n", time.Hour)
	_, err = c.get(t.Context(), name)
	require.ErrorIs(t, err, errNotKnownHosts)
	settled(t, name, one, 2*time.Hour)
	require.True(t, has(get(), "a"))
	require.NoError(t, os.Remove(name))
	_, err = c.get(t.Context(), name)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestKnownCacheIsShared: many dials at once read a file once, and those who no
// longer want it do not wait.
func TestKnownCacheIsShared(t *testing.T) {
	var c knownCache
	name := filepath.Join(t.TempDir(), "known_hosts")
	settled(t, name, "a "+string(xssh.MarshalAuthorizedKey(publicKey(t))), time.Hour)
	info, err := os.Stat(name)
	require.NoError(t, err)
	e, mine := c.entry(name, info)
	require.True(t, mine)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.get(ctx, name)
	require.ErrorIs(t, err, context.Canceled)
	got := make([]*knownFile, 50)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i], _ = c.get(t.Context(), name) })
	}
	e.file, e.err = readKnown(name)
	close(e.done)
	wg.Wait()
	for _, f := range got {
		require.Same(t, e.file, f)
	}
}

func TestKnownCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c knownCache
	dir := t.TempDir()
	line := "a " + string(xssh.MarshalAuthorizedKey(publicKey(t)))
	content := strings.Repeat(line, (maxCached/4)/len(line))
	get := func(i int) *knownFile {
		f, err := c.get(t.Context(), filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(t, err)
		require.LessOrEqual(t, c.cost, int64(maxCached))
		return f
	}
	for i := range 6 {
		settled(t, filepath.Join(dir, fmt.Sprint(i)), content, time.Hour)
	}
	first := get(0)
	for i := range 5 {
		get(i + 1)
		get(0)
	}
	require.Len(t, c.files, 3)
	require.Same(t, first, get(0), "the one that is used most stays")
	settled(t, filepath.Join(dir, "large"), strings.Repeat(content, 5), time.Hour)
	_, err := c.get(t.Context(), filepath.Join(dir, "large"))
	require.NoError(t, err)
	require.Len(t, c.files, 3)
}

func FuzzKnownHosts(f *testing.F) {
	text := string(xssh.MarshalAuthorizedKey(publicKey(f)))
	f.Add("a,b* "+text, "a:22")
	f.Add("@revoked * "+text+"@cert-authority *.x "+text, "b.x:2222")
	f.Add(knownhosts.HashHostname("c")+" "+text, "c:22")
	f.Add("a 1024 35 1\n|1|x|y z\n", "[::1%1]:22")
	f.Fuzz(func(t *testing.T, content, addr string) {
		file, err := parseKnown("f", content)
		if err != nil {
			return
		}
		keys, err := file.find(knownName(addr))
		if err != nil {
			require.ErrorIs(t, err, errKnownLine)
		}
		for _, k := range keys {
			require.NotNil(t, k.key)
			_ = file.revokes(k.key)
		}
	})
}

func FuzzMatchPattern(f *testing.F) {
	f.Add("db1.example.com", "*.example.com")
	f.Add("aaa", "a*a?*")
	f.Add("", "**")
	f.Fuzz(func(t *testing.T, s, pattern string) {
		if len(s)+len(pattern) > 200 {
			t.Skip()
		}
		var b strings.Builder
		for i := range len(pattern) {
			switch c := pattern[i]; c {
			case '*':
				b.WriteString(`[\s\S]*`)
			case '?':
				b.WriteString(`[\s\S]`)
			default:
				b.WriteString(regexp.QuoteMeta(string(rune(c))))
			}
		}
		latin := make([]rune, len(s)) // one character for each byte
		for i := range len(s) {
			latin[i] = rune(s[i])
		}
		want, err := regexp.MatchString(`^(?:`+b.String()+`)$`, string(latin))
		require.NoError(t, err)
		require.Equal(t, want, matchPattern(s, pattern), "%q against %q", s, pattern)
	})
}

// BenchmarkKnownHosts is what known_hosts costs one dial of a fleet of 10,000.
func BenchmarkKnownHosts(b *testing.B) {
	for _, hashed := range []bool{false, true} {
		var content strings.Builder
		for i := range 10_000 {
			name := fmt.Sprintf("host%d.example.com", i)
			if hashed {
				name = knownhosts.HashHostname(name)
			}
			fmt.Fprintln(&content, knownhosts.Line([]string{name}, publicKey(b)))
		}
		file := filepath.Join(b.TempDir(), "known_hosts")
		settled(b, file, content.String(), time.Hour)
		kind := map[bool]string{false: "plain", true: "hashed"}[hashed]
		b.Run(kind+"/package knownhosts", func(b *testing.B) {
			for b.Loop() {
				known, err := knownhosts.New(file)
				require.NoError(b, err)
				require.Error(b, known("host5000.example.com:22", &net.TCPAddr{IP: net.IPv4zero}, publicKey(b)))
			}
		})
		var c knownCache
		for _, cached := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/cached=%t", kind, cached), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !cached {
						c = knownCache{}
					}
					f, err := c.get(b.Context(), file)
					require.NoError(b, err)
					keys, err := f.find("host5000.example.com")
					require.NoError(b, err)
					require.Len(b, keys, 1)
				}
			})
		}
	}
}
