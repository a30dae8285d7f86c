package agent

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// standInMSIExec tells how msiexec.exe is called.
func standInMSIExec() int {
	_, _ = os.Stdout.WriteString(windows.UTF16PtrToString(windows.GetCommandLine()))
	return 0
}

// winShim is a shim of a job whose program is this one under another name.
func winShim(t *testing.T, program string, args ...string) *shim {
	t.Helper()
	h := home(filepath.Join(tempDir(t), "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	require.NoError(t, h.prepare())
	tools := tempDir(t)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, copyFile(filepath.Join(tools, program), self, 0o700, io.Discard))
	j := Job{ID: channel.NewJobID(), Component: "c", Version: "1", Profile: ProfileMSI, Argv: append([]string{filepath.Join(tools, program)}, args...)}
	s := &shim{home: h, id: j.ID, grace: killGrace, log: slog.New(slog.DiscardHandler)}
	require.NoError(t, os.Mkdir(s.dir(), 0o700))
	require.NoError(t, writeJSON(s.spec(), j))
	require.NoError(t, h.writeRecord(record{Version: fileVersion, ID: j.ID, Digest: jobDigest(j), Component: "c", Release: "1", State: Accepted, Argv: j.Argv}))
	return s
}

func TestWindowsMSIExec(t *testing.T) {
	s := winShim(t, "msiexec.exe", "/i", "{dir}/a b.msi", `INSTALLDIR=C:\Program Files\x`)
	require.NoError(t, s.run(t.Context()))
	rec, err := s.home.readRecord(s.id)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, rec.Result.Verdict, rec.Result)
	require.NotEmpty(t, rec.Group)
	require.Contains(t, rec.Result.Text, ` /i "`+s.work()+`\a b.msi" INSTALLDIR="C:\Program Files\x"`)
}

// What an installer left has the job's directory open: the job is over all the same.
func TestWindowsDirectoryStays(t *testing.T) {
	s := winShim(t, "msiexec.exe")
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	f, err := os.Create(filepath.Join(s.dir(), "open")) // without FILE_SHARE_DELETE
	require.NoError(t, err)
	require.NoError(t, s.run(t.Context()))
	rec, err := s.home.readRecord(s.id)
	require.NoError(t, err)
	require.Equal(t, Done, rec.State)
	require.DirExists(t, s.dir())
	require.Contains(t, log.String(), "the directory of a job stays")
	require.NoError(t, f.Close())
	s.home.tidy()
	require.NoDirExists(t, s.dir())
}

// The host is held until Windows Installer is free.
func TestWindowsInstallerRuns(t *testing.T) {
	require.False(t, installerRuns())
	name, err := windows.UTF16PtrFromString(installerMutex)
	require.NoError(t, err)
	ended, free := make(chan error, 1), make(chan struct{})
	held := make(chan windows.Handle)
	go func() { // its owner is a thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		h, err := windows.CreateMutex(nil, true, name)
		held <- h
		<-free
		if err == nil {
			err = windows.ReleaseMutex(h)
		}
		ended <- err
	}()
	h := <-held
	defer windows.CloseHandle(h)
	require.True(t, installerRuns())
	s := &shim{log: slog.New(slog.DiscardHandler)}
	asked := 0
	s.awaitInstaller(func() bool {
		runs := installerRuns()
		if asked++; asked == 2 {
			require.True(t, runs)
			close(free)
			require.NoError(t, <-ended)
		}
		return runs
	})
	require.GreaterOrEqual(t, asked, 3)
	require.False(t, installerRuns(), "it is there, and nobody has it")
}

func TestWindowsListedProcess(t *testing.T) {
	want, err := lookAtProcess(os.Getpid())
	require.NoError(t, err)
	got, err := listedProcess(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = listedProcess(1)
	require.NoError(t, err)
	require.Empty(t, got, "there is none")
}

func TestWindowsPatience(t *testing.T) {
	for err, limit := range map[error]time.Duration{
		windows.ERROR_SHARING_VIOLATION: patience, windows.ERROR_ACCESS_DENIED: deniedPatience, windows.ERROR_FILE_NOT_FOUND: 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			require.ErrorIs(t, patiently(func() error { return err }), err)
			require.GreaterOrEqual(t, time.Since(begun), limit, err)
			require.LessOrEqual(t, time.Since(begun), limit+100*time.Millisecond, err)
		})
	}
}

// Output in the code page of the console becomes text; UTF-8 stays, also cut.
func TestWindowsOutputCodePage(t *testing.T) {
	for _, s := range []string{"", "plain", "Grüße", "Grüße"[3:], "Grüße"[:3], "漢字"[1:4]} {
		require.Equal(t, s, string(printed([]byte(s))))
	}
	wide, err := windows.UTF16FromString("Grüße")
	require.NoError(t, err)
	oem := make([]byte, 16)
	n, _, err := windows.NewLazySystemDLL("kernel32.dll").NewProc("WideCharToMultiByte").Call(1, 0,
		uintptr(unsafe.Pointer(&wide[0])), 5, uintptr(unsafe.Pointer(&oem[0])), uintptr(len(oem)), 0, 0)
	require.NotZero(t, n, err)
	require.NotEqual(t, "Grüße", string(oem[:n]))
	require.Equal(t, "Grüße", string(printed(oem[:n])))
}

// A process that must outlive this one leaves the job object that this one is in.
func TestWindowsDetached(t *testing.T) {
	const role = "ROUNDSMAN_TEST_DETACH"
	if os.Getenv(role) != "" {
		cmd, confined, err := startDetached(exec.Command(filepath.Join(windowsDir(), `System32\cmd.exe`), "/c", "ping -n 600 127.0.0.1 >nul"))
		require.NoError(t, err)
		require.False(t, confined)
		require.NoError(t, os.WriteFile(os.Getenv(role), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
		return
	}
	name := filepath.Join(tempDir(t), "pid")
	cmd := exec.Command(os.Args[0], "-test.run=^TestWindowsDetached$")
	cmd.Env = append(os.Environ(), role+"="+name)
	ownGroup(cmd)
	release, err := startGroup(cmd, "") // lets who asks leave
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	release() // ends who is in there
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(data))
	require.NoError(t, err)
	require.True(t, started(pid).alive())
	require.NoError(t, endProcess(pid))
}
