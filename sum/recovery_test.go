package sum_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestOwnWorkRecovered: what a deployment left running is recovered by the same
// session as well as by the next one, by Recover or by the next Deploy.
func TestOwnWorkRecovered(t *testing.T) {
	for _, second := range []string{"recover", "deploy"} {
		t.Run(second, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server)
				c := l.component("7.0", 100)
				s := l.open()
				n := l.nodes(s)[0]
				p := plan(t, n, c, sum.PlanOptions{})
				w := l.begin(n, p, c, transporttest.Flash{})
				out, err := w.stop()
				require.ErrorIs(t, err, context.Canceled)
				require.Len(t, out, 1)
				require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
				close(w.hold)

				if second == "recover" {
					rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
					require.NoError(t, err)
					out = rec.Outcomes
					_, err = sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
					require.ErrorIs(t, err, sum.ErrPlanStale, "the plan has been carried out")
				} else {
					out, err = sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
					require.NoError(t, err)
				}
				require.Len(t, out, 1)
				require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
				require.True(t, out[0].Recovered)
				require.Equal(t, 1, l.applied(n.Target().Name))
				l.clean(s)
			})
		})
	}
}

// TestUnprovableInstalledOnce: what nothing can prove is not done again by the
// deployment that recovers it.
func TestUnprovableInstalledOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	c.Match = component.Match{}
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	l.begin(n, p, c, transporttest.Flash{}).die(s)

	s = l.open()
	n = l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.True(t, out[0].Recovered)
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestRewrittenOnce: a version that was being written again when the manager died
// is not written a third time.
func TestRewrittenOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, push)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	require.Equal(t, sum.Updated, deploy(t, n, c).Kind)
	p := plan(t, n, c, sum.PlanOptions{Rewrite: true})
	l.begin(n, p, c, transporttest.Flash{}).die(s)

	s = l.open()
	n = l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.True(t, out[0].Recovered)
	require.Equal(t, 2, l.applied(n.Target().Name), "the first deployment, and one rewriting")
	l.clean(s)
}

// TestRecoveredThoughStale: what a dead run began is told also where the new plan
// is refused; nobody would hear of it otherwise.
func TestRecoveredThoughStale(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c, newer := l.component("7.0", 100), l.component("8.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	stale := plan(t, n, newer, sum.PlanOptions{})
	l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{}).die(s)

	s = l.open()
	n = l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, stale, one(newer), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.Len(t, out, 1)
	require.Equal(t, "7.0", out[0].Version)
	require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
	require.True(t, out[0].Recovered)
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestAbandon: a device's update that cannot be finished without its component
// keeps everything else from the target until it is given up.
func TestAbandon(t *testing.T) {
	t.Parallel()
	l := newLab(t, push)
	c, other := l.component("7.0", 100_000), l.component("8.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{Lie: true}).die(s)

	s = l.open()
	n = l.nodes(s)[0]
	p := plan(t, n, other, sum.PlanOptions{})
	for range 2 {
		out, err := sum.Deploy(t.Context(), n, p, one(other), sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPending)
		require.Empty(t, out)
		rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPending)
		require.Empty(t, rec.Outcomes)
		require.Len(t, s.Pending(), 1)
	}
	require.Eventually(t, func() bool { return l.applied(n.Target().Name) == 1 }, time.Minute, time.Millisecond)

	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{Abandon: true})
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	o := rec.Outcomes[0]
	require.Equal(t, sum.Unverified, o.Kind, "%+v", o)
	require.Equal(t, "7.0", o.Version)
	require.Contains(t, o.Text, "given up")
	require.True(t, o.Recovered)
	require.Empty(t, s.Pending())
	out, err := sum.Deploy(t.Context(), n, p, one(other), sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
	l.clean(s)
}

// TestAbandonUnreachable gives up an agent on a server that is gone for good, and
// says where it was.
func TestAbandonUnreachable(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	s.Abandon()

	s = l.open()
	n := l.nodes(s)[0]
	l.at[n.Target().Name].Inject(transporttest.Fault{Op: "dial", Times: -1, Err: transport.ErrUnreachable})
	_, err = sum.Recover(t.Context(), n, sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPending)
	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{Abandon: true})
	require.NoError(t, err)
	require.Len(t, rec.Left, 1)
	require.Empty(t, rec.Removed)
	require.Empty(t, s.Pending())
	require.NoError(t, s.Close(t.Context()))
}

