package sum_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// second is for the inventory that is to prove what a deployment did.
const second = 2

// TestProvenLater: an outcome that is Unverified because the second inventory could
// not be read stays in the journal. It is read when that can be done, by Recover or
// by the next Deploy, of this session or of a later one; and no installer runs again
// for it, nor is it asked for.
func TestProvenLater(t *testing.T) {
	for _, why := range []struct {
		name  string
		fault func(l *lab, name string) (mend func())
		err   error
	}{
		{"line gone for good", func(l *lab, name string) func() {
			at := l.at[name]
			var away *transporttest.Injected
			l.agents.Host(name).Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Err: transport.ErrConnLost, Do: func() {
				at.Cut()
				away = at.Inject(transporttest.Fault{Op: "dial", Times: -1, Err: transport.ErrUnreachable})
			}})
			return func() { away.Release() }
		}, transport.ErrUnreachable},
		{"no room for the agent", func(l *lab, name string) func() {
			host := l.agents.Host(name)
			host.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Err: transport.ErrConnLost, Do: func() {
				host.Fault(agenttest.Fault{Op: agenttest.Start, Err: transport.ErrNoSpace})
			}})
			return host.ClearFaults
		}, transport.ErrNoSpace},
		{"refused", func(l *lab, name string) func() {
			l.agents.Host(name).Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Err: transport.ErrRejected})
			return func() {}
		}, transport.ErrRejected},
	} {
		for _, how := range []string{"recover", "deploy", "next recover", "next deploy", "killed, next recover"} {
			t.Run(why.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t, server)
					l.agents.Detached = true // what is known of the line does not matter here
					c := l.component("7.0", 100)
					s := l.open()
					n := l.nodes(s)[0]
					host := l.agents.Host(n.Target().Name)
					p := plan(t, n, c, sum.PlanOptions{})
					mend := why.fault(l, n.Target().Name)
					out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
					require.NoError(t, err)
					require.Len(t, out, 1)
					o := out[0]
					require.Equal(t, sum.Unverified, o.Kind, "%+v", o)
					require.ErrorIs(t, o.Err, why.err)
					require.Contains(t, o.Text, "the second inventory failed")
					require.Contains(t, o.Text, "recover")
					require.Equal(t, transport.Code{Space: "dpkg", Value: "0"}, o.Code)
					require.False(t, o.Recovered)
					require.Equal(t, []sum.Target{n.Target()}, s.Pending())
					asked := host.Calls(agenttest.Status)

					switch how {
					case "next recover", "next deploy":
						require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)
						s = l.open()
					case "killed, next recover":
						s.Abandon()
						s = l.open()
					}
					n = l.nodes(s)[0]
					require.Equal(t, []sum.Target{n.Target()}, s.Pending())
					mend()
					if how == "deploy" || how == "next deploy" {
						out, err = sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
						require.NoError(t, err)
					} else {
						rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
						require.NoError(t, err)
						out = rec.Outcomes
					}
					require.Len(t, out, 1)
					o = out[0]
					require.Equal(t, sum.Updated, o.Kind, "%+v", o)
					require.True(t, o.Recovered)
					require.Equal(t, "1.0", o.From())
					require.Equal(t, "7.0", o.To())
					require.Equal(t, transport.Code{Space: "dpkg", Value: "0"}, o.Code)
					require.Empty(t, o.Text)
					require.Equal(t, 1, l.applied(n.Target().Name))
					require.Equal(t, asked, host.Calls(agenttest.Status), "what the target said of the job is known")
					l.clean(s)
				})
			})
		}
	}
}

// TestDeviceProvenLater is TestProvenLater for a device. It is not asked to go on
// with an update that it has ended, and so nobody needs the component any more.
func TestDeviceProvenLater(t *testing.T) {
	for _, personality := range []string{push, pull} {
		for _, how := range []string{"recover", "deploy", "next recover", "next deploy"} {
			t.Run(personality+"/"+how, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, personality)
				c := l.component("7.0", 1000)
				s := l.open()
				n := l.nodes(s)[0]
				at := l.at[n.Target().Name]
				p := plan(t, n, c, sum.PlanOptions{})
				fault := at.Inject(transporttest.Fault{Op: "inventory", Skip: 1, Times: -1, Err: transport.ErrBusy})
				out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
				require.NoError(t, err)
				require.Len(t, out, 1)
				require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
				require.ErrorIs(t, out[0].Err, transport.ErrBusy)
				require.Equal(t, []sum.Target{n.Target()}, s.Pending())
				_, err = sum.Recover(t.Context(), n, sum.DeployOptions{})
				require.ErrorIs(t, err, sum.ErrPending)
				require.ErrorIs(t, err, transport.ErrBusy)
				asked := updates(l.fake.Ops(at))
				require.NotZero(t, asked)

				if how == "next recover" || how == "next deploy" {
					require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)
					s = l.open()
					n = l.nodes(s)[0]
				}
				fault.Release()
				if how == "deploy" || how == "next deploy" {
					out, err = sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
					require.NoError(t, err)
				} else {
					rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
					require.NoError(t, err)
					out = rec.Outcomes
				}
				require.Len(t, out, 1)
				require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
				require.True(t, out[0].Recovered)
				require.Equal(t, "7.0", out[0].To())
				require.NotContains(t, out[0].Text, "lost")
				require.Equal(t, 1, l.applied(n.Target().Name))
				require.Equal(t, asked, updates(l.fake.Ops(at)))
				l.clean(s)
			})
		}
	}
}

