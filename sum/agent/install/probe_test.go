package install

import (
	"os"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/stretchr/testify/require"
)

func fileTime(t *testing.T, name string) time.Time {
	t.Helper()
	fi, err := os.Stat(name)
	require.NoError(t, err)
	return fi.ModTime()
}

func TestParseProbe(t *testing.T) {
	s, err := parseProbe([]byte("os=Linux\nmachine=aarch64\nuid=1000\nhome=/home/a=b\n"))
	require.NoError(t, err)
	require.Equal(t, system{goos: "linux", goarch: "arm64", uid: 1000, home: "/home/a=b"}, s)
	s, err = parseProbe([]byte("Welcome to host!\nos=Linux\nmachine=riscv64\nuid=0\nhome=\n"))
	require.NoError(t, err)
	require.Equal(t, system{goos: "linux", goarch: "riscv64"}, s)
	for _, bad := range []string{"", "os=Linux\n", "uid=0\n", "os=Linux\nuid=x\n", "os=Linux\nuid=-1\n"} {
		_, err = parseProbe([]byte(bad))
		require.Error(t, err, "%q", bad)
	}
	for machine, want := range map[string]string{"x86_64": "amd64", "i686": "386", "armv7l": "arm", "ppc64le": "ppc64le", "loongarch64": "loong64"} {
		require.Equal(t, want, goarch(machine))
	}
}

const mounts = `/dev/sda1 / ext4 rw,relatime 0 0
/dev/sda2 /var ext4 rw,noexec 0 0
/dev/sda3 /opt ext4 ro,relatime 0 0
tmpfs /var/lib/with\040space tmpfs rw 0 0
/dev/sda4 /opt ext4 rw,noexec 0 0
broken
`

func TestMountOf(t *testing.T) {
	for dir, want := range map[string]string{
		"/var/lib/roundsman":    "/var",
		"/variable":             "/",
		"/var":                  "/var",
		"/var/lib/with space/x": "/var/lib/with space",
		"/home/x":               "/",
	} {
		m, ok := mountOf([]byte(mounts), dir)
		require.True(t, ok)
		require.Equal(t, want, m.dir, dir)
	}
	m, _ := mountOf([]byte(mounts), "/opt/roundsman")
	require.True(t, m.has("noexec"), "the later mount hides the earlier")
	require.False(t, m.has("ro"))
	_, ok := mountOf(nil, "/opt")
	require.False(t, ok)
}

func TestCandidates(t *testing.T) {
	root := system{uid: 0, home: "/root"}
	user := system{uid: 1000, home: "/home/ops"}
	require.Equal(t, []string{"/var/lib/roundsman/x", "/opt/roundsman/x"}, candidates(agent.StartOptions{ID: "x"}, root))
	require.Equal(t, []string{"/home/ops/.cache/roundsman/x"}, candidates(agent.StartOptions{ID: "x"}, user))
	require.Equal(t, []string{"/a/x", "/b/x"}, candidates(agent.StartOptions{ID: "x", BaseDirs: []string{"/a", "/b/"}}, user))
	require.Equal(t, []string{"/home/ops/.agents/x"}, candidates(agent.StartOptions{ID: "x", BaseDirs: []string{"~/.agents"}}, user))
	require.Equal(t, []string{"/q/x"}, candidates(agent.StartOptions{ID: "x", BaseDirs: []string{"/a"}, Place: &agent.Place{ID: "x", Dir: "/q/x"}}, user))
}

func TestPlacesThatMayBeSwept(t *testing.T) {
	require.True(t, validPlace(agent.Place{ID: "m1-db1", Dir: "/var/lib/roundsman/m1-db1"}, "m1-db1"))
	for _, p := range []agent.Place{
		{}, {ID: "etc", Dir: "/etc"}, {ID: "x", Dir: "/var/lib"}, {ID: "x", Dir: "lib/x"}, {ID: "x", Dir: "/lib/../etc/x"},
		{ID: "..", Dir: "/a/.."}, {ID: ".ssh", Dir: "/root/.ssh"}, {ID: "a/b", Dir: "/a/b"}, {ID: "", Dir: "/a/b/"}, {ID: "ü", Dir: "/a/ü"},
	} {
		require.False(t, validPlace(p, p.ID), "%+v", p)
	}
}

func FuzzParseProbe(f *testing.F) {
	f.Add([]byte("os=Linux\nmachine=x86_64\nuid=0\nhome=/root\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if s, err := parseProbe(out); err == nil && (s.uid < 0 || s.goos == "") {
			t.Fatalf("%+v", s)
		}
	})
}

func FuzzMountOf(f *testing.F) {
	f.Add([]byte(mounts), "/var/lib/x")
	f.Fuzz(func(t *testing.T, table []byte, dir string) {
		if m, ok := mountOf(table, dir); ok && len(m.options) == 0 {
			t.Fatal("a mount without options")
		}
	})
}

func TestParseReady(t *testing.T) {
	good := `{"version":1,"nonce":"n","network":"unix","addr":"/x/agent.sock","epoch":"e"}`
	ready, err := parseReady([]byte(good), "n")
	require.NoError(t, err)
	require.Equal(t, "/x/agent.sock", ready.Addr)
	_, err = parseReady([]byte(good), "m")
	require.Error(t, err, "of another start")
	for _, bad := range []string{
		"", "[]", `{"version":2,"nonce":"n","network":"unix","addr":"/x"}`, `{"version":1,"nonce":"n","network":"udp","addr":"/x"}`,
		`{"version":1,"nonce":"n","network":"unix","addr":"x"}`, `{"version":1,"nonce":"n","network":"tcp"}`,
	} {
		_, err = parseReady([]byte(bad), "n")
		require.Error(t, err, bad)
	}
}

func FuzzParseReady(f *testing.F) {
	f.Add([]byte(`{"version":1,"nonce":"n","network":"tcp","addr":"127.0.0.1:62286"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseReady(data, "n"); err == nil && (r.Nonce != "n" || r.Addr == "") {
			t.Fatalf("%+v", r)
		}
	})
}
