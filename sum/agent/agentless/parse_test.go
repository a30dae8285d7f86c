package agentless

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

const testID = "0123456789abcdef0123456789abcdef"

func TestParseStatus(t *testing.T) {
	spec := "spec d zero-ok 60 kill\n"
	for name, tt := range map[string]struct {
		said string
		want agent.Status
	}{
		"accepted":    {"state accepted\n" + spec + "run 1 2 boot 1000\n", agent.Status{State: agent.Accepted}},
		"running":     {"state running\n" + spec + "run 1 2 boot 1000\nbegun\nnow 2000\n", agent.Status{State: agent.Running}},
		"overdue":     {"state running\nspec d zero-ok 60 keep\nrun 1 2 boot 1000\nbegun\nnow 2000\n", agent.Status{State: agent.Running, Overdue: true}},
		"interrupted": {"state interrupted\n" + spec + "run 1 2 boot 1000\nbegun\n", agent.Status{State: agent.Interrupted}},
		"done": {"state done\n" + spec + "run 1 2 boot 1000\nbegun\nexit 3 1010\ncut\n", agent.Status{State: agent.Done, LogTruncated: true,
			Exit: &transport.Exit{Code: 3}, Result: transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "exit", Value: "3"}}}},
		"well in spite of the signal": {"state done\n" + spec + "run 1 2 boot 1000\nbegun\nexit 0 1010\ncancel 1005\n", agent.Status{State: agent.Done,
			Exit: &transport.Exit{}, Result: transport.Result{Verdict: transport.VerdictApplied, Code: transport.Code{Space: "exit", Value: "0"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			st, rest, err := parseStatus([]byte("id " + testID + "\n" + tt.said + "\nlog\n"))
			require.NoError(t, err)
			require.Equal(t, "log\n", string(rest))
			require.Equal(t, testID, st.ID)
			require.Equal(t, "boot", st.BootID)
			require.EqualValues(t, 1000, st.Started.Unix())
			tt.want.ID, tt.want.BootID, tt.want.Started, tt.want.Ended = st.ID, st.BootID, st.Started, st.Ended
			require.Equal(t, tt.want, st)
		})
	}
	for _, said := range []string{"", "\n", "id x\n\n", "id " + testID + "\n\n", "id " + testID + "\nstate done\n\n", "id " + testID + "\nstate else\n\n",
		"id " + testID + "\nstate running", " \n\n"} {
		_, _, err := parseStatus([]byte(said))
		require.Error(t, err, "%q", said)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte("id " + testID + "\nstate done\nspec d - 1 kill\nrun 1 2 boot 3\nexit 0 4\nbegun\ncancel 5\ntimeout\nnow 9\n\nlog"))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, rest, err := parseStatus(b)
		if err == nil && (st.ID == "" || len(rest) > len(b) || st.State == agent.Done && st.Exit == nil) {
			t.Fatalf("%+v %q", st, rest)
		}
	})
}

// outside writes a file beside the root, which no tree may lead to.
func outside(t testing.TB) (root *os.Root, dir string) {
	dir = t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/a/b/root", 0o700))
	require.NoError(t, os.WriteFile(dir+"/secret", []byte("canary"), 0o600))
	root, err := os.OpenRoot(dir + "/a/b/root")
	require.NoError(t, err)
	return root, dir + "/a/b/root"
}

// noWayOut follows every link.
func noWayOut(t testing.TB, dir string) {
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return nil
		}
		if real, err := filepath.EvalSymlinks(name); err == nil && real != dir && !strings.HasPrefix(real, dir+"/") {
			t.Fatalf("%s leads to %s", name, real)
		}
		return nil
	}))
}

func TestTree(t *testing.T) {
	root, dir := outside(t)
	defer root.Close()
	tr := &tree{root: root}
	said := `lrwxrwxrwx 1 root root 0 Nov 21 15:00 sys/class/net/eth0 -> ../../devices/pci0000:00/net/eth0
lrwxrwxrwx 1 root root 0 Nov 21 15:00 sys/x -> ../../../../secret
lrwxrwxrwx 1 root root 0 Nov 21 15:00 sys/abs -> /etc/passwd
lrwxrwxrwx 1 root root 0 Nov 21 15:00 ../up -> x
lrwxrwxrwx 1 root root 0 Nov 21 15:00 sys/deep -> devices/pci0000:00/../../..
lrwxrwxrwx 1 root root 0 Nov 21 15:00 sys/class/net/eth0/inner -> ../../../../secret
not a link

==> sys/devices/pci0000:00/net/eth0/address <==
00:11:22:33:44:55

==> ../../../secret2 <==
x
==> /etc/canary <==
x
==> etc/os-release <==
ID=debian
==> this is no header
`
	said += "==> sys/" + strings.Repeat("a/", 20_000) + "a <==\nx\n==> " + strings.Repeat("a", 600) + " <==\nx\n"
	require.NoError(t, tr.read(strings.NewReader(said)))
	require.NoError(t, tr.link())
	data, err := os.ReadFile(dir + "/sys/class/net/eth0/address")
	require.NoError(t, err)
	require.Equal(t, "00:11:22:33:44:55\n\n", string(data))
	data, err = os.ReadFile(dir + "/etc/os-release")
	require.NoError(t, err)
	require.Equal(t, "ID=debian\n==> this is no header\n", string(data))
	require.NoDirExists(t, dir+"/sys/a")
	for _, name := range []string{"/sys/x", "/sys/abs", "/sys/deep", "/sys/devices/pci0000:00/net/eth0/inner", "/../secret2", "/../../../secret2"} {
		_, err := os.Lstat(dir + name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	noWayOut(t, dir)
}

func FuzzTree(f *testing.F) {
	f.Add("l a/b -> ../c\nl a/c -> b\n\n==> c/d <==\nx\n")
	f.Add("l a -> b\nl b -> a/../..\nl a/x -> ../../..\n\n==> a/b <==\n")
	f.Fuzz(func(t *testing.T, said string) {
		root, dir := outside(t)
		defer root.Close()
		tr := &tree{root: root}
		if err := tr.read(strings.NewReader(said)); err == nil {
			_ = tr.link()
		}
		noWayOut(t, dir)
	})
}

// FuzzParseFacts: what checkScript seems to say may be anything.
func FuzzParseFacts(f *testing.F) {
	f.Add([]byte("dir 100 ok\nholder {\"agent\":\"x\"}\ndir ? this user may not write to /\n"))
	f.Add([]byte("unknown\n"))
	f.Add([]byte("dir 99999999999999999999 ok\ndir 1 ok\ndir 1 ok\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		facts := agent.Facts{Free: -1}
		if err := parseFacts(&facts, out, []string{"/a", "/b"}); err != nil {
			return
		}
		require.Contains(t, []string{"", "/a", "/b"}, facts.Dir)
		require.GreaterOrEqual(t, facts.Free, int64(-1))
		require.LessOrEqual(t, len(facts.Unfit), 2)
	})
}
