package sum_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
)

// newFakeClassicLab is a lab in the classic generation whose agents are those of
// package agenttest alone.
func newFakeClassicLab(t *testing.T, opts sum.ClassicOptions) *lab {
	l := newLab(t, server)
	l.ports = map[portalloc.Role]portalloc.Policy{portalloc.TargetToManager: sum.TestPorts}
	l.way = func(_ sum.Target, p transport.Path) transport.Path {
		p.SeenAs = netip.MustParseAddr("127.0.0.1")
		p.CallbackFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		return p
	}
	l.config = func(c *sum.Config) {
		c.Generation, c.Classic, c.Listen = sum.Classic, opts, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	return l
}

// TestClassicWithFakes: agents of package agenttest call the manager, move where it
// tells them to, and report.
func TestClassicWithFakes(t *testing.T) {
	for _, stay := range []bool{false, true} {
		t.Run(fmt.Sprint("stay: ", stay), func(t *testing.T) {
			l := newFakeClassicLab(t, sum.ClassicOptions{Stay: stay})
			var mu sync.Mutex
			dialled := map[string]bool{}
			l.agents.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				dialled[addr] = true
				mu.Unlock()
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}
			s := l.open()
			n := l.nodes(s)[0]
			p := plan(t, n, l.component("7.0", 100), sum.PlanOptions{})
			host := l.agents.Host(n.Target().Name)
			require.Len(t, host.Callback(), 1)
			require.True(t, dialled[host.Callback()[0]])
			if stay {
				require.Len(t, dialled, 1)
			} else {
				require.Len(t, dialled, 2, "the port of the first contact, and where it moved to")
			}
			host.OnInstall("thing", agenttest.Job{Log: []string{"one\n", "two\n"}})
			out, err := sum.Deploy(t.Context(), n, p, one(l.component("7.0", 100)), sum.DeployOptions{Events: func(e sum.Event) {
				require.NotEqual(t, "callback", e.Phase, e.Text)
			}})
			require.NoError(t, err)
			require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
			l.clean(s)
			_, err = net.Dial("tcp", host.Callback()[0])
			require.Error(t, err, "it is closed with the session")
		})
	}
}

// TestClassicBlockedIsTold: also a site whose jobs end at once hears that the way back
// is blocked; and none waits for a target that has called.
func TestClassicBlockedIsTold(t *testing.T) {
	t.Parallel()
	l := newFakeClassicLab(t, sum.ClassicOptions{})
	l.patience = 500 * time.Millisecond // longer than the job takes
	s := l.open()
	n := l.nodes(s)[0]
	var told []string
	c := l.component("7.0", 100)
	out, err := sum.Deploy(t.Context(), n, plan(t, n, c, sum.PlanOptions{}), one(c), sum.DeployOptions{Events: func(e sum.Event) {
		if e.Phase == "callback" {
			told = append(told, e.Text)
		}
	}})
	require.NoError(t, err)
	require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
	require.Len(t, told, 1)
	require.Contains(t, told[0], l.agents.Host(n.Target().Name).Callback()[0])
	l.clean(s)
}
