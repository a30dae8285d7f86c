package local_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// platform says what the suite finds on Windows, and what it cannot.
func platform(h *transporttest.Harness) {
	h.Names = []string{"two words", "$HOME", "-rf", "--", "a;b&c", "(paren){brace}", "~", "#hash", "%41", "größe-日本語", ".hidden", "..twodots"}
	h.Skip["files/mode"] = "Windows has no such permissions"
	h.Skip["run/arguments"] = "command lines of Windows are text: bytes that are no UTF-8 do not pass"
	h.Programs = transporttest.Programs{
		Args:  func(args ...string) []string { return helper("args", args...) },
		Cat:   func() []string { return helper("cat") },
		Errs:  func() []string { return helper("errs") },
		Exit:  func(code int) []string { return helper("exit", strconv.Itoa(code)) },
		Env:   func(name string) []string { return helper("env", name) },
		Zeros: func(n int64) []string { return helper("zeros", strconv.FormatInt(n, 10)) },
		Sleep: func() []string { return helper("sleep") },
		Alive: func(id string) []string { return helper("alive", id) },
	}
	conn, err := h.Transport.Dial(ctx(), h.Endpoint)
	if err == nil && !conn.Caps().Has(transport.CapTunnelUnix) {
		h.Caps &^= transport.CapTunnelUnix // an older Windows
		delete(h.Skip, "tunnel-unix/cut")
	}
}

func systemHelpers() map[string]func([]string) error {
	return map[string]func([]string) error{"alive": aliveHelper, "parent": parentHelper, "leaver": leaverHelper}
}

func onDisk(name string) string { return filepath.FromSlash(strings.TrimPrefix(name, "/")) }

// aliveHelper ends with status 0 while a process runs.
func aliveHelper(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	h, err := syscall.OpenProcess(syscall.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return err
	}
	event, err := syscall.WaitForSingleObject(h, 0)
	if err == nil && event != syscall.WAIT_TIMEOUT {
		os.Exit(1)
	}
	return err
}

func TestNames(t *testing.T) {
	conn := dial(t)
	fi, err := transport.Stat(t.Context(), conn, "/C:/windows/../windows/system32")
	require.NoError(t, err)
	require.Equal(t, `C:\windows\system32`, fi.Native)
	for _, name := range []string{
		"", "/", "windows", "/windows", "//server/share", `C:\windows`, "/C:/windows:stream", "/C:/NUL", "/C:/x/COM1", "/C:/dot.",
		"/C:/space ", "/C:/a\x00b", "/C:/a?b", "/1:/x",
	} {
		_, err := transport.Stat(t.Context(), conn, name)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", name)
	}
	require.ErrorIs(t, transport.Remove(t.Context(), conn, "/C:"), transport.ErrInvalid)
}

func TestIdentify(t *testing.T) {
	id, err := dial(t).Identify(t.Context())
	require.NoError(t, err)
	t.Logf("%+v", id)
	require.Equal(t, "windows", id.OS)
	require.NotEmpty(t, id.Name)
	require.Regexp(t, `^\d+\.\d+\.\d+$`, id.Kernel)
	require.NotEmpty(t, id.Version)
}

// TestJobEnds: what a program started ends with it, unless it was started to leave.
func TestJobEnds(t *testing.T) {
	child := endedParent(t, "parent")
	await(t, "the end of the child", func() bool { return exec.Command(os.Args[0], helper("alive", child)[1:]...).Run() != nil })
	child = endedParent(t, "leaver")
	require.NoError(t, exec.Command(os.Args[0], helper("alive", child)[1:]...).Run(), "it left")
	pid, err := strconv.Atoi(child)
	require.NoError(t, err)
	p, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, p.Kill())
}

// endedParent runs a helper that starts a child, and cancels it when it has. It returns the
// child's number.
func endedParent(t *testing.T, parent string) string {
	t.Helper()
	conn := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: helper(parent), Stdout: w})
		_ = w.Close() // also where no child was started
		done <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	child := strings.TrimSpace(line)
	require.NoError(t, exec.Command(os.Args[0], helper("alive", child)[1:]...).Run())
	cancel()
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-done, context.Canceled)
	return child
}

// parentHelper starts a program that runs for minutes and waits for it.
func parentHelper([]string) error { return parentOf(0) }

// leaverHelper is a parentHelper whose child is not to end with it.
func leaverHelper([]string) error { return parentOf(0x01000000) } // CREATE_BREAKAWAY_FROM_JOB

func parentOf(flags uint32) error {
	time.Sleep(time.Second) // for the job, which a program that is quicker may escape
	cmd := exec.Command(os.Args[0], helper("sleep")[1:]...)
	cmd.Stdout, cmd.SysProcAttr = os.Stdout, &syscall.SysProcAttr{CreationFlags: flags}
	return cmd.Run()
}
