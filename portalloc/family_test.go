package portalloc

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var (
	v4 = netip.MustParseAddr("127.0.0.1")
	v6 = netip.IPv6Loopback()
)

// reach returns which of the loopback addresses answer on the port.
func reach(port uint16) (got []string) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		if conn, err := net.Dial("tcp", at(host, port)); err == nil {
			conn.Close()
			got = append(got, host)
		}
	}
	return got
}

func TestFamilies(t *testing.T) {
	needIPv6(t)
	both := []string{"127.0.0.1", "::1"}
	for name, c := range map[string]struct {
		role    Role
		options Options
		answers []string
		sockets int
	}{
		"dual":             {Port, Options{}, both, 1},
		"IPv4":             {Port, Options{Family: IPv4}, both[:1], 1},
		"IPv6":             {Port, Options{Family: IPv6}, both[1:], 1},
		"loopback":         {Port, Options{Loopback: true}, both, 2},
		"loopback IPv4":    {Port, Options{Loopback: true, Family: IPv4}, both[:1], 1},
		"loopback IPv6":    {Port, Options{Loopback: true, Family: IPv6}, both[1:], 1},
		"two addresses":    {Port, Options{Addrs: []netip.Addr{v4, v6}}, both, 2},
		"both wildcards":   {Port, Options{Addrs: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}}, both, 2},
		"one wildcard":     {Port, Options{Addrs: []netip.Addr{netip.IPv6Unspecified()}}, both[1:], 1},
		"mapped address":   {Port, Options{Addrs: []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1")}}, both[:1], 1},
		"local by default": {LocalIPC, Options{}, both, 2},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePorts(t, 1)
			a := newAllocator(t, map[Role]Policy{c.role: Fixed(port)})
			l, err := a.Listen(t.Context(), c.role, c.options)
			require.NoError(t, err)
			require.Equal(t, c.answers, reach(port))
			require.Len(t, l.Addrs(), c.sockets)
			for _, addr := range l.Addrs() {
				require.Equal(t, port, addr.Port())
				if c.role == LocalIPC {
					require.True(t, addr.Addr().IsLoopback())
				}
			}
			require.NoError(t, l.Close())
			require.Empty(t, reach(port))
		})
	}
}

func TestDualConflicts(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("not run: here a wildcard and a specific address share a port")
	}
	needIPv6(t)
	for _, address := range []string{"127.0.0.1", "0.0.0.0", "::1"} {
		first := freePorts(t, 2)
		foreign(t, "tcp", at(address, first))
		a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
		l, err := a.Listen(t.Context(), Agent, Options{})
		require.NoError(t, err)
		require.Equal(t, first+1, l.Port(), "%s has the first port", address)
	}
}

func TestBothFamiliesOrNone(t *testing.T) {
	needIPv6(t)
	first := freePorts(t, 3)
	six := foreign(t, "tcp6", at("::1", first))
	four := foreign(t, "tcp4", at("127.0.0.1", first+1))
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 2}})
	l, err := a.Listen(t.Context(), Agent, Options{Addrs: []netip.Addr{v4, v6}})
	require.NoError(t, err)
	require.Equal(t, first+2, l.Port(), "only here both families are free")
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(v4, first+2), netip.AddrPortFrom(v6, first+2)}, l.Addrs())
	// Of the ports that were free in one family nothing is left open.
	require.Equal(t, []string{"::1"}, reach(first))
	require.Equal(t, []string{"127.0.0.1"}, reach(first+1))
	require.NoError(t, six.Close())
	require.NoError(t, four.Close())

	// An address this host does not have is no reason to try the next port.
	_, err = a.Listen(t.Context(), Agent, Options{Addrs: []netip.Addr{v4, netip.MustParseAddr("192.0.2.1")}})
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrExhausted)
	require.NotEmpty(t, asError(t, err).Advice)
	require.Empty(t, reach(first))
}

func TestAddrsAreChecked(t *testing.T) {
	a := newAllocator(t, map[Role]Policy{Agent: Fixed(freePorts(t, 1))})
	for name, o := range map[string]Options{
		"twice":        {Addrs: []netip.Addr{v4, v4}},
		"twice mapped": {Addrs: []netip.Addr{v4, netip.MustParseAddr("::ffff:127.0.0.1")}},
		"zero":         {Addrs: []netip.Addr{{}}},
		"family":       {Family: IPv6, Addrs: []netip.Addr{v4}},
		"and loopback": {Loopback: true, Addrs: []netip.Addr{v4}},
	} {
		_, err := a.Listen(t.Context(), Agent, o)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
}

func TestSeveralSocketsAccept(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	needIPv6(t)
	port := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{LocalIPC: Fixed(port)})
	l, err := a.Listen(t.Context(), LocalIPC, Options{})
	require.NoError(t, err)

	for _, host := range []string{"127.0.0.1", "::1", "127.0.0.1"} {
		out, err := net.Dial("tcp", at(host, port))
		require.NoError(t, err)
		in, err := l.Accept()
		require.NoError(t, err)
		require.IsType(t, &net.TCPConn{}, in)
		require.Equal(t, out.LocalAddr().String(), in.RemoteAddr().String())
		in.Close()
		out.Close()
	}

	// Close wakes all that wait, also with connections nobody took.
	var waiting sync.WaitGroup
	pending, err := net.Dial("tcp", at("::1", port))
	require.NoError(t, err)
	defer pending.Close()
	errs := make(chan error, 4)
	for range 4 {
		waiting.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					errs <- err
					return
				}
				conn.Close()
			}
		})
	}
	require.NoError(t, l.Close())
	waiting.Wait()
	for range 4 {
		require.ErrorIs(t, <-errs, net.ErrClosed)
	}
	require.Empty(t, reach(port))
}

func TestAcceptOnlyAfterClose(t *testing.T) {
	needIPv6(t)
	a := newAllocator(t, map[Role]Policy{LocalIPC: Fixed(freePorts(t, 1))})
	l, err := a.Listen(t.Context(), LocalIPC, Options{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
