package agent

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// tempDir is t.TempDir, deleted by what Wine 8 knows.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, removeAll(dir)) })
	return dir
}

func TestWindowsLocks(t *testing.T) {
	name := filepath.Join(tempDir(t), "lock")
	_, err := lockFile(name, false)
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, f)
	other, err := lockFile(name, true)
	require.NoError(t, err)
	require.Nil(t, other, "held")
	// What it says can be read, and written, by others meanwhile.
	require.NoError(t, writeLock(f, holder{process: thisProcess()}))
	var h holder
	require.NoError(t, readJSON(name, &h))
	require.True(t, h.sure())

	// Deleted by its holder, it is another file that is locked next.
	require.NoError(t, removeFile(name))
	next, err := lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, next)
	require.NoError(t, f.Close())
	require.NoError(t, next.Close())

	a, err := shareFile(name)
	require.NoError(t, err)
	b, err := shareFile(name)
	require.NoError(t, err)
	require.False(t, tryLock(a))
	require.NoError(t, b.Close())
	require.True(t, tryLock(a))
	require.NoError(t, a.Close())
}

func TestWindowsProcesses(t *testing.T) {
	self := thisProcess()
	require.True(t, self.sure())
	require.False(t, process{self.PID, "1"}.alive(), "an earlier one with the number")
	require.NotEmpty(t, bootID())
	require.Equal(t, bootID(), bootID())
	require.NotContains(t, bootID(), ".", "it is a part of names")
	require.True(t, process{firstProcess, processStart(firstProcess)}.alive())

	// 259 is STILL_ACTIVE, and no sign of life.
	for _, code := range []int{0, 1, 259, 3221225786} {
		cmd := exec.Command(filepath.Join(windowsDir(), `System32\cmd.exe`), "/c", "exit", exitText(code))
		ownGroup(cmd)
		release, err := startGroup(cmd, newGroup())
		require.NoError(t, err)
		_ = cmd.Wait()
		got, signal := exitOf(cmd.ProcessState)
		require.Equal(t, code, got)
		require.Empty(t, signal)
		require.Empty(t, processStart(cmd.Process.Pid))
		release()
	}
}

// exitText is an exit code as cmd.exe reads it.
func exitText(code int) string {
	if code == 3221225786 {
		return "-1073741510"
	}
	return strconv.Itoa(code)
}

// A program and what it has started end together, by its number alone; one that goes on
// holds what it was given as long.
func TestWindowsGroups(t *testing.T) {
	held := filepath.Join(tempDir(t), "log")
	also, err := hold(held)
	require.NoError(t, err)
	cmd := exec.Command(filepath.Join(windowsDir(), `System32\cmd.exe`), "/c", "ping -n 600 127.0.0.1 >nul")
	cmd.ExtraFiles = []*os.File{also}
	group := newGroup()
	require.NotEqual(t, group, newGroup())
	release, err := startProgram(cmd, group)
	require.NoError(t, err)
	require.NoError(t, also.Close())
	release() // as when the shim is killed
	require.True(t, fileHeld(held))
	require.True(t, started(cmd.Process.Pid).alive())
	require.NoError(t, endGroup(cmd.Process.Pid, group, false))
	_ = cmd.Wait()
	code, _ := exitOf(cmd.ProcessState)
	require.EqualValues(t, ended, code)
	require.Eventually(t, func() bool { return !fileHeld(held) }, time.Minute, 10*time.Millisecond)
	require.NoError(t, endGroup(cmd.Process.Pid, group, true), "there is none")
}

func TestWindowsFiles(t *testing.T) {
	dir := tempDir(t)
	name := filepath.Join(dir, "log")
	f, err := openFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString("one")
	require.NoError(t, err)
	require.NoError(t, emptyFile(f))
	_, err = f.WriteString("two")
	require.NoError(t, err)
	data, err := readFile(name)
	require.NoError(t, err)
	require.Equal(t, "two", string(data), "at the end, wherever that is")
	// It can be replaced when it is closed, and its reader does not mind.
	require.NoError(t, writeJSON(name+".json", 1))
	require.NoError(t, f.Close())
	require.NoError(t, renameFile(name+".json", name))
	free, err := freeSpace(dir)
	require.NoError(t, err)
	require.Positive(t, free)
	fi, err := os.Lstat(dir)
	require.NoError(t, err)
	require.True(t, ownedByMe(dir, fi))
	require.NoError(t, keepOthersOut(dir))
	require.True(t, isNoSpace(&os.PathError{Err: windows.ERROR_DISK_FULL}))
	require.Equal(t, "win32 5", systemCode(&os.PathError{Err: windows.ERROR_ACCESS_DENIED}).String())
}

