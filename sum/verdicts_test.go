package sum_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestNotNeededClaim: a target that says that nothing was needed is believed
// unless something older is there.
func TestNotNeededClaim(t *testing.T) {
	for _, tt := range []struct {
		name, there string
		want        sum.OutcomeKind
	}{
		{"false", "1.0", sum.Unverified},
		{"true", "7.0", sum.NotNeeded},
		{"does not apply", "", sum.NotNeeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			c := l.component("7.0", 100)
			c.Profile = agent.ProfileHPELinux
			s := l.open()
			n := l.nodes(s)[0]
			host := l.agents.Host(n.Target().Name)
			host.SetSoftware()
			if tt.there != "" {
				host.SetSoftware(transport.Software{Name: "thing", Version: tt.there, Source: "dpkg"})
			}
			host.OnInstall("thing", agenttest.Job{Exit: transport.Exit{Code: 2}})
			out, err := sum.Deploy(t.Context(), n, plan(t, n, c, sum.PlanOptions{Rewrite: true}), one(c), sum.DeployOptions{})
			require.NoError(t, err)
			require.Len(t, out, 1)
			require.Equal(t, tt.want, out[0].Kind, "%+v", out[0])
			require.Equal(t, tt.there, out[0].To())
			require.Equal(t, 1, l.applied(n.Target().Name))
			l.clean(s)
		})
	}
}

// TestJobRefused: an agent that does not take the job has changed nothing, and
// that is known.
func TestJobRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	host := l.agents.Host(n.Target().Name)
	host.Fault(agenttest.Fault{Op: agenttest.Install, Err: transport.ErrBusy})
	o := deploy(t, n, l.component("7.0", 100))
	require.Equal(t, sum.Failed, o.Kind, "%+v", o)
	require.ErrorIs(t, o.Err, transport.ErrBusy)
	require.Zero(t, host.Calls(agenttest.Status), "the refusal was the answer")
	require.Zero(t, l.applied(n.Target().Name))
	l.clean(s)
}

// TestTimeoutIsNoCancel: somebody else's deadline, such as a dialler's, matches
// the error of a context and is a failure all the same.
func TestTimeoutIsNoCancel(t *testing.T) {
	for _, inner := range []error{context.DeadlineExceeded, context.Canceled} {
		t.Run(inner.Error(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			s := l.open()
			n := l.nodes(s)[0]
			l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Stage,
				Err: &transport.Error{Op: "put", Kind: transport.ErrRejected, Err: inner}})
			o := deploy(t, n, l.component("7.0", 100))
			require.Equal(t, sum.Failed, o.Kind, "%+v", o)
			require.ErrorIs(t, o.Err, transport.ErrRejected)
			l.clean(s)
		})
	}
}

// TestLongText keeps the end of what a target says, however much that is, in a
// deployment and in its recovery.
func TestLongText(t *testing.T) {
	long := transporttest.Flash{Fail: transport.Code{Space: "x", Value: "y"}, Text: strings.Repeat("x", 300<<10) + "\nthe reason"}
	check := func(t *testing.T, o sum.Outcome) {
		require.Equal(t, sum.Failed, o.Kind)
		require.Equal(t, long.Fail, o.Code)
		require.LessOrEqual(t, len(o.Text), 4<<10)
		require.True(t, strings.HasSuffix(o.Text, "\nthe reason"), "it ends in %q", o.Text[max(0, len(o.Text)-100):])
	}
	t.Run("deploy", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, push)
		s := l.open()
		n := l.nodes(s)[0]
		l.at[n.Target().Name].NextFlash(long)
		check(t, deploy(t, n, l.component("7.0", 100)))
		l.clean(s)
	})
	t.Run("recover", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, push)
		c := l.component("7.0", 100_000)
		s := l.open()
		n := l.nodes(s)[0]
		l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, long).die(s)
		s = l.open()
		rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, c)
		require.NoError(t, err)
		require.Len(t, rec.Outcomes, 1)
		check(t, rec.Outcomes[0])
		l.clean(s)
	})
}

