package install_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// The manager that is killed is a copy of this test program: -test.run chooses
// TestManagerProcess, and managerVariable says in what way it is the agent.
const (
	managerVariable = "INSTALL_TEST_MANAGER"
	managerDir      = "INSTALL_TEST_DIR"
)

// TestManagerProcess is no test of its own: see managerVariable.
func TestManagerProcess(t *testing.T) {
	way, base := os.Getenv(managerVariable), os.Getenv(managerDir)
	if way == "" {
		t.Skip("this is for copies of the test program")
	}
	l := &lab{t: t, base: base, id: "m1-local"}
	a, err := ways()[way].Start(context.Background(), l.localConn(), l.opts())
	require.NoError(t, err)
	// It prints after its manager is gone, as installers do.
	job := script(t, a, "echo begun $$; while [ ! -e "+base+".gate ]; do sleep 0.05; done; echo more; head -c 300000 /dev/zero | tr '\\0' a; echo; touch "+base+".done")
	_, err = a.Install(context.Background(), job)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := a.Status(context.Background(), job.ID, 0)
		if err != nil || !strings.Contains(string(s.Log), "begun") {
			return false
		}
		// Of one that is not on record yet nobody could be told whom to end.
		record, err := os.ReadFile(l.dir() + "/jobs/" + job.ID + ".json")
		return err == nil && strings.Contains(string(record), `"program"`)
	}, time.Minute, 20*time.Millisecond)
	fmt.Println("\njob", job.ID)
	time.Sleep(10 * time.Minute)
}

// killedManager starts a manager, kills it in the middle of a job, and returns the
// job and what lets it end.
func (l *lab) killedManager(way string) (id string, open func()) {
	l.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestManagerProcess$", "-test.v")
	cmd.Env = append(os.Environ(), managerVariable+"="+way, managerDir+"="+l.base)
	out, err := cmd.StdoutPipe()
	require.NoError(l.t, err)
	require.NoError(l.t, cmd.Start())
	var said []string
	for sc := bufio.NewScanner(out); id == "" && sc.Scan(); {
		said = append(said, sc.Text())
		if rest, ok := strings.CutPrefix(sc.Text(), "job "); ok {
			id = rest
		}
	}
	require.NoError(l.t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NotEmpty(l.t, id, strings.Join(said, "\n"))
	l.t.Cleanup(func() { os.Remove(l.base + ".gate"); os.Remove(l.base + ".done") })
	return id, func() { require.NoError(l.t, os.WriteFile(l.base+".gate", nil, 0o600)) }
}

// TestManagerKilledInMidJob: the job ends well without the manager, and the next
// one finds out as much as is known, in whichever way it is an agent.
func TestManagerKilledInMidJob(t *testing.T) {
	t.Parallel()
	for dead := range ways() {
		for _, next := range []string{builtChild, withShims, onItsOwn} {
			t.Run(dead+", then "+next, func(t *testing.T) {
				t.Parallel()
				l := ownHost(t)
				id, open := l.killedManager(dead)
				in2 := ways()[next]
				_, err := in2.Sweep(t.Context(), l.localConn(), l.place())
				require.ErrorIs(t, err, agent.ErrJobRunning)
				a := l.startWith(in2, l.localConn())
				s, err := a.Status(t.Context(), id, 0)
				require.NoError(t, err)
				require.Equal(t, agent.Running, s.State)
				if !hasShims(dead) {
					_, err := a.Install(t.Context(), script(t, a, "true"))
					require.ErrorIs(t, err, transport.ErrBusy, "one program at a time, where nobody watches over it")
				}
				open()
				s, log := finish(t, a, id)
				require.FileExists(t, l.base+".done", "the program went to its end")
				if hasShims(dead) {
					require.Equal(t, agent.Done, s.State)
					require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
				} else {
					require.Equal(t, agent.Interrupted, s.State)
					require.Equal(t, transport.VerdictUnknown, s.Result.Verdict)
				}
				require.Contains(t, log, "more\n")
				require.Len(t, log, len("begun \nmore\n\n")+300000+len(strings.Fields(log)[1]))
				_, err = a.Remove(t.Context())
				require.NoError(t, err)
				l.requireClean()
			})
		}
	}
}

// TestKilledManagerIsSwept: what a killed manager left goes without a new agent.
func TestKilledManagerIsSwept(t *testing.T) {
	t.Parallel()
	for _, dead := range []string{withShims, onItsOwn} {
		for next, in := range ways() {
			t.Run(dead+", then "+next, func(t *testing.T) {
				t.Parallel()
				l := ownHost(t)
				id, open := l.killedManager(dead)
				open()
				var left []string
				require.Eventually(t, func() bool {
					var err error
					left, err = in.Sweep(t.Context(), l.localConn(), l.place())
					return err == nil
				}, time.Minute, 50*time.Millisecond)
				require.Equal(t, []string{l.dir() + "/agent.log", l.dir() + "/jobs/" + id + ".json", l.dir() + "/jobs/" + id + ".log"}, sorted(left))
				l.requireClean()
			})
		}
	}
}

// TestCancelWithoutManager: a program whose manager was killed can still be
// cancelled.
func TestCancelWithoutManager(t *testing.T) {
	t.Parallel()
	l := ownHost(t)
	id, _ := l.killedManager(onItsOwn)
	a := l.startWith(&install.Installer{InProcess: true}, l.localConn())
	_, err := a.Cancel(t.Context(), id)
	require.NoError(t, err)
	s, _ := finish(t, a, id)
	require.Equal(t, agent.Interrupted, s.State)
	require.NoFileExists(t, l.base+".done")
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}
