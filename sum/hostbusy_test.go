package sum_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// A host on which another manager's job runs is left alone, whether that is known
// at once or only when the job is about to begin, and the outcome says what to do.
func TestHostBusy(t *testing.T) {
	for name, set := range map[string]func(h *agenttest.Host){
		"refused": func(h *agenttest.Host) {
			h.Fault(agenttest.Fault{Op: agenttest.Install, Call: 1, Err: agent.HostBusyError("install", "t", agent.HostHolder{Component: "other", Version: "1.0"})})
		},
		"lost the race": func(h *agenttest.Host) { h.OnInstall("thing", agenttest.Job{HostBusy: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			s := l.open()
			n := l.nodes(s)[0]
			host := l.agents.Host(n.Target().Name)
			set(host)
			inventories := host.Calls(agenttest.Inventory)
			o := deploy(t, n, l.component("7.0", 100))
			require.Equal(t, sum.Failed, o.Kind, "%+v", o)
			require.ErrorIs(t, o.Err, agent.ErrHostBusy)
			require.ErrorIs(t, o.Err, transport.ErrBusy)
			// Who and what to do, and nothing of the way that it took.
			require.Regexp(t, `^another job, or a restart, has this host: "other 1\.0" runs there( since \S+ \(job "" of agent "another"\))?; `+
				`run again when that has ended; if it brings the same version, nothing will be needed then$`, o.Text)
			require.EqualError(t, o.Err, o.Text)
			require.LessOrEqual(t, host.Calls(agenttest.Inventory)-inventories, 2, "nothing was begun, so nothing is read again")
			require.Zero(t, l.applied(n.Target().Name))
			// Nothing of it waits to be recovered, and the next attempt does it.
			rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
			require.NoError(t, err)
			require.Empty(t, rec.Outcomes)
			// Nor does the rest of a plan go on without it.
			set(host)
			other := l.component("7.0", 50)
			other.Name = "rest"
			both := []*component.Component{l.component("7.0", 100), other}
			inv, err := sum.Inventory(t.Context(), n, both...)
			require.NoError(t, err)
			out, err := sum.Deploy(t.Context(), n, sum.MakePlan(n.Target(), inv, both, sum.PlanOptions{}), both, sum.DeployOptions{})
			require.NoError(t, err)
			require.Equal(t, []sum.OutcomeKind{sum.Failed, sum.Cancelled}, []sum.OutcomeKind{out[0].Kind, out[1].Kind})
			require.Zero(t, l.applied(n.Target().Name))
			host.OnInstall("thing", agenttest.Job{})
			require.Equal(t, sum.Updated, deploy(t, n, l.component("7.0", 100)).Kind)
			l.clean(s)
		})
	}
}
