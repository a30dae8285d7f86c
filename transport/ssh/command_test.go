package ssh

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// loginShells are the shells of this machine that sshd could start, each with the
// arguments before "-c".
func loginShells(t testing.TB) [][]string {
	out := shells(t)
	for _, name := range []string{"tcsh", "bsd-csh", "fish"} {
		if installed(t, name) {
			out = append(out, []string{name})
		}
	}
	return out
}

// installed reports whether this machine has a program. One that is required and
// missing ends the test.
func installed(t testing.TB, name string) bool {
	t.Helper()
	_, err := exec.LookPath(name)
	if err != nil && realtest.Required() {
		realtest.Missing(t, "the program "+name)
	}
	return err == nil
}

// shells are the shells of this machine that can stand for sh.
func shells(t testing.TB) [][]string {
	var out [][]string
	for _, argv := range [][]string{{"sh"}, {"dash"}, {"bash"}, {"bash", "--posix"}, {"mksh"}, {"zsh"}, {"busybox", "sh"}} {
		if installed(t, argv[0]) {
			out = append(out, argv)
		}
	}
	require.NotEmpty(t, out, "there is no sh")
	return out
}

// shDirs are directories for a PATH in which sh is one of the shells.
func shDirs(t testing.TB) []string {
	var out []string
	for _, argv := range shells(t) {
		if len(argv) > 1 && argv[0] != "busybox" {
			continue
		}
		program, err := exec.LookPath(argv[0])
		require.NoError(t, err)
		dir := filepath.Join(t.TempDir(), argv[0])
		require.NoError(t, os.Mkdir(dir, 0o755))
		require.NoError(t, os.Symlink(program, dir+"/sh"))
		out = append(out, dir)
	}
	return out
}

// printArgs prints its input, its arguments and its environment, each with a NUL byte behind it.
var printArgs = []string{"/bin/sh", "-c", `cat; for a; do printf '%s\0' "$a"; done; cat /proc/$$/environ 2>/dev/null`, "sh"}

// checkArgs has a login shell run a program, as sshd does, and checks that it got
// its arguments and variables: by the command line, if that is not too long for
// Linux, and by standard input.
func checkArgs(t testing.TB, shell []string, path string, as rights, args, env []string) {
	t.Helper()
	script, private := argvScript(append(printArgs[:len(printArgs):len(printArgs)], args...), env), ""
	if len(env) > 0 { // as Run does it
		script, private = readScript(script)
	}
	text := wrapped(script, "TOKEN", as)
	line, input := byInput(text)
	checkLine(t, shell, path, line, input+private+"rest", args, env)
	if line := byLine(text); len(line) <= maxString {
		checkLine(t, shell, path, line, private+"rest", args, env)
	}
}

func checkLine(t testing.TB, shell []string, path, line, input string, args, env []string) {
	t.Helper()
	cmd := exec.Command(shell[0], append(shell[1:len(shell):len(shell)], "-c", line)...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + path + ":" + os.Getenv("PATH"), "SHELL=/bin/sh", "SSH_CONNECTION=1.2.3.4 5 6.7.8.9 22"}
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s by %s: %.1000s", shell, path, errs.String())
	pids, rest, err := awaitToken(&errs, "\nTOKEN ", isPIDs, nil)
	require.NoError(t, err, "%q", errs.String())
	require.Empty(t, string(rest)+errs.String())
	require.NotEmpty(t, pids)
	_, rest, err = awaitToken(&out, "TOKEN", isEmpty, nil)
	require.NoError(t, err)
	got := string(rest) + out.String()
	want := "rest"
	if len(args) > 0 {
		want += strings.Join(args, "\x00") + "\x00"
	}
	if !strings.HasPrefix(got, want) {
		t.Fatalf("through %q and %s by %.2000q:\nwant %.5000q\ngot  %.5000q", shell, path, line, want, got)
	}
	got = strings.TrimPrefix(got, want)
	if got == "" {
		return // there is no /proc
	}
	for _, e := range env {
		if !strings.Contains("\x00"+got, "\x00"+e+"\x00") {
			t.Fatalf("through %q and %s: want %.500q in %.5000q", shell, path, e, got)
		}
	}
}

