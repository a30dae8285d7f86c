package agentless

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
)

// lab is a directory of this host, and a connection to it.
type lab struct {
	t    *testing.T
	conn transport.Conn
	base string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	realtest.Need(t, "setsid")
	conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return &lab{t, conn, filepath.Join(dir, "base")}
}

func (l *lab) start(lease time.Duration) agent.Agent {
	l.t.Helper()
	a, err := (&Installer{}).Start(l.t.Context(), l.conn, agent.StartOptions{
		Target: "here", ID: "lab", BaseDirs: []string{l.base}, Lease: lease,
		Opened: func(context.Context, agent.Place) error { return nil }})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { require.NoError(l.t, a.Close(context.Background())) })
	return a
}

// job stages a script and returns the job that runs it.
func (l *lab) job(a agent.Agent, script string) agent.Job {
	l.t.Helper()
	f := transport.BytesFile("run.sh", []byte("#!/bin/sh\n"+script))
	_, err := a.Stage(l.t.Context(), f, nil)
	require.NoError(l.t, err)
	return agent.Job{ID: channel.NewJobID(), Component: "thing", Version: "1", Profile: agent.ProfileZeroOK, Argv: []string{"./run.sh", "it's", "{dir}"},
		Files: []agent.JobFile{{Name: "run.sh", SHA256: f.Digest(), Size: f.Size, Executable: true}}}
}

// end waits for the end of a job and returns its whole log.
func (l *lab) end(a agent.Agent, id string) (agent.Status, string) {
	l.t.Helper()
	var st agent.Status
	var log strings.Builder
	require.Eventually(l.t, func() bool {
		var err error
		st, err = a.Status(l.t.Context(), id, int64(log.Len()))
		require.NoError(l.t, err)
		log.Write(st.Log)
		return st.State.Final() && len(st.Log) == 0
	}, time.Minute, 50*time.Millisecond)
	return st, log.String()
}

// processes are those that work in the lab.
func (l *lab) processes() []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(dir + "/cmdline")
		cwd, _ := os.Readlink(dir + "/cwd")
		if bytes.Contains(args, []byte(l.base)) || strings.HasPrefix(cwd, l.base) {
			out = append(out, dir+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte(" "))))
		}
	}
	return out
}

// onlyLogs checks that nothing is left but logs, and nothing runs.
func (l *lab) onlyLogs() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.processes()) == 0 }, time.Minute, 20*time.Millisecond)
	require.NoError(l.t, filepath.WalkDir(l.base, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			require.True(l.t, filepath.Base(filepath.Dir(path)) == "jobs" && isLog(filepath.Base(path)), "left behind: %s", path)
		}
		return nil
	}))
}

func TestWholeLife(t *testing.T) {
	l := newLab(t)
	a := l.start(0)
	secret := "canary " + strings.Repeat("'\"$(x)\n", 50)
	job := l.job(a, `printf '%s\n' "$1" "$2" "$PWD" "$RM_SECRET" "$DEBIAN_FRONTEND" "${LEAK-none}"; umask
for p in /proc/[0-9]*; do { tr '\0' ' ' <$p/cmdline; } 2>/dev/null; echo; done | grep -c 'canar[y] '; echo error >&2; exit 7`)
	job.Env = []string{"RM_SECRET=" + secret, "LANG=de_DE.UTF-8"}
	t.Setenv("LEAK", "leaked")
	first, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, job.ID, first.ID)
	st, log := l.end(a, job.ID)
	work := filepath.Join(l.base, "lab/jobs", job.ID, "work")
	require.Equal(t, "it's\n"+work+"\n"+work+"\n"+secret+"\nnoninteractive\nnone\n0022\n0\nerror\n", log)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, &transport.Exit{Code: 7}, st.Exit)
	require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	require.Contains(t, st.Result.Text, "error")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(boot)), st.BootID)

	// The same job is not run again, another with its ID is refused.
	again, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, agent.Done, again.State)
	job.Version = "2"
	_, err = a.Install(t.Context(), job)
	require.ErrorIs(t, err, agent.ErrJobConflict)
	_, err = a.Status(t.Context(), channel.NewJobID(), 0)
	require.ErrorIs(t, err, agent.ErrNoJob)
	missing := l.job(a, "")
	missing.ID, missing.Files[0].SHA256 = channel.NewJobID(), strings.Repeat("0", 64)
	_, err = a.Install(t.Context(), missing)
	require.ErrorIs(t, err, os.ErrNotExist)

	jobs, err := a.Jobs(t.Context())
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	logs, err := a.Logs(t.Context())
	require.NoError(t, err)
	require.Len(t, logs, 2)
	var copied bytes.Buffer
	require.NoError(t, a.Log(t.Context(), job.ID+".log", &copied))
	require.Equal(t, log, copied.String())
	require.ErrorIs(t, a.Log(t.Context(), "../agentless", &copied), os.ErrNotExist)

	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 2)
	l.onlyLogs()
	_, err = a.Status(t.Context(), job.ID, 0)
	require.ErrorIs(t, err, transport.ErrClosed)
}

