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

// An outcome that a probe should have proven and did not says what that did.
func TestProbeProvesNothing(t *testing.T) {
	for name, x := range map[string]struct {
		then func(h *agenttest.Host)
		want []string
		not  string
	}{
		"no answer": {func(h *agenttest.Host) {
			h.SetProblems(transport.Problem{Part: agent.ProbePart("thing"), Text: "permission denied"})
		}, []string{"what is there now is not known", `the probe ["/bin/thing-version" "-v"] gave no answer: permission denied`}, "not installed"},
		"not installed": {func(h *agenttest.Host) {
			h.SetNotes(transport.Problem{Part: agent.ProbePart("thing"), Text: `it ended with exit status 3 and printed "no such thing"`})
		}, []string{"thing (not installed), and 7.0 was expected", `the probe ["/bin/thing-version" "-v"] says so: it ended with exit status 3 and printed "no such thing"`}, ""},
		"no version": {func(h *agenttest.Host) {
			h.SetSoftware(transport.Software{Name: "thing", Version: "usage: thing FILE", Source: agent.ProbeSource})
		}, []string{`the probe ["/bin/thing-version" "-v"] ended with exit status 0, and its first line "usage: thing FILE" is no version: `}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			c := l.component("7.0", 100)
			c.Match, c.ProbeArgv = component.Match{Probe: "thing"}, []string{"/bin/thing-version", "-v"}
			s := l.open()
			n := l.nodes(s)[0]
			host := l.agents.Host(n.Target().Name)
			host.SetSoftware()
			p := plan(t, n, c, sum.PlanOptions{})
			require.Equal(t, 1, p.Installs())
			host.OnInstall("thing", agenttest.Job{Effect: func(*agenttest.Machine) {}})
			host.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: 2, Do: func() { x.then(host) }})
			out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
			require.NoError(t, err)
			require.Equal(t, sum.Unverified, out[0].Kind)
			verified, err := sum.Verify(t.Context(), n, p, one(c))
			require.NoError(t, err)
			require.Equal(t, sum.Unverified, verified[0].Kind)
			for _, want := range x.want {
				require.Contains(t, out[0].Text, want)
				require.Contains(t, verified[0].Text, want)
			}
			if x.not != "" {
				require.NotContains(t, out[0].Text, x.not)
			}
			l.clean(s)
		})
	}
}