func TestQuotingKeepsEveryByte(t *testing.T) {
	t.Parallel()
	var every []byte
	args := []string{"", " ", "'", `\`, `\\`, `\n`, "\n", "a\n", "!", "!!", "$HOME", "`id`", "%s%n%b", "-n", "--", "*", "~", "#", "{a,b}", "a=b",
		"\xff", "\xc3", "\xc3\xa4", "\xed\xa0\x80", strings.Repeat("\n", 500), "a\n\n\n", "\\0101", "^a^b", "[a]", "TOKEN", "sh-TOKEN 1\n"}
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
		args = append(args, string([]byte{byte(b)}))
	}
	args = append(args, string(every), strings.Repeat("'", 1000))
	env := []string{"A=" + string(every), "B.C=x", "EMPTY=", "NL=\n\n", "É=\xff", "a b=c d", "1=2"}
	for _, shell := range loginShells(t) {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			t.Parallel()
			for _, path := range shDirs(t) {
				checkArgs(t, shell, path, rights{}, args, env)
			}
			checkArgs(t, shell, "/nowhere", rights{}, args, nil)
			checkArgs(t, shell, "/nowhere", rights{}, nil, nil)
			checkArgs(t, shell, "/nowhere", rights{}, []string{strings.Repeat("x", 50_000), strings.Repeat("\xe4\n", 60_000)}, nil)
		})
	}
}

// TestQuotingAtRandom takes what nobody thought of.
func TestQuotingAtRandom(t *testing.T) {
	t.Parallel()
	// Shells are made of these.
	const special = "'\"\\$`!*?[]{}()<>|&;#~^%=-+@:,./ \t\n\r\x01\x7f\x80\xff\xc3\xa4anrtx0178"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	word := func() string {
		b := make([]byte, rng.IntN(40))
		for i := range b {
			if b[i] = special[rng.IntN(len(special))]; rng.IntN(4) == 0 {
				b[i] = byte(1 + rng.IntN(255))
			}
		}
		return string(b)
	}
	dirs := shDirs(t)
	for _, shell := range loginShells(t) {
		for range 6 {
			var args, env []string
			for i := range 60 {
				args = append(args, word())
				env = append(env, fmt.Sprintf("V%d=%s", i, word()))
			}
			checkArgs(t, shell, dirs[rng.IntN(len(dirs))], rights{}, args, env)
		}
	}
}

// sudoOfOurOwn is a directory for a PATH with a sudo that passes everything on, and
// the ways to call it: also through script, if there is one.
func sudoOfOurOwn(t testing.TB) (bin string, ways []rights) {
	bin = t.TempDir()
	for name, content := range map[string]string{
		"id":   "echo 1000",
		"sudo": `while [ "$1" != -- ]; do shift; done; shift; exec "$@"`,
	} {
		require.NoError(t, os.WriteFile(bin+"/"+name, []byte("#!/bin/sh\n"+content+"\n"), 0o755))
	}
	ways = []rights{{sudo: true}, {sudo: true, prompt: "prompt"}}
	if installed(t, "script") {
		ways = append(ways, rights{sudo: true, terminal: true})
	}
	return bin, ways
}

func TestElevatedQuoting(t *testing.T) {
	t.Parallel()
	bin, ways := sudoOfOurOwn(t)
	args := []string{"", "it's", "\n", "a\n", "!", `\0101`, "\xff", "$s", "-n"}
	for _, shell := range loginShells(t) {
		for _, as := range ways {
			checkArgs(t, shell, bin, as, args, []string{"A=\n'\xff"})
		}
	}
}

