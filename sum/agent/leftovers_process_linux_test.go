package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// in is a host beside others of one base directory, with an ID as package sum gives it.
func (h *host) in(base, id string) *host {
	h.t.Helper()
	h.dir = filepath.Join(base, id)
	require.NoError(h.t, os.Mkdir(h.dir, 0o700))
	h.putBinary()
	return h
}

// age makes everything in the directory as old as if nobody had been there for hours.
func (h *host) age() {
	h.t.Helper()
	out, err := exec.Command("find", h.dir, "-exec", "touch", "-d", "2 hours ago", "{}", "+").CombinedOutput()
	require.NoError(h.t, err, string(out))
}

// TestReconcileKilledAgents: what agents left that were killed with all that was to clean up
// after them, and whose managers never come back, goes when another manager starts another
// agent. Those that live, or whose jobs do, and those that were killed just now stay.
func TestReconcileKilledAgents(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	ended, live, busy, late := newHost(t).in(base, "0000000000000001"), newHost(t).in(base, "0000000000000002"),
		newHost(t).in(base, "0000000000000003"), newHost(t).in(base, "0000000000000004")

	ended.start()
	c := ended.client()
	j := ended.script(c, "echo done")
	ended.install(c, j)
	ended.until(c, j.ID, final)
	ended.kill(ended.ready.PID)
	for _, pid := range ended.processes("shim") {
		ended.kill(pid)
	}
	require.FileExists(t, ended.binary())
	live.start()
	alive := live.client()

	late.start()
	late.kill(late.ready.PID)

	busy.start()
	c = busy.client()
	job, open, runs := busy.gated(c)
	busy.install(c, job)
	busy.until(c, job.ID, printed("begun"))
	busy.kill(busy.ready.PID)

	for _, h := range []*host{ended, live, busy} {
		h.age()
	}

	spared := func() []string {
		out := append(live.files(), busy.files()...)
		return append(out, late.files()...)
	}
	before := spared()
	next := newHost(t).in(base, "0000000000000005")
	next.start()
	require.Equal(t, []string{ended.dir}, next.ready.Swept)
	log, err := os.ReadFile(next.path(agent.LogName))
	require.NoError(t, err)
	require.Contains(t, string(log), "removed what a dead agent left")
	ended.requireOnlyLogs(j.ID)
	after := spared()
	slices.Sort(before)
	slices.Sort(after)
	require.Equal(t, before, after)
	_, err = alive.Jobs(t.Context())
	require.NoError(t, err)
	open()
	busy.start() // its manager has come back
	st := busy.until(busy.client(), job.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, 1, runs())
}
