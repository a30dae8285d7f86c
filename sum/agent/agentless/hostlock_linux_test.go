package agentless

import (
	"context"
	"errors"
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
}

// The shell and Go take the same files for those of the living.
func TestHostHoldersInTheShell(t *testing.T) {
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
