package agentless

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// named starts another manager's work below the same base directory.
func (l *lab) named(id string) agent.Agent {
	l.t.Helper()
	a, err := (&Installer{}).Start(l.t.Context(), l.conn, agent.StartOptions{Target: "here as " + id, ID: id, BaseDirs: []string{l.base}})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { require.NoError(l.t, a.Close(context.Background())) })
	return a
}

// agent starts the agent of another manager below the same base directory: one that
// is this process.
func (l *lab) agent(id string) agent.Agent {
	l.t.Helper()
	dir := filepath.Join(l.base, id)
	require.NoError(l.t, os.MkdirAll(dir, 0o700))
	c, err := agent.NewInProcess(l.t.Context(), agent.InProcessOptions{Target: "here as " + id, Dir: dir})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { require.NoError(l.t, c.Close(context.Background())) })
	return inProcess{c}
}

type inProcess struct{ *agent.Client }

func (inProcess) Place() agent.Place                           { return agent.Place{} }
func (p inProcess) Remove(c context.Context) ([]string, error) { return p.Stop(c, true) }

func (l *lab) hostLocks() []string {
	locks, err := filepath.Glob(filepath.Join(l.base, agent.HostLockPrefix+"*"))
	require.NoError(l.t, err)
	return locks
}

func (l *lab) parent(id, name string) int {
	b, err := os.ReadFile(filepath.Join(l.base, name, "jobs", id, "run"))
	require.NoError(l.t, err)
	pid, err := strconv.Atoi(strings.Fields(string(b))[0])
	require.NoError(l.t, err)
	return pid
}

// What works with an agent and what works without exclude each other and themselves.
func TestOneJobOnAHost(t *testing.T) {
	l := newLab(t)
	all := map[string]agent.Agent{"one": l.named("one"), "two": l.named("two"), "agent": l.agent("agent"), "other": l.agent("other")}
	for first, a := range all {
		t.Run(first, func(t *testing.T) {
			l := &lab{t, l.conn, l.base}
			gate := filepath.Join(t.TempDir(), "gate")
			job := l.job(a, "while [ ! -e "+gate+" ]; do sleep 0.05; done")
			_, err := a.Install(t.Context(), job)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				st, err := a.Status(t.Context(), job.ID, 0)
				return err == nil && st.State == agent.Running
			}, time.Minute, 20*time.Millisecond)
			locks := l.hostLocks()
			require.Len(t, locks, 1)
			fi, err := os.Stat(locks[0])
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
			refused := func() {
				t.Helper()
				for second, b := range all {
					marker := filepath.Join(t.TempDir(), "ran")
					x := l.job(b, "touch "+marker)
					_, err := b.Install(t.Context(), x)
					require.ErrorIs(t, err, agent.ErrHostBusy, second)
					require.Equal(t, transport.Code{Space: "agent", Value: agent.CodeHostBusy}, transport.CodeOf(err))
					for _, want := range []string{`"thing 1" runs there since 20`, job.ID, `"` + first + `"`, `"here as ` + first + `"`, "run again"} {
						require.ErrorContains(t, err, want, second)
					}
					_, err = b.Status(t.Context(), x.ID, 0)
					require.ErrorIs(t, err, agent.ErrNoJob, second)
					require.NoFileExists(t, marker)
				}
			}
			refused()
			if first == "one" || first == "two" {
				// Its parent is killed, and the program goes on.
				require.NoError(t, syscall.Kill(l.parent(job.ID, first), syscall.SIGKILL))
				refused()
			}
			require.NoError(t, os.WriteFile(gate, nil, 0o600))
			l.end(a, job.ID)
			for _, b := range all {
				x := l.job(b, "exit 0")
				_, err := b.Install(t.Context(), x)
				require.NoError(t, err)
				st, _ := l.end(b, x.ID)
				require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
			}
			require.Empty(t, l.hostLocks())
		})
	}
}