// TestEnds: how a program ends that is not left to itself.
func TestEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := l.start(0)
	begin := func(script string, change func(*agent.Job)) string {
		job := l.job(a, "echo begun; "+script)
		if change != nil {
			change(&job)
		}
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			st, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			return len(st.Log) > 0
		}, time.Minute, 20*time.Millisecond)
		return job.ID
	}
	t.Run("cancelled", func(t *testing.T) {
		id := begin("sleep 600 & wait", nil)
		_, err := a.Remove(t.Context())
		require.ErrorIs(t, err, agent.ErrJobRunning)
		require.ErrorIs(t, a.Reboot(t.Context(), transport.RebootOptions{}), agent.ErrJobRunning)
		_, err = a.Cancel(t.Context(), id)
		require.NoError(t, err)
		st, _ := l.end(a, id)
		require.Equal(t, agent.Cancelled, st.State)
		require.Equal(t, &transport.Exit{Code: 128 + 15}, st.Exit)
		require.Equal(t, transport.VerdictUnknown, st.Result.Verdict)
	})
	t.Run("deaf", func(t *testing.T) { // and so are its children
		id := begin("trap '' TERM; (sleep 600; echo late) & sleep 600", nil)
		require.Eventually(t, func() bool {
			st, err := a.Cancel(t.Context(), id)
			require.NoError(t, err)
			return st.State == agent.Cancelled
		}, time.Minute, time.Second)
		_, log := l.end(a, id)
		require.NotContains(t, log, "late")
	})
	t.Run("timeout", func(t *testing.T) {
		id := begin("sleep 600", func(j *agent.Job) { j.Timeout = time.Second })
		st, _ := l.end(a, id)
		require.Equal(t, agent.Done, st.State)
		require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
		require.Contains(t, st.Result.Text, "timed out after 1s")
	})
	t.Run("not to be killed", func(t *testing.T) {
		gate := filepath.Join(t.TempDir(), "gate")
		id := begin("while ! [ -e "+gate+" ]; do sleep 0.1; done; echo whole", func(j *agent.Job) { j.Timeout, j.NoKill = time.Second, true })
		require.Eventually(t, func() bool {
			st, err := a.Cancel(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, agent.Running, st.State)
			return st.Overdue
		}, time.Minute, 100*time.Millisecond)
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		st, log := l.end(a, id)
		require.Equal(t, agent.Done, st.State)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
		require.Contains(t, log, "whole")
	})
	t.Run("leaves a daemon", func(t *testing.T) {
		id := begin("setsid sleep 20 &", nil)
		st, _ := l.end(a, id)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	})
	t.Run("much output", func(t *testing.T) {
		id := begin("head -c 20000000 /dev/zero; exit 0", nil)
		st, log := l.end(a, id)
		require.Equal(t, maxLog, len(log))
		require.True(t, st.LogTruncated)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	})
	t.Run("parent killed", func(t *testing.T) {
		id := begin("exec sleep 600", nil)
		run, err := os.ReadFile(filepath.Join(l.base, "lab/jobs", id, "run"))
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.Fields(string(run))[0])
		require.NoError(t, err)
		require.NoError(t, exec.Command("kill", "-9", "--", fmt.Sprintf("-%d", pid)).Run())
		st, _ := l.end(a, id)
		require.Equal(t, agent.Interrupted, st.State)
	})
	t.Run("parent alone killed", func(t *testing.T) { // it runs as long as its program does
		gate := filepath.Join(t.TempDir(), "gate")
		id := begin("while ! [ -e "+gate+" ]; do sleep 0.1; done", func(j *agent.Job) { j.Timeout = time.Hour })
		run, err := os.ReadFile(filepath.Join(l.base, "lab/jobs", id, "run"))
		require.NoError(t, err)
		require.NoError(t, exec.Command("kill", "-9", strings.Fields(string(run))[0]).Run())
		st, err := a.Status(t.Context(), id, 0)
		require.NoError(t, err)
		require.Equal(t, agent.Running, st.State)
		_, err = a.Remove(t.Context())
		require.ErrorIs(t, err, agent.ErrJobRunning)
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		st, _ = l.end(a, id)
		require.Equal(t, agent.Interrupted, st.State)
	})
	t.Run("no program", func(t *testing.T) {
		job := l.job(a, "")
		job.Argv = []string{"no-such-program"}
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		st, _ := l.end(a, job.ID)
		require.Equal(t, &transport.Exit{Code: 127}, st.Exit)
		require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	})
	t.Run("cancelled before it came", func(t *testing.T) {
		job := l.job(a, "echo begun")
		_, err := a.Cancel(t.Context(), job.ID)
		require.ErrorIs(t, err, agent.ErrNoJob)
		_, err = a.Install(t.Context(), job)
		require.ErrorIs(t, err, agent.ErrNoJob, "it may not begin any more")
	})
	_, err := a.Remove(t.Context())
	require.NoError(t, err)
}

