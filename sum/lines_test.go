package sum_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestInstallAnswerLost loses the line while a job is requested, and has the
// target refuse the next logins, once or for good. What is known of the job
// decides, and not how the line ended.
func TestInstallAnswerLost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		arrived bool // the request
		refused int  // dials; -1: all
		want    sum.OutcomeKind
		next    sum.OutcomeKind // of the next session; "": nothing is pending
	}{
		{"arrived, refused once", true, 1, sum.Updated, ""},
		{"arrived, refused for good", true, -1, sum.Unverified, sum.Updated},
		{"never arrived, refused once", false, 1, sum.Failed, ""},
		{"never arrived, refused for good", false, -1, sum.Unverified, sum.Cancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server)
				l.agents.Detached = true // so that a call can take effect though the line is cut
				c := l.component("7.0", 100)
				s := l.open()
				n := l.nodes(s)[0]
				at := l.at[n.Target().Name]
				p := plan(t, n, c, sum.PlanOptions{})
				var refusal *transporttest.Injected
				l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Install, Call: 1, After: tt.arrived, Err: transport.ErrConnLost,
					Do: func() {
						at.Cut()
						refusal = at.Inject(transporttest.Fault{Op: "dial", Times: tt.refused, Err: transport.ErrAuth})
					}})
				out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
				require.NoError(t, err)
				require.Len(t, out, 1)
				require.Equal(t, tt.want, out[0].Kind, "%+v", out[0])
				if tt.want != sum.Updated {
					require.ErrorIs(t, out[0].Err, transport.ErrAuth)
				}
				runs := 0
				if tt.arrived {
					runs = 1
				}
				require.Equal(t, runs, l.applied(n.Target().Name))
				if tt.next == "" {
					refusal.Release()
					l.clean(s)
					return
				}
				require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)
				refusal.Release()

				s = l.open()
				require.Len(t, s.Pending(), 1)
				rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
				require.NoError(t, err)
				require.Len(t, rec.Outcomes, 1)
				require.Equal(t, tt.next, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
				require.Equal(t, runs, l.applied(n.Target().Name))
				l.clean(s)
			})
		})
	}
}

// TestRefusedWhileFlashing: a device that is at work and shows another key when
// it is dialled again stays in the journal, whoever answers.
func TestRefusedWhileFlashing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, push)
		c := l.component("7.0", 100_000)
		s := l.open()
		n := l.nodes(s)[0]
		at := l.at[n.Target().Name]
		w := l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{})
		at.Inject(transporttest.Fault{Op: "dial", Err: transport.ErrTrust})
		at.Cut()
		<-w.done
		require.NoError(t, w.err)
		require.Equal(t, sum.Unverified, w.out[0].Kind, "%+v", w.out[0])
		require.ErrorIs(t, w.out[0].Err, transport.ErrTrust)
		require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)
		close(w.hold)

		s = l.open()
		require.Len(t, s.Pending(), 1)
		rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, c)
		require.NoError(t, err)
		require.Len(t, rec.Outcomes, 1)
		require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
		require.Equal(t, 1, l.applied(n.Target().Name))
		l.clean(s)
	})
}

// TestRedialBudget: the time for dialling again is that of one outage, and not of
// the whole step.
func TestRedialBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, push)
		s := l.open()
		n := l.nodes(s)[0]
		calls := 0
		require.NoError(t, n.WithConn(t.Context(), func(context.Context, transport.Conn) error {
			if calls++; calls > 3 {
				return nil
			}
			time.Sleep(11 * time.Minute) // of good work; the budget is 10 min
			return transport.ErrConnLost
		}))
		require.Equal(t, 4, calls)
		l.clean(s)
	})
}

// TestRedialGivesUp: a target that was there and stays away is not waited for
// longer than the budget.
func TestRedialGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, push)
		s := l.open()
		n := l.nodes(s)[0]
		_, err := sum.Inventory(t.Context(), n)
		require.NoError(t, err)
		at := l.at[n.Target().Name]
		away := at.Inject(transporttest.Fault{Op: "dial", Times: -1, Err: transport.ErrUnreachable})
		at.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = sum.Inventory(ctx, n)
		require.ErrorIs(t, err, transport.ErrUnreachable)
		require.NoError(t, ctx.Err())
		require.Greater(t, away.Hits(), 10)
		l.clean(s)
	})
}

// TestNeverReached: a target that was never there is not waited for, whatever a
// driver calls that.
func TestNeverReached(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{transport.ErrConnLost, transport.ErrUnreachable, transport.ErrTimeout, transport.ErrBusy} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, push)
			s := l.open()
			n := l.nodes(s)[0]
			away := l.at[n.Target().Name].Inject(transporttest.Fault{Op: "dial", Times: -1, Err: kind})
			_, err := sum.Inventory(t.Context(), n)
			require.ErrorIs(t, err, kind)
			require.Equal(t, 1, away.Hits())
			l.clean(s)
		})
	}
}

// TestLateLoss: a step that tells late of a connection's loss does not take the
// new connection from the steps that use it.
func TestLateLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, push)
		s := l.open()
		n := l.nodes(s)[0]
		began, tell, late := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			calls := 0
			late <- n.WithConn(t.Context(), func(context.Context, transport.Conn) error {
				if calls++; calls > 1 {
					return nil
				}
				close(began)
				<-tell
				return transport.ErrConnLost // of the first connection
			})
		}()
		<-began
		l.at[n.Target().Name].Cut()
		calls := 0
		require.NoError(t, n.WithConn(t.Context(), func(ctx context.Context, conn transport.Conn) error {
			if calls++; calls > 1 {
				close(tell)
				if err := <-late; err != nil {
					return err
				}
			}
			_, err := conn.Identify(ctx)
			return err
		}))
		require.Equal(t, 2, calls, "the second connection was good")
		l.clean(s)
	})
}

// TestAgentHangs: an agent that does not answer is taken for a lost line.
func TestAgentHangs(t *testing.T) {
	t.Parallel()
	for _, op := range []agenttest.Op{agenttest.Inventory, agenttest.Install, agenttest.Status} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server)
			s := l.open()
			n := l.nodes(s)[0]
			host := l.agents.Host(n.Target().Name)
			host.Fault(agenttest.Fault{Op: op, Call: 1, Stall: true})
			require.Equal(t, sum.Updated, deploy(t, n, l.component("7.0", 100)).Kind)
			require.Greater(t, host.Calls(op), 1)
			require.Equal(t, 1, l.applied(n.Target().Name))
			l.clean(s)
		})
	}
}

// TestLineLostUnderOthers: the step that finds the line lost closes the channel
// when the calls of the others through it have ended, and not under them.
func TestLineLostUnderOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	var steps sync.WaitGroup
	for range 8 {
		steps.Go(func() {
			for range 8 {
				_, err := sum.Inventory(t.Context(), n)
				assert.NoError(t, err)
			}
		})
	}
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				l.at[n.Target().Name].Cut()
			}
		}
	})
	steps.Wait()
	close(stop)
	cutting.Wait()
	l.clean(s)
}

// TestSlowStarts: an agent that cannot be started is given up after the budget, also
// where each try takes longer than a new outage would.
func TestSlowStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		s := l.open()
		n := l.nodes(s)[0]
		l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Start, Err: transport.ErrConnLost, Do: func() { time.Sleep(130 * time.Second) }})
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err := sum.Inventory(ctx, n)
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.NoError(t, ctx.Err(), "never given up")
		l.clean(s)
	})
}