// Of those that come at the same time one begins, and the others end before their
// programs do, with the same error.
func TestJobsAtOnceOnAHost(t *testing.T) {
	l := newLab(t)
	agents := []agent.Agent{l.named("one"), l.named("two"), l.agent("three")}
	dir := t.TempDir()
	begun, refused := 0, 0
	for round := 0; round < 4 || refused == 0; round++ {
		require.Less(t, round, 50)
		var all sync.WaitGroup
		var mu sync.Mutex
		var jobs [3]agent.Job
		for i, a := range agents {
			jobs[i] = l.job(a, "mkdir "+dir+"/alone || exit 9; echo x >>"+dir+"/count; sleep 0.2; rmdir "+dir+"/alone")
		}
		for i, a := range agents {
			all.Go(func() {
				_, err := a.Install(t.Context(), jobs[i])
				var st agent.Status
				if err == nil {
					st, _ = l.end(a, jobs[i].ID)
					err = st.HostBusy()
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, agent.ErrHostBusy):
					if refused++; st.ID != "" {
						require.ErrorContains(t, err, `"thing 1" runs there since 20`)
					}
				case err != nil, st.Exit == nil, st.Exit.Code != 0:
					t.Errorf("%v, %+v", err, st)
				default:
					begun++
				}
			})
		}
		all.Wait()
	}
	require.GreaterOrEqual(t, begun, 4)
	count, err := os.ReadFile(filepath.Join(dir, "count"))
	require.NoError(t, err)
	require.Equal(t, begun, strings.Count(string(count), "x"))
	require.Empty(t, l.hostLocks())
}

// The record of a job that was kept out says so when its directory has gone.
func TestRecordOfAJobThatWasKeptOut(t *testing.T) {
	l := newLab(t)
	a := l.named("one")
	// One that sorts before it, and does not go away. Install would see it: so it is
	// the job's parent that is started, as Install does when it has looked.
	job := l.job(a, "exit 0")
	job.ID = strings.Repeat("f", 32)
	name := agent.HostLockPrefix + strings.Repeat("0", 32) + "." + strconv.Itoa(os.Getpid()) + "." + startOf(t) + "." + boot(t)
	require.NoError(t, os.WriteFile(filepath.Join(l.base, name), []byte(`{"agent":"x","job":"y","component":"first"}`+"\n"), 0o600))
	c := a.(*commands)
	parent := exec.Command("setsid", "-w", "sh", "-c", compact(parentScript), "sh", filepath.Join(l.base, "one"), job.ID,
		digestOf(job)+" zero-ok 0 kill", "0", "100", c.holderOf(job), job.Files[0].Name, job.Files[0].SHA256, "x", "--", "./run.sh")
	out, err := parent.CombinedOutput()
	require.NoError(t, err, "%s", out)
	st, _ := l.end(a, job.ID)
	require.Nil(t, st.Exit, "its program ran")
	require.ErrorIs(t, st.HostBusy(), agent.ErrHostBusy)
	require.NoError(t, os.Remove(filepath.Join(l.base, name)))
	_, err = a.Stop(t.Context(), true)
	require.NoError(t, err)
	b := l.named("one")
	st, err = b.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.ErrorContains(t, st.HostBusy(), `"first" runs there`)
	_, err = b.Stop(t.Context(), true) // what watches over its lease writes there
	require.NoError(t, err)
}