// updates counts the calls of Update.
func updates(ops []string) int { return count(ops, "update") }

// count is how often an operation is in a list.
func count(ops []string, op string) int {
	n := 0
	for _, o := range ops {
		if o == op {
			n++
		}
	}
	return n
}

// TestStoppedWhileVerifying: who stops the run while the second inventory is read
// gets the proof from the next.
func TestStoppedWhileVerifying(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server)
		c := l.component("7.0", 100)
		s := l.open()
		n := l.nodes(s)[0]
		p := plan(t, n, c, sum.PlanOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Stall: true, Do: cancel})
		out, err := sum.Deploy(ctx, n, p, one(c), sum.DeployOptions{})
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, out, 1)
		require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
		rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
		require.NoError(t, err)
		require.Len(t, rec.Outcomes, 1)
		require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
		require.Equal(t, 1, l.applied(n.Target().Name))
		l.clean(s)
	})
}

// TestProvenLaterByOthers: it is another run that meets the fault, the one that
// recovers what a dead one began; the third comes to the end of it.
func TestProvenLaterByOthers(t *testing.T) {
	for _, personality := range []string{server, push} {
		t.Run(personality, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, personality)
			c := l.component("7.0", 100_000)
			s := l.open()
			n := l.nodes(s)[0]
			name := n.Target().Name
			l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{}).die(s)

			s = l.open()
			l.agents.Host(name).Fault(agenttest.Fault{Op: agenttest.Inventory, Err: transport.ErrRejected})
			fault := l.at[name].Inject(transporttest.Fault{Op: "inventory", Times: -1, Err: transport.ErrRejected})
			rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, c)
			require.ErrorIs(t, err, sum.ErrPending)
			require.ErrorIs(t, err, transport.ErrRejected)
			require.Empty(t, rec.Outcomes)
			require.Len(t, s.Pending(), 1)
			asked := l.agents.Host(name).Calls(agenttest.Status)
			_ = s.Close(t.Context())
			l.agents.Host(name).ClearFaults()
			fault.Release()

			s = l.open()
			rec, err = sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
			require.NoError(t, err)
			require.Len(t, rec.Outcomes, 1)
			require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
			require.NotContains(t, rec.Outcomes[0].Text, "lost")
			require.Equal(t, asked, l.agents.Host(name).Calls(agenttest.Status))
			require.Equal(t, 1, l.applied(name))
			l.clean(s)
		})
	}
}

// TestDisprovenLater: the inventory that comes late decides, whatever it says.
func TestDisprovenLater(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	host := l.agents.Host(n.Target().Name)
	host.OnInstall("thing", agenttest.Job{Effect: func(*agenttest.Machine) {}})
	host.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Err: transport.ErrRejected})
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.Len(t, s.Pending(), 1)
	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	require.Equal(t, sum.Unverified, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
	require.Contains(t, rec.Outcomes[0].Text, "the target reports thing 1.0, and 7.0 was expected")
	require.Empty(t, s.Pending())
	l.clean(s)
}

// TestAbandonUnproven gives up to prove what cannot be read, and keeps what the
// target said of it.
func TestAbandonUnproven(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	host := l.agents.Host(n.Target().Name)
	for call := second; call < second+3; call++ {
		host.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: call, Err: transport.ErrRejected})
	}
	_, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPending)
	require.Empty(t, out)
	rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{Abandon: true})
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	o := rec.Outcomes[0]
	require.Equal(t, sum.Unverified, o.Kind, "%+v", o)
	require.Equal(t, transport.Code{Space: "dpkg", Value: "0"}, o.Code)
	require.Contains(t, o.Text, "given up")
	require.NotContains(t, o.Text, "recover,", "nobody will")
	require.True(t, o.Recovered)
	require.Empty(t, s.Pending())
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestUnprovenForGood: what no later inventory can mend, or decide, is settled at
// once.
func TestUnprovenForGood(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		edit func(l *lab, c *component.Component)
		want sum.OutcomeKind
	}{
		{"unsupported", errors.ErrUnsupported, nil, sum.Unverified},
		{"invalid", transport.ErrInvalid, nil, sum.Unverified},
		{"nothing to read", transport.ErrRejected, func(_ *lab, c *component.Component) { c.Match = component.Match{} }, sum.Unverified},
		{"failed", transport.ErrRejected, func(l *lab, _ *component.Component) {
			l.agents.Host(l.targets[0].Name).OnInstall("thing", agenttest.Job{Exit: transport.Exit{Code: 1}})
		}, sum.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			c := l.component("7.0", 100)
			if tt.edit != nil {
				tt.edit(l, c)
			}
			s := l.open()
			n := l.nodes(s)[0]
			p := plan(t, n, c, sum.PlanOptions{})
			l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Inventory, Call: second, Err: tt.err})
			out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
			require.NoError(t, err)
			require.Len(t, out, 1)
			require.Equal(t, tt.want, out[0].Kind, "%+v", out[0])
			require.Contains(t, out[0].Text, "the second inventory failed")
			require.NotContains(t, out[0].Text, "recover")
			require.Empty(t, s.Pending())
			l.clean(s)
		})
	}
}
