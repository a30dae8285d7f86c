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
	"github.com/roundsman-go/roundsman/transport/transporttest"
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
}

// TestRebootDevice: a device restarts by its driver, whatever becomes of the answer.
func TestRebootDevice(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*transporttest.Fault{
		"answered":                      nil,
		"the answer is lost":            {Op: "reboot", Do: transporttest.LoseReply},
		"the question is lost":          {Op: "reboot", Do: transporttest.Cut},
		"it goes down before it is due": {Op: "reboot", Do: transporttest.Reboot},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, push)
				s := l.open()
				n := l.nodes(s)[0]
				at := l.at[n.Target().Name]
				before := at.Identity().BootID
				require.NotEmpty(t, before)
				if fault != nil {
					at.Inject(*fault)
				}
				id, err := sum.Reboot(t.Context(), n, transport.RebootOptions{Message: "再起動します"})
				require.NoError(t, err)
				require.NotEqual(t, before, id.BootID)
				require.Equal(t, at.Identity().BootID, id.BootID, "the one that it has now")
				asked := 1
				if name == "the question is lost" {
					asked = 2
				}
				require.Equal(t, asked, count(l.fake.Ops(at), "reboot"))
				require.Equal(t, sum.Updated, deploy(t, n, l.component("7.0", 100)).Kind)
				l.clean(s)
			})
		})
	}
}

// TestRebootDeviceRefused: what a device refuses, or does not do, is told.
func TestRebootDeviceRefused(t *testing.T) {
	t.Parallel()
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, push)
			s := l.open()
			n := l.nodes(s)[0]
			at := l.at[n.Target().Name]
			before := at.Identity().BootID
			at.Inject(transporttest.Fault{Op: "reboot", Err: transport.ErrRejected})
			_, err := sum.Reboot(t.Context(), n, transport.RebootOptions{})
			require.ErrorIs(t, err, transport.ErrRejected)
			require.Equal(t, 1, count(l.fake.Ops(at), "reboot"), "it is not asked again")
			require.Equal(t, before, at.Identity().BootID)
			l.clean(s)
		})
	})
	t.Run("not done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, push)
			asked := 0
			l.decorate = func(tr transport.Transport) transport.Transport {
				return deviceLike{tr, func(c transport.Conn) transport.Conn { return idle{transport.Forward{Conn: c}, &asked} }}
			}
			s := l.open()
			began := time.Now()
			_, err := sum.Reboot(t.Context(), l.nodes(s)[0], transport.RebootOptions{Delay: 90 * time.Second})
			require.ErrorIs(t, err, transport.ErrTimeout)
			require.Equal(t, 1, asked)
			require.GreaterOrEqual(t, time.Since(began), 12*time.Minute, "the delay in whole minutes, and what a target may be away")
			l.clean(s)
		})
	})
	t.Run("without a boot ID", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, push)
			l.decorate = func(tr transport.Transport) transport.Transport {
				return deviceLike{tr, func(c transport.Conn) transport.Conn { return unborn{transport.Forward{Conn: c}} }}
			}
			s := l.open()
			n := l.nodes(s)[0]
			_, err := sum.Reboot(t.Context(), n, transport.RebootOptions{})
			require.ErrorIs(t, err, errors.ErrUnsupported)
			require.Zero(t, count(l.fake.Ops(l.at[n.Target().Name]), "reboot"), "before anything is asked")
			l.clean(s)
		})
	})
}

// deviceLike changes the connections of a transport.
type deviceLike struct {
	transport.Transport
	change func(transport.Conn) transport.Conn
}

func (d deviceLike) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	c, err := d.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return d.change(c), nil
}

// idle says yes to a restart and goes on.
type idle struct {
	transport.Forward
	asked *int
}

func (i idle) Reboot(context.Context, transport.RebootOptions) error { *i.asked++; return nil }

// unborn tells no boot ID.
type unborn struct{ transport.Forward }

func (u unborn) Identify(ctx context.Context) (transport.Identity, error) {
	id, err := u.Forward.Identify(ctx)
	id.BootID = ""
	return id, err
}