// TestUndone: what a driver prepared for an update that cannot begin is taken
// back.
func TestUndone(t *testing.T) {
	t.Parallel()
	l := newLab(t, push)
	s := l.open()
	n := l.nodes(s)[0]
	at := l.at[n.Target().Name]
	at.Inject(transporttest.Fault{Op: "update.upload", After: 5000, Err: transport.ErrRejected})
	o := deploy(t, n, l.component("7.0", 100_000))
	require.Equal(t, sum.Failed, o.Kind, "%+v", o)
	require.ErrorIs(t, o.Err, transport.ErrRejected)
	require.Contains(t, l.fake.Ops(at), "undo")
	require.Empty(t, at.Leftovers())
	require.Zero(t, l.applied(n.Target().Name))
	l.clean(s)
}

// TestUndoneLater: what could not be taken back stays in the journal, and the
// next run takes it back.
func TestUndoneLater(t *testing.T) {
	t.Parallel()
	l := newLab(t, push)
	s := l.open()
	n := l.nodes(s)[0]
	at := l.at[n.Target().Name]
	at.Inject(transporttest.Fault{Op: "update.upload", After: 5000, Err: transport.ErrRejected})
	at.Inject(transporttest.Fault{Op: "undo", Err: transport.ErrRejected})
	o := deploy(t, n, l.component("7.0", 100_000))
	require.False(t, o.Kind.OK(), "%+v", o)
	require.ErrorIs(t, o.Err, transport.ErrRejected)
	require.NotEmpty(t, at.Leftovers())
	require.ErrorIs(t, s.Close(t.Context()), sum.ErrPending)

	s = l.open()
	rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Outcomes, 1)
	require.Equal(t, sum.Cancelled, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
	require.Empty(t, at.Leftovers())
	require.Zero(t, l.applied(n.Target().Name))
	l.clean(s)
}

// TestUndoneAfterDeadRun: where the driver is not to end the update of a dead run, because
// the component is not at hand or the driver does not know its state, what was prepared is
// taken back before the journal forgets it. That this failed is told and no more.
func TestUndoneAfterDeadRun(t *testing.T) {
	for name, tt := range map[string]struct {
		unknown bool // to the driver
		refused bool
	}{
		"there, without the component":           {},
		"there, what was prepared stays":         {refused: true},
		"state unknown":                          {unknown: true},
		"state unknown, what was prepared stays": {unknown: true, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, push)
			c := l.component("7.0", 1000)
			s := l.open()
			n := l.nodes(s)[0]
			at := l.at[n.Target().Name]
			l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, transporttest.Flash{}).die(s)
			require.Eventually(t, func() bool { return l.applied(n.Target().Name) == 1 }, time.Minute, time.Millisecond)
			require.NotEmpty(t, at.Leftovers(), "nobody has taken back what was prepared")

			var comps []*component.Component
			if tt.unknown {
				at.Inject(transporttest.Fault{Op: "update", Err: transport.ErrInvalid})
				comps = one(c)
			}
			if tt.refused {
				at.Inject(transporttest.Fault{Op: "undo", Err: transport.ErrRejected})
			}
			s = l.open()
			rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, comps...)
			require.NoError(t, err)
			require.Len(t, rec.Outcomes, 1)
			o := rec.Outcomes[0]
			require.Equal(t, sum.Updated, o.Kind, "%+v", o)
			require.Equal(t, tt.refused, strings.Contains(o.Text, "taking back what was prepared"), o.Text)
			require.Equal(t, tt.unknown, strings.Contains(o.Text, "what became of the update is not known"), o.Text)
			require.Equal(t, tt.refused, len(at.Leftovers()) > 0)
			require.Equal(t, 1, l.applied(n.Target().Name))
			l.clean(s)
		})
	}
}

