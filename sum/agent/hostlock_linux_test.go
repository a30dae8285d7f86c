package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// sibling is another manager's agent below the same base directory.
func (h *host) sibling(name string) *host {
	h.t.Helper()
	o := &host{t: h.t, dir: filepath.Join(filepath.Dir(h.dir), name), boot: h.boot}
	o.boot.Target = "the other's name"
	require.NoError(h.t, os.Mkdir(o.dir, 0o700))
	o.putBinary()
	h.t.Cleanup(o.killAll)
	return o
}

// hostLocks are the files by which jobs hold the host.
func (h *host) hostLocks() []string {
	locks, err := filepath.Glob(filepath.Join(filepath.Dir(h.dir), agent.HostLockPrefix+"*"))
	require.NoError(h.t, err)
	return locks
}

// Two managers, each with an agent of its own, do not run two programs at a time,
// and neither does one.
func TestOneJobOnAHost(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	o := h.sibling("other")
	o.start()
	oc := o.client()
	j, open, runs := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	locks := h.hostLocks()
	require.Len(t, locks, 1)
	fi, err := os.Stat(locks[0])
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	said := readFile(t, locks[0])
	for _, want := range []string{`"agent":"agent"`, `"job":"` + j.ID + `"`, `"component":"hello"`, `"version":"1"`, `"target":"test"`, `"since":"20`} {
		require.Contains(t, said, want)
	}

	refused := func(h *host, c *agent.Client) {
		t.Helper()
		marker := filepath.Join(t.TempDir(), "ran")
		x := h.script(c, "touch "+marker)
		_, err := c.Install(t.Context(), x)
		require.ErrorIs(t, err, agent.ErrHostBusy)
		require.ErrorIs(t, err, transport.ErrBusy)
		require.True(t, transport.Temporary(err))
		require.Equal(t, transport.Code{Space: "agent", Value: agent.CodeHostBusy}, transport.CodeOf(err))
		for _, want := range []string{`"hello 1" runs there since 20`, j.ID, `of agent "agent"`, `on "test"`, "run again"} {
			require.ErrorContains(t, err, want)
		}
		_, err = c.Status(t.Context(), x.ID, 0)
		require.ErrorIs(t, err, agent.ErrNoJob, "it was never taken")
		require.NoFileExists(t, marker)
	}
	refused(o, oc)
	refused(h, c)
	require.Equal(t, agent.Running, h.install(c, j).State, "the same job is not another")

	// The parent is killed, and the program goes on.
	h.kill(h.processes("shim")[0])
	refused(o, oc)
	require.Equal(t, locks, h.hostLocks())
	open()
	h.until(c, j.ID, final)
	require.Equal(t, 1, runs())
	// Now it is the other's turn, and what was left of the first is deleted.
	x := o.script(oc, "exit 0")
	o.install(oc, x)
	require.Equal(t, transport.VerdictApplied, o.until(oc, x.ID, final).Result.Verdict)
	require.Empty(t, h.hostLocks())
	// Each job gives the host back before it says that it is over.
	for range 3 {
		x.ID = channel.NewJobID()
		o.install(oc, x)
		require.Equal(t, transport.VerdictApplied, o.until(oc, x.ID, final).Result.Verdict)
	}
}

// A program keeps the host, if its parent is killed, by a file that it cannot change.
func TestProgramCannotWriteTheHostsFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	c := h.client()
	j := h.script(c, `for f in /proc/$$/fd/*; do
	case $(readlink $f) in *`+agent.HostLockPrefix+`*)
		echo "has it"
		{ echo "program 1 1" >&${f##*/}; } 2>/dev/null && echo "wrote it";;
	esac
done
exit 0`)
	h.install(c, j)
	st := h.until(c, j.ID, final)
	require.Equal(t, "has it\n", string(st.Log))
}

// Of jobs that come at the same time one begins; the others end with the same error
// before their programs do.
func TestJobsAtOnceOnAHost(t *testing.T) {
	h := newHost(t)
	h.start()
	clients := []*agent.Client{h.client()}
	hosts := []*host{h}
	for _, name := range []string{"second", "third"} {
		o := h.sibling(name)
		o.start()
		hosts, clients = append(hosts, o), append(clients, o.client())
	}
	dir := t.TempDir()
	// It fails if another runs, and counts.
	content := "mkdir " + dir + "/alone || exit 9; echo x >>" + dir + "/count; sleep 0.2; rmdir " + dir + "/alone"
	begun, refused := 0, 0
	for round := 0; round < 6 || refused == 0; round++ {
		require.Less(t, round, 100)
		var all sync.WaitGroup
		var mu sync.Mutex
		var jobs [3]agent.Job
		for i, o := range hosts {
			jobs[i] = o.script(clients[i], content)
		}
		for i, o := range hosts {
			all.Go(func() {
				_, err := clients[i].Install(t.Context(), jobs[i])
				var st agent.Status
				if err == nil {
					st = o.until(clients[i], jobs[i].ID, final)
					err = st.HostBusy()
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, agent.ErrHostBusy):
					refused++
					if st.ID != "" {
						require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
						require.Zero(t, st.Started)
						require.ErrorContains(t, err, `"hello 1" runs there`)
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
	require.GreaterOrEqual(t, begun, 6, "one begins in each round")
	require.Equal(t, begun, strings.Count(readFile(t, dir+"/count"), "x"))
	require.Empty(t, h.hostLocks())
}

// What a program leaves in the background does not keep the host, whether its
// parent sees its end or not.
func TestHostAndDaemons(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		h := newHost(t)
		h.start()
		c := h.client()
		gate := filepath.Join(t.TempDir(), "gate")
		j := h.script(c, "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo begun; while [ ! -e "+gate+" ]; do sleep 0.05; done")
		h.install(c, j)
		h.until(c, j.ID, printed("begun"))
		h.await("the record of the program", func() bool {
			return strings.Contains(readFile(t, h.path("jobs/"+j.ID+".json")), `"program"`)
		})
		if killed {
			h.kill(h.processes("shim")[0])
		}
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		h.until(c, j.ID, final)
		x := h.script(c, "exit 0")
		h.install(c, x)
		require.Equal(t, transport.VerdictApplied, h.until(c, x.ID, final).Result.Verdict)
		h.killAll()
	}
}