// TestRecoverAfterLease: the agent removed itself when its job had ended and
// nobody asked. Its record of the job stays, and tells.
func TestRecoverAfterLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		c := l.component("7.0", 100)
		s := l.open()
		n := l.nodes(s)[0]
		host := l.agents.Host(n.Target().Name)
		p := plan(t, n, c, sum.PlanOptions{})
		w := l.begin(n, p, c, transporttest.Flash{})
		// The job ends, and the answer that would say so is lost.
		ended := make(chan struct{})
		host.Fault(agenttest.Fault{Op: agenttest.Status, Call: 1, After: true, Err: transport.ErrConnLost, Do: func() { close(ended) }})
		close(w.hold)
		<-ended
		synctest.Wait() // the deployment is about to dial again
		require.Equal(t, "7.0", host.Version("thing"))
		s.Abandon()
		_, err := w.stop()
		require.Error(t, err)
		host.ExpireLease()
		require.Empty(t, l.agents.Left())

		s = l.open()
		rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
		require.NoError(t, err)
		require.Len(t, rec.Outcomes, 1)
		require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
		require.Equal(t, 1, l.applied(n.Target().Name))
		l.clean(s)
	})
}

// TestRecoverMoved: a record names a place, not a name. Another machine that goes
// by the name of the first settles nothing for it.
func TestRecoverMoved(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	s.Abandon()

	old := l.targets[0]
	first, second := l.at[old.Name], l.fake.AddShellServer("other.example")
	moved := old
	moved.Address = second.Address()
	s = l.open()
	l.at[old.Name] = second
	n, err := s.Node(moved)
	require.NoError(t, err)
	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
	require.NoError(t, err)
	require.Empty(t, rec.Removed)
	require.NoError(t, n.WithConn(t.Context(), func(ctx context.Context, conn transport.Conn) error {
		_, err := conn.Identify(ctx)
		return err
	}))
	require.Equal(t, []sum.Target{old}, s.Pending())
	require.NotEmpty(t, l.agents.Left())

	l.at[old.Name] = first
	rec, err = sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Removed, 1)
	l.clean(s)
}

// TestKeepAgent: a run that died after it had sent a payload left it on the
// target. Whoever keeps the agent for the deployment need not send it again.
func TestKeepAgent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		look    bool // before, in a session that does nothing else
		recover *sum.DeployOptions
		sent    int64 // how often the payload
	}{
		{"deploy alone", false, nil, 1},
		{"preflight alone, and deploy", true, nil, 1},
		{"recover and keep", false, &sum.DeployOptions{KeepAgent: true}, 1},
		{"recover", false, &sum.DeployOptions{}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			c := l.component("7.0", 100_000)
			s := l.open()
			n := l.nodes(s)[0]
			host := l.agents.Host(n.Target().Name)
			ctx, cancel := context.WithCancel(t.Context())
			_, err := sum.Deploy(ctx, n, plan(t, n, c, sum.PlanOptions{}), one(c), sum.DeployOptions{Events: func(e sum.Event) {
				if e.Phase == "stage" && e.Done == e.Total {
					s.Abandon()
					cancel()
				}
			}})
			require.Error(t, err)
			size := c.Payload.Size()
			require.Equal(t, size, host.StagedBytes())
			require.Zero(t, l.applied(n.Target().Name))

			if tt.look {
				s = l.open()
				_, err := sum.Preflight(t.Context(), l.nodes(s)[0], sum.PreflightOptions{DialContext: nobody})
				require.NoError(t, err)
				require.NoError(t, s.Close(t.Context()))
			}
			s = l.open()
			n = l.nodes(s)[0]
			if tt.recover != nil {
				rec, err := sum.Recover(t.Context(), n, *tt.recover)
				require.NoError(t, err)
				require.Empty(t, rec.Outcomes, "nothing had begun")
				require.Len(t, rec.Removed, int(tt.sent)-1)
			}
			require.Equal(t, sum.Updated, deploy(t, n, c).Kind)
			require.Equal(t, tt.sent*size, host.StagedBytes())
			require.Equal(t, 1, l.applied(n.Target().Name))
			l.clean(s)
		})
	}
}