// The shell and Go take the same files for those of the living.
func TestHostHoldersInTheShell(t *testing.T) {
	t.Parallel()
	me := strconv.Itoa(os.Getpid()) + "." + startOf(t)
	dead := strconv.Itoa(os.Getpid()) + ".1"
	leader := exec.Command("sh", "-c", "sleep 600 >/dev/null & echo; exec sleep 600")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := leader.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, leader.Start())
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(-leader.Process.Pid, syscall.SIGKILL) })
	led := strconv.Itoa(leader.Process.Pid) + ".1"
	require.NoError(t, leader.Process.Kill())
	_ = leader.Wait()
	used := exec.Command("sleep", "600") // leads a group, too
	used.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, used.Start())
	t.Cleanup(func() { _ = used.Process.Kill(); _ = used.Wait() })
	again := strconv.Itoa(used.Process.Pid) + ".1"
	zombie := exec.Command("true")
	require.NoError(t, zombie.Start())
	t.Cleanup(func() { _ = zombie.Wait() })
	var ended string
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(zombie.Process.Pid) + "/stat")
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		ended = strconv.Itoa(zombie.Process.Pid) + "." + f[19]
		return err == nil && f[0] == "Z"
	}, time.Minute, 10*time.Millisecond)
	program := "program " + strings.Replace(me, ".", " ", 1) + "\n"
	shells := [][]string{{"sh"}}
	if path, err := exec.LookPath("busybox"); err == nil {
		shells = append(shells, []string{path, "sh"})
	} else {
		realtest.Need(t, "busybox")
	}
	realtest.Need(t, "flock")
	init, err := os.ReadFile("/proc/1/stat")
	require.NoError(t, err)
	first := "1." + strings.Fields(string(init[strings.LastIndexByte(string(init), ')')+1:]))[19]
	for name, x := range map[string]struct {
		p, boot, content string
		open, want       bool
	}{
		"alive":                        {me, boot(t), "{}\nheld\n", false, true},
		"alive, nothing written yet":   {me, boot(t), "", false, true},
		"after a reboot":               {me, "another", "{}\nheld\n", false, false},
		"after a reboot, with program": {me, "another", "{}\nheld\n" + program, false, false},
		"dead":                         {dead, boot(t), "{}\nheld\n", false, false},
		"a zombie":                     {ended, boot(t), "{}\nheld\n", false, false},
		"dead, nothing written":        {dead, boot(t), "", false, false},
		"dead, and its program lives":  {dead, boot(t), "{}\nheld\n" + program, false, true},
		"dead, and its program":        {dead, boot(t), "{}\nheld\nprogram " + strings.Replace(dead, ".", " ", 1) + "\n", true, false},
		"dead, unrecorded program":     {dead, boot(t), "{}\nheld\n", true, true},
		"dead, and its group lives":    {led, boot(t), "{}\nheld group\n", false, true},
		"dead, its number used again":  {again, boot(t), "{}\nheld group\n", false, false},
		"restart":                      {first, boot(t), "{}\n" + restart(-60, 600), false, true},
		"restart of long ago":          {first, boot(t), "{}\n" + restart(-9000, -3600), false, false},
		"restart before this boot":     {first, "another", "{}\n" + restart(0, 600), false, false},
		"restart of another init":      {"1.1", boot(t), "{}\n" + restart(0, 600), false, false},
		"restart by a hidden init":     {"1.0", boot(t), "{}\n" + restart(0, 600), false, true},
		"no restart":                   {first, boot(t), "{}\nrestart x y\n", false, false},
		"another namespace, locked":    {me, boot(t) + ".1", "{}\nheld\n", true, true},
		"another namespace, dead":      {me, boot(t) + ".1", "{}\nheld\n", false, false},
		"another namespace, no lock":   {dead, boot(t) + ".1", "{}\nheld group\n", false, true},
		"this namespace":               {me, boot(t) + "." + strings.Trim(pidns(t), "pid:[]"), "{}\nheld\n", false, true},
	} {
		for _, shell := range shells {
			t.Run(name+" "+filepath.Base(shell[0]), func(t *testing.T) {
				base, err := filepath.EvalSymlinks(t.TempDir())
				require.NoError(t, err)
				file := filepath.Join(base, agent.HostLockPrefix+channel.NewJobID()+"."+x.p+"."+x.boot)
				require.NoError(t, os.WriteFile(file, []byte(x.content), 0o600))
				if x.open {
					f, err := os.Open(file)
					require.NoError(t, err)
					defer f.Close()
					require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
				}
				// What is not shaped like one is not ours.
				for _, other := range []string{"x", channel.NewJobID(), channel.NewJobID() + ".1.1", channel.NewJobID() + ".x.1." + x.boot,
					"g" + channel.NewJobID()[1:] + ".1.1.b", channel.NewJobID() + ".1.1.b.c", channel.NewJobID() + ".1..b"} {
					require.NoError(t, os.WriteFile(filepath.Join(base, agent.HostLockPrefix+other), nil, 0o600))
				}
				require.NoError(t, os.Symlink("x", filepath.Join(base, agent.HostLockPrefix+channel.NewJobID()+".1.1.b")))
				said, err := exec.Command(shell[0], append(shell[1:], "-c", compact(functions+"D=$1\nhosts\n"), "sh", filepath.Join(base, "agent"))...).CombinedOutput()
				require.NoError(t, err, "%s", said)
				left, err := os.ReadDir(base)
				require.NoError(t, err)
				if x.want {
					require.Equal(t, file+"\n", string(said))
					require.Len(t, left, 9)
				} else {
					require.Empty(t, string(said))
					require.Len(t, left, 8)
					require.NoFileExists(t, file)
				}
			})
		}
	}
}

// restart is a line of a restart that was asked and is due so many seconds from now.
func restart(asked, due int64) string {
	now := time.Now().Unix()
	return fmt.Sprintf("restart %d %d\nheld\n", now+asked, now+due)
}

func pidns(t *testing.T) string {
	link, err := os.Readlink("/proc/self/ns/pid")
	require.NoError(t, err)
	return link
}

