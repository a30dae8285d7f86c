package sum_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// TestSkippedStale: what a plan leaves alone because it is there must still be there.
func TestSkippedStale(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	require.Equal(t, sum.Updated, deploy(t, n, c).Kind)
	p := plan(t, n, c, sum.PlanOptions{})
	require.Zero(t, p.Installs())
	l.agents.Host(n.Target().Name).SetSoftware(transport.Software{Name: "thing", Version: "1.0", Source: "dpkg"})
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.Empty(t, out)
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestForgedAction: an action that the planner would not choose is not carried
// out, such as a downgrade that nobody permitted.
func TestForgedAction(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	l.agents.Host(n.Target().Name).SetSoftware(transport.Software{Name: "thing", Version: "8.0", Source: "dpkg"})
	p := plan(t, n, c, sum.PlanOptions{})
	require.Zero(t, p.Installs())
	p.Items[0].Action = sum.Install
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.Empty(t, out)
	require.Zero(t, l.applied(n.Target().Name))
	l.clean(s)
}

// TestPlanOfAnotherTarget: a plan is for the target that it names, also where it
// tells no identity.
func TestPlanOfAnotherTarget(t *testing.T) {
	t.Parallel()
	l := newLab(t, "hosts behind one login")
	c := l.component("7.0", 100)
	s := l.open()
	nodes := l.nodes(s)
	p := plan(t, nodes[0], c, sum.PlanOptions{})
	p.Identity = transport.Identity{}
	out, err := sum.Deploy(t.Context(), nodes[1], p, one(c), sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.Empty(t, out)
	require.Zero(t, l.applied(nodes[1].Target().Name))
	l.clean(s)
}
