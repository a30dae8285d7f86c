package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// TestWindowsInProcess: a manager on Windows is the agent of its own host.
func TestWindowsInProcess(t *testing.T) {
	for _, shim := range []bool{false, true} {
		t.Run(fmt.Sprint("shim=", shim), func(t *testing.T) {
			h := newWinHost(t)
			require.NoError(t, os.Remove(h.home.path(programName)))
			c, err := NewInProcess(t.Context(), InProcessOptions{Target: "here", Dir: string(h.home), Shim: shim})
			require.NoError(t, err)
			if !shim { // it waits a while
				_, err = NewInProcess(t.Context(), InProcessOptions{Target: "here", Dir: string(h.home)})
				require.ErrorIs(t, err, transport.ErrBusy)
			}
			job := Job{ID: channel.NewJobID(), Component: "c", Version: "1", Profile: ProfileHPEWindows, Argv: []string{"cmd.exe", "/c", "echo hello& exit 1"}}
			_, err = c.Install(t.Context(), job)
			require.NoError(t, err)
			var st Status
			h.await("the end of the job", func() bool {
				st, err = c.Status(t.Context(), job.ID, 0)
				require.NoError(t, err)
				return st.State.Final()
			})
			require.Equal(t, transport.VerdictApplied, st.Result.Verdict, "%+v", st)
			require.Equal(t, "hello\r\n", string(st.Log))
			h.await("the end of its directory", func() bool {
				_, err := os.Stat(h.home.jobDir(job.ID))
				return os.IsNotExist(err)
			})

			// One that runs on when its manager has gone.
			gate := h.home.path("gate")
			require.NoError(t, os.WriteFile(gate, nil, 0o600))
			job = h.command(gate)
			_, err = c.Install(t.Context(), job)
			require.NoError(t, err)
			h.await("the job", func() bool {
				st, err = c.Status(t.Context(), job.ID, 0)
				require.NoError(t, err)
				return strings.Contains(string(st.Log), "begun")
			})
			require.NoError(t, c.Close(t.Context()))
			_, err = Remove(t.Context(), string(h.home))
			require.ErrorIs(t, err, ErrJobRunning)
			require.NoError(t, os.Remove(gate))
			h.await("the end of the job", func() bool { return len(h.home.busy()) == 0 })
			var left []string
			h.await("the end of the shim", func() bool {
				left, err = Remove(t.Context(), string(h.home))
				return err == nil
			})
			require.Len(t, left, 5, "agent.log, and a record and a log of each job")
			require.Len(t, h.files(), 5, h.files())
			left, err = Remove(t.Context(), filepath.Join(string(h.home), "none"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// TestWindowsFirewallMark: rules of the firewall of Windows outlive a boot, and so does the
// mark that there are some. Whoever had it is dead then.
func TestWindowsFirewallMark(t *testing.T) {
	require.Equal(t, windowsDir(), filepath.Dir(wallsMark()), "no directory that is emptied when Windows starts")
	name := filepath.Join(tempDir(t), "mark")
	mark, err := markWalls(t.Context(), name)
	require.NoError(t, err)
	busy, err := lockFile(name, false)
	require.NoError(t, err)
	require.Nil(t, busy, "somebody lives who has it")
	require.NoError(t, mark.Close()) // as when its process is killed, or the host restarts
	require.FileExists(t, name)
	mark, err = lockFile(name, false)
	require.NoError(t, err)
	require.NotNil(t, mark, "to be swept")
	unmarkWalls(mark, false)
	require.FileExists(t, name, "it was not swept")
	mark, err = lockFile(name, false)
	require.NoError(t, err)
	unmarkWalls(mark, true)
	require.NoFileExists(t, name)
}

// standInBDE answers by the files of its directory: with the code in the file "disable" when
// it is to suspend, and else whether there is the file "protected".
func standInBDE() int {
	self, _ := os.Executable()
	dir := filepath.Dir(self)
	if os.Args[1] != "-protectors" {
		if _, err := os.Stat(filepath.Join(dir, "protected")); err == nil {
			return 0
		}
		return 1
	}
	fmt.Println("ERROR: as the test said")
	data, err := os.ReadFile(filepath.Join(dir, "disable"))
	if err != nil {
		_ = os.Remove(filepath.Join(dir, "protected"))
		return 0
	}
	code, _ := strconv.Atoi(string(data))
	return code
}

// TestWindowsBitLocker: its exit codes are HRESULTs.
func TestWindowsBitLocker(t *testing.T) {
	b := thisBitLocker()
	require.Equal(t, "C:", b.drive)
	require.Equal(t, filepath.Join(windowsDir(), `System32\manage-bde.exe`), b.tool)
	if _, err := os.Stat(b.tool); err != nil {
		said, err := b.suspend(t.Context())
		require.NoError(t, err)
		require.Contains(t, said, "not installed")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	dir := tempDir(t)
	b.tool = filepath.Join(dir, "manage-bde.exe")
	require.NoError(t, copyFile(b.tool, self, 0o700, io.Discard))
	protected, disable := filepath.Join(dir, "protected"), filepath.Join(dir, "disable")
	for _, c := range []struct {
		code, says, fails string
	}{
		{"", "is suspended until", ""},
		{"-2144272383", "is off on C:", ""},
		{"-2147024891", "", "0x80070005): ERROR: as the test said"},
		{"0", "", "C: is protected still"},
	} {
		require.NoError(t, os.WriteFile(protected, nil, 0o600))
		if c.code != "" {
			require.NoError(t, os.WriteFile(disable, []byte(c.code), 0o600))
		}
		said, err := b.suspend(t.Context())
		if c.fails != "" {
			require.ErrorContains(t, err, c.fails)
			continue
		}
		require.NoError(t, err)
		require.Contains(t, said, c.says)
	}
	require.NoError(t, os.Remove(protected))
	said, err := b.suspend(t.Context())
	require.NoError(t, err)
	require.Contains(t, said, "does not protect")
}
