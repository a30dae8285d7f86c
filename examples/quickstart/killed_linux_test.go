package main

import (
	"bufio"
	"io"
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

// program starts the quickstart as a process of a user, with a directory for temporary
// files of its own.
func program(t *testing.T, file string, uid int) (cmd *exec.Cmd, out io.Reader, tmp string) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "quickstart-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	cmd = exec.Command(file)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+tmp)
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
	return cmd, r, tmp
}

// TestInterrupted and TestKilled: wherever the program ends, and in whatever way, nothing
// of Samba or Wine goes on to run, and no directory of theirs is left.
func TestInterrupted(t *testing.T) { end(t, "  Linux ", syscall.SIGINT) }

func TestKilled(t *testing.T) { end(t, "  win    setup.exe ", syscall.SIGKILL) }

// end sends a signal at a line of the output.
func end(t *testing.T, at string, sig syscall.Signal) {
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	if err := lacks(t.Context()); err != nil {
		realtest.Missing(t, err.Error())
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd, out, tmp := program(t, self, os.Getuid())
	sc, said := bufio.NewScanner(out), ""
	for found := false; !found; found = strings.HasPrefix(sc.Text(), at) {
		require.Truef(t, sc.Scan(), "no line begins with %q:\n%s", at, said)
		said += sc.Text() + "\n"
	}
	if sig == syscall.SIGINT { // while Wine starts
		require.Eventually(t, func() bool {
			files, _ := filepath.Glob(filepath.Join(tmp, "roundsman-wine-*", "prefix", "drive_c"))
			return len(files) > 0
		}, time.Minute, 10*time.Millisecond)
	}
	require.NoError(t, cmd.Process.Signal(sig))
	for sc.Scan() {
		said += sc.Text() + "\n"
	}
	require.Error(t, cmd.Wait(), said)
	t.Log(said)
	if sig == syscall.SIGINT {
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), said)
	}
	requireNothing(t, tmp)
}

// TestOrdinaryUser: without root rights all runs but the Windows server, which says so.
func TestOrdinaryUser(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts agents")
	}
	realtest.NeedRoot(t) // to become another
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
	cmd, out, _ := program(t, file, nobody)
	said, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait(), string(said))
	why := without.FindStringSubmatch(string(said))
	require.NotNil(t, why, string(said))
	if !strings.HasPrefix(why[1], "missing: ") {
		require.Equal(t, "smbd needs root rights", why[1])
	}
	require.Contains(t, string(said), "\nEverything as it should be")
}