// TestPackageNeedsReboot: the reboot that a component of a server asks for is told, where
// nothing that its installer says asks for it.
func TestPackageNeedsReboot(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	c.Activation = transport.ActivationReboot
	s := l.open()
	o := deploy(t, l.nodes(s)[0], c)
	require.Equal(t, sum.UpdatedNeedsReboot, o.Kind, "%+v", o)
	require.Equal(t, transport.ActivationReboot, o.Activation)
	l.clean(s)
}

// TestProbeWithoutAnswer leaves alone what is not known: a probe that did not end
// does not mean that nothing is installed, nor that nothing is needed.
func TestProbeWithoutAnswer(t *testing.T) {
	l := newLab(t, server)
	name := l.targets[0].Name
	c := l.component("7.0", 100)
	c.Match, c.ProbeArgv = component.Match{Probe: "thing"}, []string{"/bin/thing-version"}
	host := l.agents.Host(name)
	silent := transport.Problem{Part: agent.ProbePart("thing"), Text: "it did not end within 1s"}
	host.SetProblems(silent)
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	require.Zero(t, p.Installs())
	require.True(t, p.Items[0].Unknown)
	require.Contains(t, p.Items[0].Reason, "did not end within 1s")
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Failed, out[0].Kind, "it could not be attempted")
	require.Contains(t, out[0].Text, "did not end within 1s")
	verified, err := sum.Verify(t.Context(), n, p, one(c))
	require.NoError(t, err)
	require.Equal(t, sum.Unverified, verified[0].Kind)
	require.Contains(t, verified[0].Text, "did not end within 1s")
	require.Zero(t, l.applied(name))

	// Neither does what stands behind it go on, for who wants that.
	rest := l.component("7.0", 50)
	rest.Name = "rest"
	both := []*component.Component{c, rest}
	inv, err := sum.Inventory(t.Context(), n, both...)
	require.NoError(t, err)
	out, err = sum.Deploy(t.Context(), n, sum.MakePlan(n.Target(), inv, both, sum.PlanOptions{}), both, sum.DeployOptions{StopOnFailure: true})
	require.NoError(t, err)
	require.Equal(t, []sum.OutcomeKind{sum.Failed, sum.Cancelled}, []sum.OutcomeKind{out[0].Kind, out[1].Kind})

	// It is written if that was asked for, and what was planned is what is done.
	rewrite := plan(t, n, c, sum.PlanOptions{Rewrite: true})
	require.Equal(t, 1, rewrite.Installs())
	require.True(t, rewrite.Items[0].Unknown && rewrite.Items[0].Rewrite)
	require.Contains(t, rewrite.Items[0].Reason, "written as asked, although what is installed is not known: it did not end within 1s")
	out, err = sum.Deploy(t.Context(), n, rewrite, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.Contains(t, out[0].Text, "what is there now is not known")
	require.NotContains(t, out[0].Text, "was there before")
	require.Equal(t, 1, l.applied(name))

	// A target of which more is known by now is not what was planned for.
	host.SetSoftware()
	host.SetProblems()
	for _, stale := range []sum.TargetPlan{p, rewrite} {
		_, err = sum.Deploy(t.Context(), n, stale, one(c), sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPlanStale)
		require.ErrorContains(t, err, "could not be read")
	}
	known := plan(t, n, c, sum.PlanOptions{})
	host.SetProblems(silent)
	_, err = sum.Deploy(t.Context(), n, known, one(c), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.ErrorContains(t, err, "cannot be read any more")
	l.clean(s)
}

// TestResolveWithoutTransport names the caller's mistake.
func TestResolveWithoutTransport(t *testing.T) {
	s, err := sum.Open(t.Context(), sum.Config{Journal: t.TempDir(), Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, nil
	}})
	require.NoError(t, err)
	n, err := s.Node(sum.Target{Kind: sum.Linux, Address: "db1"})
	require.NoError(t, err)
	_, err = sum.Inventory(t.Context(), n)
	require.ErrorIs(t, err, sum.ErrInvalid)
	require.NoError(t, s.Close(t.Context()))
}
