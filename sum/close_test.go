package sum_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestCloseEndsSteps: Close ends a deployment under way. On a context that has
// ended it still gives the installer a moment, and it does not wait for its end.
func TestCloseEndsSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		c := l.component("7.0", 100)
		s := l.open()
		n := l.nodes(s)[0]
		w := l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{})
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		err := s.Close(ended)
		require.ErrorIs(t, err, sum.ErrPending)
		require.ErrorIs(t, err, agent.ErrJobRunning)
		<-w.done
		require.ErrorIs(t, w.err, context.Canceled)
		require.Len(t, w.out, 1)
		require.Equal(t, sum.Unverified, w.out[0].Kind, "%+v", w.out[0])
		close(w.hold)

		s = l.open()
		rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
		require.NoError(t, err)
		require.Len(t, rec.Outcomes, 1)
		require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
		l.clean(s)
	})
}

// TestTurnEndsWithContext: who waits for another deployment of the target to end
// waits no longer than its own context.
func TestTurnEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		c := l.component("7.0", 100)
		s := l.open()
		n := l.nodes(s)[0]
		p := plan(t, n, c, sum.PlanOptions{})
		w := l.begin(n, p, c, transporttest.Flash{})
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() {
			_, err := sum.Recover(ctx, n, sum.DeployOptions{})
			errs <- err
		}()
		go func() {
			_, err := sum.Deploy(ctx, n, p, one(c), sum.DeployOptions{})
			errs <- err
		}()
		synctest.Wait()
		require.Empty(t, errs, "both wait for their turn")
		cancel()
		for range 2 {
			require.ErrorIs(t, <-errs, context.Canceled)
		}
		_, err := sum.Recover(ctx, n, sum.DeployOptions{})
		require.ErrorIs(t, err, context.Canceled)
		out, err := w.end()
		require.NoError(t, err)
		require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
		l.clean(s)
	})
}

// TestCloseAdmitsNoStep: a step that comes while Close removes the agent does not
// start another one behind its back.
func TestCloseAdmitsNoStep(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	_, err := sum.Inventory(t.Context(), n)
	require.NoError(t, err)
	var late error
	l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Remove, Call: 1, Do: func() {
		_, late = sum.Inventory(t.Context(), n)
	}})
	l.clean(s)
	require.ErrorIs(t, late, sum.ErrClosed)
}

// TestCloseUnderLoad closes sessions while others use them: nothing is left that
// Close did not tell of.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	for range 50 {
		l := newLab(t, server)
		s := l.open()
		n := l.nodes(s)[0]
		_, err := sum.Inventory(t.Context(), n)
		require.NoError(t, err)
		var wg sync.WaitGroup
		ends := make([]error, 4)
		for i := range ends {
			wg.Go(func() {
				for ends[i] == nil {
					_, ends[i] = sum.Inventory(t.Context(), n)
				}
			})
		}
		l.clean(s)
		wg.Wait()
		for _, err := range ends {
			if !errors.Is(err, context.Canceled) { // it was under way
				require.ErrorIs(t, err, sum.ErrClosed)
			}
		}
	}
}

// TestCloseTellsOfUpdate: an update that the device goes on with is in the error
// of Close, and in the journal.
func TestCloseTellsOfUpdate(t *testing.T) {
	t.Parallel()
	l := newLab(t, push)
	c := l.component("7.0", 100_000)
	s := l.open()
	n := l.nodes(s)[0]
	w := l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{})
	out, err := w.stop()
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, out, 1)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)
	close(w.hold)

	s = l.open()
	require.Equal(t, []sum.Target{n.Target()}, s.Pending())
	rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, c)
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestCloseHangingAgent: an agent that does not answer its removal does not hold
// up Close for ever; the next run removes it.
func TestCloseHangingAgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		s := l.open()
		n := l.nodes(s)[0]
		_, err := sum.Inventory(t.Context(), n)
		require.NoError(t, err)
		host := l.agents.Host(n.Target().Name)
		host.Fault(agenttest.Fault{Op: agenttest.Remove, Stall: true})
		require.ErrorIs(t, s.Close(t.Context()), context.DeadlineExceeded)
		require.NotEmpty(t, l.agents.Left())
		host.ClearFaults()

		s = l.open()
		require.Equal(t, []sum.Target{n.Target()}, s.Pending())
		rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
		require.NoError(t, err)
		require.Len(t, rec.Removed, 1)
		l.clean(s)
	})
}