// TestSlowCopy: while its files are laid out a job is there, can be cancelled, and
// keeps everything from being removed.
func TestSlowCopy(t *testing.T) {
	cp, err := exec.LookPath("cp")
	require.NoError(t, err)
	bin, gate := t.TempDir(), filepath.Join(t.TempDir(), "gate")
	require.NoError(t, os.WriteFile(bin+"/cp", []byte("#!/bin/sh\nwhile ! [ -e "+gate+" ]; do sleep 0.05; done\nexec "+cp+" \"$@\"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	l := newLab(t)
	a := l.start(0)
	for _, cancel := range []bool{true, false} {
		_ = os.Remove(gate)
		job := l.job(a, "echo ran")
		st, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		require.Equal(t, agent.Accepted, st.State)
		_, err = a.Remove(t.Context())
		require.ErrorIs(t, err, agent.ErrJobRunning)
		cancelled := make(chan error, 1)
		if cancel {
			go func() { _, err := a.Cancel(t.Context(), job.ID); cancelled <- err }()
			require.Eventually(t, func() bool {
				_, err := os.Stat(filepath.Join(l.base, "lab/jobs", job.ID, "cancel"))
				return err == nil
			}, time.Minute, 10*time.Millisecond)
		}
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		if cancel {
			require.NoError(t, <-cancelled)
		}
		st, log := l.end(a, job.ID)
		if cancel {
			require.Equal(t, agent.Cancelled, st.State)
			require.Equal(t, transport.VerdictCancelled, st.Result.Verdict)
			require.Empty(t, log)
		} else {
			require.Equal(t, agent.Done, st.State)
			require.Equal(t, "ran\n", log)
		}
	}

	// A file that cannot be laid out.
	require.NoError(t, os.WriteFile(bin+"/cp", []byte("#!/bin/sh\necho no room >&2\nexit 1\n"), 0o755))
	job := l.job(a, "echo ran")
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	st, log := l.end(a, job.ID)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	require.Contains(t, st.Result.Text, "not started")
	require.Equal(t, "no room\n", log)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.onlyLogs()
}

// A job that is not begun says why, as far as that is known.
func TestWhyAJobIsNotStarted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := l.start(0)
	c := a.(*commands)
	for why, change := range map[string]struct {
		args func(files []string) []string
		code string
		text string
	}{
		"files": {func(f []string) []string { return append([]string{"run.sh", strings.Repeat("0", 64), "x"}, f...) }, "prepare", "its files could not be laid out\ncp: "},
	} {
		job := l.job(a, "exit 0")
		args := append([]string{"-w", "sh", "-c", compact(parentScript), "sh", filepath.Join(l.base, "lab"), job.ID, digestOf(job) + " zero-ok 0 kill", "0", "100", c.holderOf(job)},
			change.args([]string{"--", "./run.sh"})...)
		out, err := exec.Command("setsid", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		check := func(a agent.Agent) {
			t.Helper()
			st, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			require.Equal(t, agent.Done, st.State)
			require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
			require.Equal(t, transport.Code{Space: "agent", Value: change.code}, st.Result.Code, why)
			require.Contains(t, st.Result.Text, "the program was not started: "+change.text, why)
		}
		check(a)
		// Nor is it forgotten with the rest.
		_, err = a.Stop(t.Context(), true)
		require.NoError(t, err)
		check(l.start(0))
	}
	for why, want := range map[string]string{"host": "lock", "work": "prepare", "record": "start", "": "prepare", "?": "prepare"} {
		res := notStarted(why)
		require.Equal(t, want, res.Code.Value)
		require.NotContains(t, res.Text, "its files")
	}
}