// TestPreflightTakesNothing: a session that only looks leaves what a dead run left to
// others, at the same time and afterwards. It says whose job runs there.
func TestPreflightTakesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	w := l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{})
	s.Abandon()
	w.cancel()
	<-w.done
	dead, err := os.ReadFile(l.runFile())
	require.NoError(t, err)
	left := l.agents.Left()
	require.NotEmpty(t, left)

	looking := l.open()
	n = l.nodes(looking)[0]
	look := func() sum.Finding {
		t.Helper()
		list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
		require.NoError(t, err)
		busy := found(list, sum.FindBusy)
		require.Len(t, busy, 1, "%v", list)
		return busy[0]
	}
	f := look()
	require.Equal(t, sum.Blocks, f.Severity, "%v", f)
	require.Contains(t, f.Advice, "Recover")
	require.Equal(t, []sum.Target{n.Target()}, looking.Pending())
	require.NoError(t, looking.Close(t.Context()))
	require.Equal(t, left, l.agents.Left())
	files, err := filepath.Glob(filepath.Join(l.journal, "run-*.jsonl"))
	require.NoError(t, err)
	now, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Equal(t, string(dead), string(now), "the journal of the dead run")

	// Nor does one of which another step, on another target, has taken over.
	looking = l.open()
	require.NoError(t, looking.TakeOver(t.Context()))
	n = l.nodes(looking)[0]
	require.Contains(t, look().Advice, "Recover")
	require.NoError(t, looking.Close(t.Context()))
	require.Equal(t, left, l.agents.Left())

	looking = l.open()
	n = l.nodes(looking)[0]
	require.Equal(t, sum.Blocks, look().Severity)
	close(w.hold)
	s = l.open()
	rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
	require.Equal(t, sum.Passed, look().Severity)
	require.NoError(t, looking.Close(t.Context()))
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestSweptAgentForgotten: the agent of a dead run that this run failed to take
// over stands in the journals of both. Once it is removed it stands in neither.
func TestSweptAgentForgotten(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	s.Abandon()

	s = l.open()
	n := l.nodes(s)[0]
	l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Start, Call: 1, After: true, Err: transport.ErrNoSpace})
	_, err = sum.Inventory(t.Context(), n)
	require.ErrorIs(t, err, transport.ErrNoSpace)
	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Removed, 1)
	l.clean(s)
}

// TestRecoverWithoutRecords: where the target has forgotten everything, the inventory
// decides, and nothing is said to have been left alone.
func TestRecoverWithoutRecords(t *testing.T) {
	t.Parallel()
	for _, worked := range []bool{true, false} {
		t.Run(fmt.Sprint("proven: ", worked), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			s := l.open()
			n, c := l.nodes(s)[0], l.component("2.0", 100)
			if !worked {
				c.Match = component.Match{} // or nobody can tell
			}
			l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{}).die(s)
			h := l.agents.Host(n.Target().Name)
			h.Fault(agenttest.Fault{Op: agenttest.Status, Err: agent.ErrNoRecords})
			s = l.open()
			n = l.nodes(s)[0]
			r, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
			require.NoError(t, err)
			require.Len(t, r.Outcomes, 1)
			if worked {
				require.Equal(t, sum.Updated, r.Outcomes[0].Kind, r.Outcomes[0].Text)
			} else {
				require.Equal(t, sum.Unverified, r.Outcomes[0].Kind, r.Outcomes[0].Text)
				require.Contains(t, r.Outcomes[0].Text, "no record")
			}
			require.Equal(t, 1, l.applied(n.Target().Name))
			h.ClearFaults()
			l.clean(s)
		})
	}
}
