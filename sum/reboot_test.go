package sum_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
)

// rebootLab is a server that restarts when its agent is asked to.
func rebootLab(t *testing.T) (*lab, *sum.Session, *sum.Node) {
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	l.agents.Host(n.Target().Name).OnReboot(func() { l.at[n.Target().Name].RebootNow(3) })
	return l, s, n
}

// TestReboot: it returns when the target answers under another boot ID, and the
// agent's files are known still.
func TestReboot(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*agenttest.Fault{
		"answered": nil,
		// The target goes down before it has answered, or the request never came.
		"the answer is lost":   {Op: agenttest.Reboot, Call: 1, After: true},
		"the question is lost": {Op: agenttest.Reboot, Call: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, s, n := rebootLab(t)
				h := l.agents.Host(n.Target().Name)
				if fault != nil {
					h.Fault(*fault)
				}
				before := l.at[n.Target().Name].Identity().BootID
				id, err := sum.Reboot(t.Context(), n, transport.RebootOptions{Message: "再起動します"})
				require.NoError(t, err)
				require.NotEmpty(t, before)
				require.NotEqual(t, before, id.BootID)
				require.Equal(t, []string{"再起動します"}, h.RebootMessages(), "once")
				require.Equal(t, sum.Updated, deploy(t, n, l.component("2.0", 10)).Kind)
				l.clean(s)
			})
		})
	}
}

// TestRebootNotProven: what cannot be proven is not asked for, and what did not
// happen is not believed.
func TestRebootNotProven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, s, n := rebootLab(t)
		h := l.agents.Host(n.Target().Name)
		h.OnReboot(func() {}) // says yes and goes on
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err := sum.Reboot(ctx, n, transport.RebootOptions{Delay: 90 * time.Second})
		require.ErrorIs(t, err, transport.ErrTimeout)
		require.NoError(t, ctx.Err())
		require.Len(t, h.RebootMessages(), 1)

		h.Fault(agenttest.Fault{Op: agenttest.Reboot, Err: agent.ErrJobRunning})
		_, err = sum.Reboot(ctx, n, transport.RebootOptions{})
		require.ErrorIs(t, err, agent.ErrJobRunning)
		h.ClearFaults()

		h.Fault(agenttest.Fault{Op: agenttest.Reboot}) // the line is lost at each
		_, err = sum.Reboot(ctx, n, transport.RebootOptions{})
		require.ErrorIs(t, err, transport.ErrTimeout)
		require.NoError(t, ctx.Err())
		l.clean(s)
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, push)
		s := l.open()
		for _, n := range l.nodes(s) {
			if l.at[n.Target().Name].Identity().BootID == "" {
				_, err := sum.Reboot(t.Context(), n, transport.RebootOptions{})
				require.ErrorIs(t, err, errors.ErrUnsupported)
			}
		}
		l.clean(s)
	})
}
