package smbtest_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// processes are those that have the path of a server's directory in their command
// line.
func processes(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range lines {
		b, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(b), dir) {
			out = append(out, filepath.Base(filepath.Dir(name))+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// root is the directory of a server.
func root(s *smbtest.Server) string { return filepath.Dir(filepath.Dir(s.Admin())) }

// TestClose: clients, pipes, services and files that are open do not keep a server
// from ending, and nothing of it stays.
func TestClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(),
		// The client's, which waits for its user to close it.
		goleak.IgnoreAnyFunction("github.com/oiweiwei/go-msrpc/dcerpc.(*transport).Bind.func1"),
		goleak.IgnoreAnyFunction("github.com/oiweiwei/go-msrpc/dcerpc.(*transport).Bind.func2"))
	stopped := make(chan bool, 1)
	s := newServer(t, smbtest.Config{Signing: "optional", Services: &smbtest.Services{Run: func(string, []string) (func(), error) {
		return func() { stopped <- true }, nil
	}}})
	dir := root(s)
	require.NotEmpty(t, processes(t, dir))
	session := login(t, s)
	fsys, err := session.Mount("ADMIN$")
	require.NoError(t, err)
	f, err := fsys.Create("open")
	require.NoError(t, err)
	runtime.SetFinalizer(f, nil)
	_, err = f.Write(make([]byte, 100_000))
	require.NoError(t, err)
	l, err := s.Listen("agent")
	require.NoError(t, err)
	openPipe(t, session, "agent")
	far, err := l.Accept()
	require.NoError(t, err)
	openPipe(t, session, "agent") // not accepted
	_, err = s.Hold("ADMIN$", "open")
	require.NoError(t, err)
	require.NoError(t, s.Services().Add(smbtest.Service{Name: "old", State: smbtest.Running}))
	m := manager(t, s)
	h, code := m.create("agent", "x")
	require.Zero(t, code)
	require.Zero(t, m.start(h))
	accept := make(chan error, 1)
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				accept <- err
				return
			}
		}
	}()
	s.Stall(true)

	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.Len(t, stopped, 1)
	require.Error(t, <-accept)
	_, err = far.Read(make([]byte, 1))
	require.Error(t, err)
	require.Empty(t, processes(t, dir))
	require.NoDirExists(t, dir)
	require.Zero(t, s.Connections())
	require.Zero(t, s.Services().Handles())
	for _, svc := range s.Services().List() {
		require.Equal(t, smbtest.Stopped, svc.State)
	}
}

const killedVariable = "SMBTEST_KILLED"

// TestKilled: when the test process is killed its server ends by itself, with
// clients and all, and takes its directory with it.
func TestKilled(t *testing.T) {
	if os.Getenv(killedVariable) != "" {
		s := newServer(t, smbtest.Config{Signing: "optional"})
		_, err := login(t, s).Mount("ADMIN$")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(s.Admin(), "a.exe"), nil, 0o755))
		_, err = s.Pin("ADMIN$", "a.exe")
		require.NoError(t, err)
		fmt.Println("\ndir", root(s))
		time.Sleep(10 * time.Minute)
		return
	}
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), killedVariable+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	dir := ""
	var said []string
	for sc := bufio.NewScanner(out); dir == "" && sc.Scan(); {
		said = append(said, sc.Text())
		if rest, ok := strings.CutPrefix(sc.Text(), "dir "); ok {
			dir = rest
		}
	}
	running := len(processes(t, dir))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	require.NotEmpty(t, dir, "the server did not come up:\n%s", strings.Join(said, "\n"))
	require.Greater(t, running, 2) // the shell, smbd and a child of it for the client
	eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err) && len(processes(t, dir)) == 0
	}, "something is left of the server")
}

// TestOutside: smbd writes nothing outside its directory.
func TestOutside(t *testing.T) {
	seen := func() map[string]string {
		m := make(map[string]string)
		for _, dir := range []string{"/etc/samba", "/var/lib/samba", "/var/cache/samba", "/var/log/samba", "/run/samba"} {
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil {
					if fi, err := d.Info(); err == nil {
						m[path] = fmt.Sprint(fi.Size(), fi.ModTime())
					}
				}
				return nil
			})
		}
		return m
	}
	before := seen()
	s := newServer(t, smbtest.Config{})
	roundTrip(t, s, "files")
	require.NoError(t, s.Close())
	require.Equal(t, before, seen())
}