// A restart that an administrator has cancelled is void.
func TestPendingInTheShell(t *testing.T) {
	t.Parallel()
	none, booted, scheduled := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{booted + "/system", scheduled + "/system", scheduled + "/shutdown/scheduled"} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	for what, x := range map[string]struct {
		asked, due int64
		run        string
		want       bool
	}{
		"just asked":                 {0, 600, none, true},
		"just asked, of systemd":     {-30, 600, booted, true},
		"waiting":                    {-90, 600, none, true},
		"waiting, and systemd knows": {-90, 600, scheduled, true},
		"cancelled":                  {-90, 600, booted, false},
		"going down":                 {-90, -30, booted, true},
		"long over":                  {-9000, -700, scheduled, false},
	} {
		for _, shell := range [][]string{{"sh"}, {realtest.Need(t, "busybox"), "sh"}} {
			now := time.Now().Unix()
			script := strings.ReplaceAll(compact(functions), "/run/systemd", x.run) + fmt.Sprintf("pending %d %d\n", now+x.asked, now+x.due)
			said, err := exec.Command(shell[0], append(shell[1:], "-c", script)...).CombinedOutput()
			require.Empty(t, string(said))
			require.Equal(t, x.want, err == nil, "%s %s", what, shell)
		}
	}
}

// The host does not restart while a job runs, anybody's, and no job begins when it is
// about to.
func TestReboot(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	args := filepath.Join(dir, "args")
	status := filepath.Join(dir, "status")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shutdown"), []byte("#!/bin/sh\nprintf '%s|' \"$@\" >"+args+"\necho not for you\nexit $(cat "+status+")\n"), 0o700))
	require.NoError(t, os.WriteFile(status, []byte("0"), 0o600))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	a, other := l.named("one"), l.agent("other")
	c := a.(*commands)
	out, err := c.script(t.Context(), "test", nil, "command -v shutdown")
	require.NoError(t, err)
	require.Equal(t, dir+"/shutdown\n", string(out), "this host must not restart")

	gate := filepath.Join(t.TempDir(), "gate")
	for first, want := range map[agent.Agent]error{a: agent.ErrJobRunning, other: agent.ErrHostBusy} {
		_ = os.Remove(gate)
		job := l.job(first, "while [ ! -e "+gate+" ]; do sleep 0.05; done")
		_, err := first.Install(t.Context(), job)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(l.hostLocks()) == 1 }, time.Minute, 20*time.Millisecond)
		err = a.Reboot(t.Context(), transport.RebootOptions{})
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, job.ID)
		require.NoFileExists(t, args)
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		l.end(first, job.ID)
		require.Empty(t, l.hostLocks())
	}
	require.NoError(t, os.WriteFile(status, []byte("1"), 0o600))
	for uid, want := range map[string]error{"0": transport.ErrRejected, "1000": os.ErrPermission} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "id"), []byte("#!/bin/sh\necho "+uid+"\n"), 0o700))
		err = a.Reboot(t.Context(), transport.RebootOptions{})
		require.ErrorIs(t, err, want, uid)
		require.Equal(t, uid != "0", errors.Is(err, os.ErrPermission), "root may")
		require.ErrorContains(t, err, "not for you")
		require.Empty(t, l.hostLocks())
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "id")))

	require.NoError(t, os.WriteFile(status, []byte("0"), 0o600))
	for range 4 { // again: it is put off
		require.NoError(t, a.Reboot(t.Context(), transport.RebootOptions{Message: "更新", Delay: 61 * time.Second}))
		said, err := os.ReadFile(args)
		require.NoError(t, err)
		require.Equal(t, "-r|+2|更新|", string(said))
		require.Len(t, l.hostLocks(), 1)
	}
	for _, b := range []agent.Agent{a, other} {
		_, err = b.Install(t.Context(), l.job(b, "exit 0"))
		require.ErrorIs(t, err, agent.ErrHostBusy)
		require.ErrorContains(t, err, "a restart of the host is due at 20")
		require.ErrorContains(t, err, `(asked by agent "one" on "here as one")`)
	}
	// It is not the agent's, and outlives it.
	_, err = a.Stop(t.Context(), true)
	require.NoError(t, err)
	require.Len(t, l.hostLocks(), 1)
	require.NoError(t, os.Remove(l.hostLocks()[0]))
	job := l.job(other, "exit 0")
	_, err = other.Install(t.Context(), job)
	require.NoError(t, err)
	l.end(other, job.ID)
}