// TestLimits: what is passed on is as long as Linux lets it be.
func TestLimits(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getpagesize() != 4096 {
		t.Skip("these limits are those of Linux with pages of 4 KiB")
	}
	require.NoError(t, exec.Command("/bin/sh", "-c", ":", strings.Repeat("x", maxString)).Run())
	require.ErrorIs(t, exec.Command("/bin/sh", "-c", ":", strings.Repeat("x", maxString+1)).Run(), syscall.E2BIG)
	line, input := commandLine(strings.Repeat("x", maxLine))
	require.Less(t, len(line), 100)
	require.Len(t, input, maxLine+len("{ \n}"))
	line, input = commandLine("x")
	require.Equal(t, byLine("x"), line)
	require.Empty(t, input)
	var many []string
	for range 8 {
		many = append(many, strings.Repeat("x", maxString-100))
	}
	checkArgs(t, []string{"/bin/sh"}, "/nowhere", rights{}, many, nil)
	require.Empty(t, badCommand(transport.Command{Argv: []string{"x", strings.Repeat("x", maxString)}}))
	require.NotEmpty(t, badCommand(transport.Command{Argv: []string{"x", strings.Repeat("x", maxString+1)}}))
	require.NotEmpty(t, badCommand(transport.Command{Argv: []string{"x"}, Env: []string{"A=" + strings.Repeat("x", maxString)}}))
}

// TestOuterQuoting: what a login shell sees has nothing in it on which Bourne
// shells, csh and fish disagree.
func TestOuterQuoting(t *testing.T) {
	// A backslash before a zero alone, no single quote, and no long word.
	common := regexp.MustCompile(`^exec sh -c '[^'!\\]+' sh(?: '(?:[ -&(-\[\]-~]|\\0){1,1000}')+$`)
	for _, script := range []string{"true", "echo 'it'", "a\nb", `a\b`, "a!b", string([]byte{1, 127, 200, 255}), getScript, putScript} {
		for _, as := range []rights{{}, {sudo: true}, {sudo: true, prompt: "prompt"}, {sudo: true, prompt: "prompt", terminal: true}} {
			line := byLine(wrapped(script, "token", as))
			require.Regexp(t, common, line)
			require.NotContains(t, line, "!")
			require.NotContains(t, line, "\n")
		}
	}
}

func FuzzQuoting(f *testing.F) {
	f.Add("plain", "it's", "X=1")
	f.Add("", "\n", "A=\xff!\\")
	f.Add("-n", "~", "V=*")
	f.Add("a\n\n", "\xc3", "A=a\n")
	all := loginShells(f)
	dirs := shDirs(f)
	bin, ways := sudoOfOurOwn(f)
	ways = append(ways, rights{}, rights{}, rights{})
	f.Fuzz(func(t *testing.T, a, b, env string) {
		if strings.Contains(a+b+env, "\x00") {
			t.Skip("no program can be given a NUL byte")
		}
		var vars []string
		if strings.Index(env, "=") > 0 && env[0] != '-' {
			vars = []string{env}
			for _, name := range []string{"PATH=", "LD_", "BASH", "ENV=", "SHELLOPTS=", "LC_", "LANG", "PWD=", "_="} {
				if strings.HasPrefix(env, name) {
					t.Skip("changes what the shell of the test does")
				}
			}
		}
		// One of them each time, so that there are many times.
		i := int(crc32.ChecksumIEEE([]byte(a + b + env)))
		as := ways[i/len(all)/len(dirs)%len(ways)]
		checkArgs(t, all[i%len(all)], bin+":"+dirs[i/len(all)%len(dirs)], as, []string{a, b}, vars)
	})
}

func TestProgramNameWithEqualsSign(t *testing.T) {
	dir := t.TempDir()
	for _, shell := range shells(t) {
		for _, env := range [][]string{nil, {"X=1"}} {
			script := argvScript([]string{dir + "/a=b"}, env)
			out, err := exec.Command(shell[0], append(shell[1:], "-c", script)...).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 127, exit.ExitCode(), "%s: %s", script, out)
			require.Contains(t, string(out), "a=b", "it was looked for as a program")
		}
	}
}
