package agentless

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// fullDiskVariable names the disk of a copy of the test program that has one of
// its own, in a mount namespace of its own.
const fullDiskVariable = "ROUNDSMAN_FULLDISK"

// TestFullDisk: the result of a job is recorded on a disk that is full, and a job
// whose result would have no room does not begin. With different shells and tools.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDiskVariable); dir != "" {
		testFullDisk(t, dir)
		return
	}
	t.Parallel()
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	self, err := os.Executable()
	require.NoError(t, err)
	for _, shell := range []string{"sh", "busybox", "mksh"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			dir, bin := t.TempDir(), t.TempDir()
			tools := []string{"sh"}
			if shell == "busybox" {
				tools = append(tools, "dd", "head", "tail", "wc", "mv", "rm", "cp", "mkdir", "cat", "date", "sed")
			}
			for _, tool := range tools {
				require.NoError(t, os.Symlink(realtest.Need(t, shell), filepath.Join(bin, tool)))
			}
			cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-ec", `
				mount -t tmpfs -o size=2m none "$1"; shift; PATH=$1:$PATH; shift; exec "$@"`, "sh", dir, bin, self, "-test.run=^TestFullDisk$", "-test.v")
			cmd.Env = append(os.Environ(), fullDiskVariable+"="+dir)
			runtime.LockOSThread() // see prctl(2), PR_SET_PDEATHSIG
			defer runtime.UnlockOSThread()
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			t.Logf("%s", out)
		})
	}
}

func testFullDisk(t *testing.T, dir string) {
	filler := filepath.Join(dir, "filler")
	// fill leaves so many bytes on the disk.
	fill := func(t *testing.T, leave int64) {
		t.Helper()
		f, err := os.OpenFile(filler, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		require.NoError(t, err)
		defer f.Close()
		t.Cleanup(func() { _ = os.Remove(filler) })
		for buf := make([]byte, 64<<10); len(buf) > 0; {
			if _, err = f.Write(buf); err != nil {
				buf = buf[:len(buf)/2]
			}
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		fi, err := f.Stat()
		require.NoError(t, err)
		require.NoError(t, f.Truncate(fi.Size()-leave))
	}
	// begin is a job whose program runs until open is called.
	begin := func(t *testing.T, limit time.Duration) (l *lab, a agent.Agent, job agent.Job, open func()) {
		l = newLab(t)
		l.base = filepath.Join(dir, filepath.Base(t.Name()))
		a = l.start(0)
		gate := filepath.Join(t.TempDir(), "gate")
		// Without files, so that what is laid out gives no room back.
		job = agent.Job{ID: channel.NewJobID(), Component: "thing", Version: "1", Profile: agent.ProfileZeroOK, Timeout: limit, Argv: []string{"sh", "-c",
			`echo begun; n=0; until [ -e "$1" ] || [ $n = 900 ]; do n=$((n+1)); sleep 0.1; done; echo ended; exit 3`, "sh", gate}}
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			st, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			return len(st.Log) > 0
		}, time.Minute, 20*time.Millisecond)
		return l, a, job, func() { require.NoError(t, os.WriteFile(gate, nil, 0o600)) }
	}
	failed := func(t *testing.T, st agent.Status) {
		t.Helper()
		require.Equal(t, agent.Done, st.State)
		require.Equal(t, &transport.Exit{Code: 3}, st.Exit)
		require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	}
	t.Run("end", func(t *testing.T) {
		l, a, job, open := begin(t, 0)
		fill(t, 0)
		open()
		st, _ := l.end(a, job.ID)
		failed(t, st)
		// It stays when everything else goes.
		left, err := a.Remove(t.Context())
		require.NoError(t, err)
		require.Len(t, left, 2)
		record, err := os.ReadFile(filepath.Join(l.base, "lab/jobs", job.ID+".json"))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(record), `{"id":"`+job.ID+`","state":"done","exit":"3 `), "%q", record)
		require.True(t, strings.HasSuffix(string(record), "}\n"), "%q", record)
		l.onlyLogs()
	})
	// Where what was taken does not help, as on file systems that copy on write.
	t.Run("end without the room", func(t *testing.T) {
		l, a, job, open := begin(t, time.Hour)
		at := filepath.Join(l.base, "lab/jobs", job.ID)
		require.NoError(t, os.Remove(filepath.Join(at, "json.room")))
		require.NoError(t, os.Remove(filepath.Join(at, "exit.room")))
		fill(t, 0)
		open()
		require.Eventually(t, func() bool { _, err := os.Stat(at + "/work"); return os.IsNotExist(err) }, time.Minute, time.Millisecond)
		// The time that it waits does not count as the program's: nobody watches that
		// any more.
		ours, err := os.ReadFile(at + "/ours")
		require.NoError(t, err)
		require.Eventually(t, func() bool { _, err := os.Stat("/proc/" + strings.Fields(string(ours))[1]); return os.IsNotExist(err) }, time.Minute, 10*time.Millisecond)
		for range 3 {
			st, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			require.Equal(t, agent.Running, st.State)
			_, err = a.Remove(t.Context())
			require.ErrorIs(t, err, agent.ErrJobRunning)
		}
		require.NoError(t, os.Remove(filler))
		st, _ := l.end(a, job.ID)
		failed(t, st)
		_, err = a.Remove(t.Context())
		require.NoError(t, err)
		l.onlyLogs()
	})
	t.Run("refused", func(t *testing.T) {
		l := newLab(t)
		l.base = filepath.Join(dir, filepath.Base(t.Name()))
		a := l.start(0)
		job := l.job(a, "echo begun")
		for _, leave := range []int64{0, 4 << 10, 8 << 10} {
			fill(t, leave)
			_, err := a.Install(t.Context(), job)
			require.ErrorIs(t, err, transport.ErrNoSpace)
			require.ErrorContains(t, err, l.base)
			entries, err := os.ReadDir(filepath.Join(l.base, "lab/jobs"))
			require.NoError(t, err)
			require.Empty(t, entries)
		}
		// It was not begun, and so may be tried again.
		require.NoError(t, os.Remove(filler))
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		st, log := l.end(a, job.ID)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
		require.Equal(t, "begun\n", log)
		_, err = a.Remove(t.Context())
		require.NoError(t, err)
		l.onlyLogs()
	})
	// The program of a job that has its room does not begin where the disk is full by
	// then: here, as the job takes the host.
	t.Run("full before the program", func(t *testing.T) {
		l := newLab(t)
		l.base = filepath.Join(dir, filepath.Base(t.Name()))
		a := l.start(0)
		job := l.job(a, "echo begun")
		t.Cleanup(func() { _ = os.Remove(filler) })
		date, err := exec.LookPath("date")
		require.NoError(t, err)
		bin := t.TempDir()
		require.NoError(t, os.WriteFile(bin+"/date", []byte("#!/bin/sh\nif [ \"$1\" = -u ]; then dd if=/dev/zero of="+filler+" bs=4096 2>/dev/null; fi\nexec "+date+" \"$@\"\n"), 0o755))
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		_, err = a.Install(t.Context(), job)
		require.NoError(t, err)
		st, log := l.end(a, job.ID)
		require.FileExists(t, filler)
		require.Equal(t, agent.Done, st.State)
		require.Nil(t, st.Exit)
		require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
		require.Contains(t, st.Result.Text, "the program was not started")
		require.NotContains(t, log, "begun")
		_, err = a.Remove(t.Context())
		require.NoError(t, err)
		l.onlyLogs()
	})
	t.Run("no directory", func(t *testing.T) {
		l := newLab(t)
		l.base = filepath.Join(dir, filepath.Base(t.Name()))
		fill(t, 4<<10)
		_, err := (&Installer{}).Start(t.Context(), l.conn, agent.StartOptions{Target: "here", ID: "other", BaseDirs: []string{l.base}})
		require.ErrorIs(t, err, transport.ErrNoSpace)
		require.ErrorContains(t, err, l.base)
	})
}