func TestWindowsPipeDeadlines(t *testing.T) {
	ln, err := listenPipe(pipeName(home(tempDir(t)), "roundsman-test-"+channel.NewJobID()))
	require.NoError(t, err)
	near, err := dialPipe(t.Context(), ln.Addr().String())
	require.NoError(t, err)
	far, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, far.SetReadDeadline(time.Now().Add(-time.Second)))
	buf := make([]byte, 10)
	_, err = far.Read(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	// One that is set while somebody reads.
	require.NoError(t, far.SetReadDeadline(time.Time{}))
	ended := make(chan error, 1)
	go func() { _, err := far.Read(buf); ended <- err }()
	require.NoError(t, far.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
	require.NoError(t, far.SetReadDeadline(time.Time{}))
	go func() { _, err := far.Read(buf); ended <- err }()
	_, err = near.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, <-ended)
	require.Equal(t, "hello", string(buf[:5]))
	go func() { _, err := near.Read(make([]byte, 1)); ended <- err }()
	require.NoError(t, near.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.NoError(t, far.Close())
	accepted := make(chan error, 1)
	go func() { _, err := ln.Accept(); accepted <- err }()
	require.NoError(t, ln.Close())
	require.ErrorIs(t, <-accepted, net.ErrClosed)
}

func TestWindowsEnvironment(t *testing.T) {
	path := searchPath(`C:\tools;.;rel`)
	require.True(t, strings.HasPrefix(path, filepath.Join(windowsDir(), "System32")+";"), path)
	require.True(t, strings.HasSuffix(path, `;C:\tools`), path)
	require.NotContains(t, path, "rel")
	prog, err := lookPath("cmd", path)
	require.NoError(t, err)
	require.Equal(t, "cmd.exe", filepath.Base(prog))
	for _, name := range []string{`..\System32\cmd.exe`, "no-such-program", "c:cmd.exe"} {
		_, err = lookPath(name, path)
		require.ErrorIs(t, err, exec.ErrNotFound, name)
	}
	env := jobEnv(`C:\job`, []string{"RM_X=1"})
	require.Contains(t, env, `TEMP=C:\job`)
	require.Contains(t, env, "RM_X=1")
}

// The restart is asked for by the API, which a test must not do.
func TestWindowsReboot(t *testing.T) {
	h := home(filepath.Join(tempDir(t), "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	require.NoError(t, h.prepare())
	s := newService(h, newLease(time.Hour), slog.New(slog.DiscardHandler))
	var said string
	var after time.Duration
	var answer error = windows.ERROR_ACCESS_DENIED
	s.restart = func(_ context.Context, message string, delay time.Duration) (bool, error) {
		return restartBy(func(message string, delay time.Duration) error {
			said, after = message, delay
			return answer
		}, message, delay)
	}
	_, err := s.Reboot(t.Context(), &channel.RebootRequest{Message: "今夜再起動\n", DelaySeconds: 90})
	var f *channel.Fault
	require.ErrorAs(t, err, &f)
	require.Equal(t, channel.CodeRefused, f.Code)
	require.Equal(t, "今夜再起動", said)
	require.Equal(t, 90*time.Second, after)
	by, err := h.hostHolder()
	require.NoError(t, err)
	require.Nil(t, by, "it was not taken")
	answer = nil
	_, err = s.Reboot(t.Context(), &channel.RebootRequest{DelaySeconds: 90})
	require.NoError(t, err)
	by, err = h.hostHolder()
	require.NoError(t, err)
	require.NotNil(t, by, "no job begins until then")
	require.False(t, by.Restart.IsZero())
}

// Where a restart is due already, whoever asked for it, no job may begin.
func TestWindowsRestartIsDue(t *testing.T) {
	for answer, taken := range map[error]bool{
		nil: true, windows.ERROR_SHUTDOWN_IS_SCHEDULED: true, windows.ERROR_SHUTDOWN_IN_PROGRESS: true,
		windows.ERROR_ACCESS_DENIED: false, windows.ERROR_NOT_READY: false,
	} {
		got, err := restartBy(func(string, time.Duration) error { return answer }, "", 0)
		require.Equal(t, taken, got, "%v", answer)
		require.Equal(t, answer == nil, err == nil, "%v", answer)
	}
}

// A job object that somebody else has made under the name of a program's does not get it.
func TestWindowsForeignGroup(t *testing.T) {
	group := newGroup()
	name, err := windows.UTF16PtrFromString(group)
	require.NoError(t, err)
	foreign, err := createJobObject(nil, name)
	require.NoError(t, err)
	defer windows.CloseHandle(foreign)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	_, err = startProgram(cmd, group)
	require.ErrorIs(t, err, windows.ERROR_ALREADY_EXISTS)
	require.Nil(t, cmd.Process, "nothing was started")
}
