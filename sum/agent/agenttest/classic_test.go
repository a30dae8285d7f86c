package agenttest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// classicStart are options of a start whose places and releases are counted.
type classicStart struct {
	agent.StartOptions
	addrs    []string // as Opened hears of them
	asked    int
	released int
}

func newClassicStart(id string, stay bool) *classicStart {
	s := &classicStart{}
	s.StartOptions = agent.StartOptions{Target: "db1", ID: id,
		Opened: func(_ context.Context, p agent.Place) error { s.addrs = append(s.addrs, p.Addr); return nil },
		Classic: &agent.Classic{Stay: stay, Callback: func(_ context.Context, m *channel.ManagerCredentials) ([]string, func(), error) {
			if m == nil {
				return nil, nil, errors.New("nothing to prove oneself with")
			}
			s.asked++
			return []string{"192.0.2.1:61000"}, func() { s.released++ }, nil
		}}}
	return s
}

// The port of the agent is the first free one, and another when it has moved; what the
// manager got ready it gets back with the end of the agent, once.
func TestClassic(t *testing.T) {
	in := &agenttest.Installer{}
	stays := newClassicStart("a", true)
	a, err := in.Start(t.Context(), newWire(), stays.StartOptions)
	require.NoError(t, err)
	require.Equal(t, []string{"", "[::]:62286"}, stays.addrs)
	require.Equal(t, "[::]:62286", a.Place().Addr)
	require.Equal(t, []string{"192.0.2.1:61000"}, in.Host("db1").Callback())

	second := newClassicStart("b", true)
	b, err := in.Start(t.Context(), newWire(), second.StartOptions)
	require.NoError(t, err)
	require.Equal(t, "[::]:62287", b.Place().Addr, "the first one is taken")

	moves := newClassicStart("c", false)
	c, err := in.Start(t.Context(), newWire(), moves.StartOptions)
	require.NoError(t, err)
	require.Len(t, moves.addrs, 3)
	require.Equal(t, "[::]:62288", moves.addrs[1])
	require.Equal(t, moves.addrs[2], c.Place().Addr)
	require.NotEqual(t, moves.addrs[1], moves.addrs[2])

	for _, x := range []struct {
		agent.Agent
		*classicStart
	}{{a, stays}, {b, second}, {c, moves}} {
		require.Equal(t, 1, x.asked)
		require.Zero(t, x.released)
		_, err = x.Remove(t.Context())
		require.NoError(t, err)
		require.NoError(t, x.Close(t.Context()))
		require.Equal(t, 1, x.released)
	}
	require.NoError(t, in.Check())
}

// Who does not come up gives back what the manager got ready.
func TestClassicFails(t *testing.T) {
	t.Run("the manager is not ready", func(t *testing.T) {
		in := &agenttest.Installer{}
		s := newClassicStart("a", true)
		refuse := errors.New("no port")
		s.Classic.Callback = func(context.Context, *channel.ManagerCredentials) ([]string, func(), error) { return nil, nil, refuse }
		_, err := in.Start(t.Context(), newWire(), s.StartOptions)
		require.ErrorIs(t, err, refuse)
		require.NoError(t, in.Check())
	})
	t.Run("the journal is full", func(t *testing.T) {
		for _, call := range []int{2, 3} {
			in := &agenttest.Installer{}
			s := newClassicStart("a", false)
			refuse := errors.New("journal is full")
			calls := 0
			s.Opened = func(context.Context, agent.Place) error {
				if calls++; calls == call {
					return refuse
				}
				return nil
			}
			_, err := in.Start(t.Context(), newWire(), s.StartOptions)
			require.ErrorIs(t, err, refuse)
			require.Equal(t, 1, s.released)
			require.NoError(t, in.Check())
		}
	})
	t.Run("the answer is lost", func(t *testing.T) {
		in := &agenttest.Installer{}
		in.Host("db1").Fault(agenttest.Fault{Op: agenttest.Start, After: true})
		s := newClassicStart("a", false)
		_, err := in.Start(t.Context(), newWire(), s.StartOptions)
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.Equal(t, 1, s.released)
	})
}