// Of restarts that are asked for at once none deletes the file of a later one.
func TestSupersedeInTheShell(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{{"sh"}, {realtest.Need(t, "busybox"), "sh"}} {
		base, err := filepath.EvalSymlinks(t.TempDir())
		require.NoError(t, err)
		now := time.Now().Unix()
		write := func(id string, asked int64) string {
			file := filepath.Join(base, agent.HostLockPrefix+strings.Repeat(id, 32)+".1.0."+boot(t))
			require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "{}\nrestart %d %d\nheld\n", asked, now+600), 0o600))
			return file
		}
		keep := func(file string, asked int64) []string {
			said, err := exec.Command(shell[0], append(shell[1:], "-c", compact(functions+"D=$1\nsupersede \"$2\" \"$3\"\n"), "sh",
				filepath.Join(base, "agent"), file, strconv.FormatInt(asked, 10))...).CombinedOutput()
			require.NoError(t, err)
			require.Empty(t, string(said))
			left, err := filepath.Glob(filepath.Join(base, agent.HostLockPrefix+"*"))
			require.NoError(t, err)
			return left
		}
		a, b, c, d := write("a", now), write("b", now), write("c", now-1), write("d", now+1)
		job := filepath.Join(base, agent.HostLockPrefix+testID+"."+strconv.Itoa(os.Getpid())+"."+startOf(t)+"."+boot(t))
		require.NoError(t, os.WriteFile(job, []byte("{}\nheld\n"), 0o600))
		require.Equal(t, []string{job, a, b, d}, keep(a, now))
		require.NoFileExists(t, c)
		require.Equal(t, []string{job, b, d}, keep(b, now))
		require.Equal(t, []string{job, b, d}, keep(a, now), "it has gone itself")
		require.Equal(t, []string{job, d}, keep(d, now+1))
	}
}

// A file that goes while somebody looks at it holds nothing.
func TestHolderThatGoes(t *testing.T) {
	l := newLab(t)
	a := l.named("one")
	gone := filepath.Join(l.base, agent.HostLockPrefix+testID+"."+strconv.Itoa(os.Getpid())+"."+startOf(t)+"."+boot(t))
	for _, shell := range [][]string{{"sh"}, {realtest.Need(t, "busybox"), "sh"}} {
		script := compact(functions + "hostlive \"$1\" \"$2\" \"$3\" \"$4\" \"$5\"; echo $?\n")
		said, err := exec.Command(shell[0], append(shell[1:], "-c", script, "sh", gone, testID, strconv.Itoa(os.Getpid()), startOf(t), boot(t))...).CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, "1\n", string(said))

		// It goes when it has been found.
		job := l.job(a, "exit 0")
		install := functions + "hosts() { echo '" + gone + "'; }\n" + strings.TrimPrefix(installScript, functions)
		parent := `mkdir "$1/jobs/$2" && echo begun >"$1/jobs/$2/spec"`
		said, err = exec.Command(shell[0], append(shell[1:], "-c", compact(install), "sh", filepath.Join(l.base, "one"), job.ID, parent, "spec", "0", "100", "{}", "",
			job.Files[0].Name, job.Files[0].SHA256, "x", "--", "./run.sh")...).CombinedOutput()
		require.NoError(t, err, "%s", said)
		require.Equal(t, "begun\n", string(said))
		require.NoError(t, os.RemoveAll(filepath.Join(l.base, "one", "jobs", job.ID)))
	}
}

// What a program leaves running in the background holds neither host nor job, whether
// the program's parent sees its end or not.
func TestHostAndDaemons(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		l := newLab(t)
		a := l.named("one")
		gate := filepath.Join(t.TempDir(), "gate")
		job := l.job(a, "sleep 600 </dev/null >/dev/null 2>&1 & echo $! >"+gate+".pid\nwhile [ ! -e "+gate+" ]; do sleep 0.05; done")
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(gate + ".pid")
			return err == nil && len(b) > 1
		}, time.Minute, 20*time.Millisecond)
		b, err := os.ReadFile(gate + ".pid")
		require.NoError(t, err)
		daemon, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		t.Cleanup(func() { _ = syscall.Kill(daemon, syscall.SIGKILL) })
		if killed {
			require.NoError(t, syscall.Kill(l.parent(job.ID, "one"), syscall.SIGKILL))
			st, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			require.Equal(t, agent.Running, st.State)
		}
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		st, _ := l.end(a, job.ID)
		require.Equal(t, map[bool]agent.State{false: agent.Done, true: agent.Interrupted}[killed], st.State)
		require.NoError(t, syscall.Kill(daemon, 0), "it goes on")
		x := l.job(a, "exit 0")
		_, err = a.Install(t.Context(), x)
		require.NoError(t, err)
		st, _ = l.end(a, x.ID)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	}
}

func startOf(t *testing.T) string {
	stat, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[19]
}

func boot(t *testing.T) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	return strings.TrimSpace(string(id))
}
