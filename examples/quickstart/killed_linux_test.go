package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// started is the quickstart as a process, with a directory for temporary files of its own.
type started struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Scanner
	said string
	tmp  string
}

// start starts the test's program, or a copy of it, as a user.
func start(t *testing.T, file string, uid int, tmp string, env ...string) *started {
	t.Helper()
	cmd := exec.Command(file)
	cmd.Env = append(append(os.Environ(), asProgram+"=1", "TMPDIR="+tmp), env...)
	if uid != os.Getuid() {
		require.NoError(t, os.Chown(tmp, uid, uid))
		cmd.Env = append(cmd.Env, "HOME="+tmp)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &started{t: t, cmd: cmd, out: bufio.NewScanner(r), tmp: tmp}
}

// temporary makes a directory whose name is short enough for sockets.
func temporary(t *testing.T) string {
	t.Helper()
	tmp, err := os.MkdirTemp("", "quickstart-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	return tmp
}

// until reads to a line that begins in a way.
func (s *started) until(begin string) {
	s.t.Helper()
	for found := false; !found; found = strings.HasPrefix(s.out.Text(), begin) {
		require.Truef(s.t, s.out.Scan(), "no line begins with %q:\n%s", begin, s.said)
		s.said += s.out.Text() + "\n"
	}
}

// end reads all, and returns the exit status, which is -1 after a signal.
func (s *started) end() int {
	s.t.Helper()
	for s.out.Scan() {
		s.said += s.out.Text() + "\n"
	}
	_ = s.cmd.Wait()
	s.t.Log(s.said)
	return s.cmd.ProcessState.ExitCode()
}

// noWindows keeps a quickstart from having a Windows server: see wine(1).
const noWindows = "WINELOADER=/nonexistent/wine64"

// withWindows is the test's program, as long as there can be a Windows server.
func withWindows(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	if err := lacks(t.Context()); err != nil {
		realtest.Missing(t, err.Error())
	}
	self, err := os.Executable()
	require.NoError(t, err)
	return self
}

// TestInterrupted: where SIGINT comes while Wine starts, the program says so, nothing of it
// goes on to run, and no file is left.
func TestInterrupted(t *testing.T) {
	self := withWindows(t)
	t.Parallel()
	s := start(t, self, os.Getuid(), temporary(t))
	s.until("  Linux ")
	require.Eventually(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(s.tmp, "roundsman-wine-*", "prefix", "drive_c"))
		return len(files) > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, s.end())
	require.True(t, strings.HasSuffix(s.said, "\n\nInterrupted: what was started is being ended\nquickstart: interrupted\n"), "nothing else is said")
	requireNothing(t, s.tmp)
}

// TestInterruptedUpdate: the same while devices are updated, which is told, and in the
// session that ends nothing of it is left on them.
func TestInterruptedUpdate(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts agents")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for _, at := range []string{"  ilo    upload  20%", "  flex   flash "} {
		t.Run(strings.Join(strings.Fields(at)[:2], " "), func(t *testing.T) {
			t.Parallel()
			s := start(t, self, os.Getuid(), temporary(t), noWindows)
			s.until(at)
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
			require.Equal(t, 130, s.end())
			require.Contains(t, s.said, "\nInterrupted: what was started is being ended\n")
			for _, name := range []string{"ilo ", "flex"} {
				require.Contains(t, s.said, "\n  "+name+"   no session, no subscription, no component and no task\n")
			}
			_, errs, _ := strings.Cut(s.said, "\nquickstart: interrupted\n")
			// Of a push that was not at its end there is nothing to know.
			for line := range strings.Lines(errs) {
				require.Regexp(t, `^((ilo|flex): .* the result of update [0-9a-f]+ is not known; recover fetches it|quickstart: a real device would go on .*)\n$`, line)
			}
			require.Equal(t, errs != "", strings.Contains(errs, "quickstart: a real device "))
			requireNothing(t, s.tmp)
		})
	}
}

// TestKilled: after SIGKILL no process of the lab goes on to run, or not for longer than an
// agent's lease; the next start removes the directory.
func TestKilled(t *testing.T) {
	self := withWindows(t)
	t.Parallel()
	s := start(t, self, os.Getuid(), temporary(t))
	s.until("  win    setup.exe ")
	require.NoError(t, s.cmd.Process.Kill())
	require.Equal(t, -1, s.end())
	dirs, err := filepath.Glob(filepath.Join(s.tmp, scratchPrefix+"*"))
	require.NoError(t, err)
	require.Len(t, dirs, 2)
	requireNothing(t, s.tmp, dirs...)

	again := start(t, self, os.Getuid(), s.tmp, noWindows)
	again.until("Lab: ")
	require.NoError(t, again.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, again.end())
	requireNothing(t, s.tmp)
}

// TestOrdinaryUser: without root rights all runs but the Windows server, which says so.
func TestOrdinaryUser(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts agents")
	}
	realtest.NeedRoot(t) // to become another
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	data, err := os.ReadFile(self)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "quickstart-user-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	file := filepath.Join(dir, "quickstart")
	require.NoError(t, os.WriteFile(file, data, 0o755))
	const nobody = 65534
	s := start(t, file, nobody, temporary(t))
	require.Zero(t, s.end())
	why := without.FindStringSubmatch(s.said)
	require.NotNil(t, why, s.said)
	if !strings.HasPrefix(why[1], "missing: ") {
		require.Equal(t, "smbd needs root rights", why[1])
	}
	require.Contains(t, s.said, "\nEverything as it should be")
	for _, name := range []string{"ilo ", "flex"} {
		require.Contains(t, s.said, "\n  "+name+"   Updated ")
	}
}
