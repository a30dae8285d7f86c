package portalloc

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPairOneNIC(t *testing.T) {
	first := freePorts(t, 8)
	a := newAllocator(t, map[Role]Policy{
		// Random must not matter: lowest and next are what the rule says.
		TargetToManager: {First: first, Last: first + 7, Random: true},
	})
	foreign(t, "tcp4", at("", first))
	foreign(t, "tcp4", at("", first+2))
	local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
	require.NoError(t, err)
	require.Equal(t, LocalIPC, local.Role())
	require.Equal(t, TargetToManager, remote.Role())
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(v4, first+1)}, local.Addrs())
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), first+3)}, remote.Addrs())
}

func TestPairOneNICFromTheLowest(t *testing.T) {
	first := freePorts(t, 8)
	a := newAllocator(t, map[Role]Policy{TargetToManager: {First: first, Last: first + 7, RandomStart: true}})
	for range 10 {
		local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
		require.NoError(t, err)
		require.Equal(t, []uint16{first, first + 1}, []uint16{local.Port(), remote.Port()})
		require.NoError(t, local.Close())
		require.NoError(t, remote.Close())
	}
}

// TestPairNextIsAbove: a port below the local one comes free before the other is
// looked for.
func TestPairNextIsAbove(t *testing.T) {
	first := freePorts(t, 3)
	a := newAllocator(t, map[Role]Policy{TargetToManager: {First: first, Last: first + 2}})
	other := foreign(t, "tcp4", at("", first))
	real := a.listen
	a.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		ln, err := real(ctx, network, address)
		if err == nil {
			other.Close()
		}
		return ln, err
	}
	local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
	require.NoError(t, err)
	require.Equal(t, []uint16{first + 1, first + 2}, []uint16{local.Port(), remote.Port()})
}

func TestPairOtherwise(t *testing.T) {
	first := freePorts(t, 4)
	a := newAllocator(t, map[Role]Policy{
		LocalIPC:        {First: first, Last: first + 1},
		TargetToManager: {First: first + 2, Last: first + 3},
	})
	local, remote, err := a.ListenPair(t.Context(), PairOptions{})
	require.NoError(t, err)
	require.Equal(t, first, local.Port())
	require.Equal(t, first+2, remote.Port())
	require.True(t, local.Addrs()[0].Addr().IsLoopback())
}

func TestPairBothOrNone(t *testing.T) {
	first := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{TargetToManager: {First: first, Last: first}})
	local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
	require.ErrorIs(t, err, ErrExhausted)
	require.Nil(t, local)
	require.Nil(t, remote)
	require.Equal(t, Skip{Range: Range{first, first}, Reason: Held, Role: LocalIPC}, asError(t, err).Skips[0])
	requireFree(t, first)
	require.Zero(t, a.held)

	_, _, err = a.ListenPair(t.Context(), PairOptions{OneNIC: true, Remote: Options{Family: IPv6}})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestPairsDoNotInterleave(t *testing.T) {
	const pairs = 16
	first := freePorts(t, 2*pairs)
	a := newAllocator(t, map[Role]Policy{TargetToManager: {First: first, Last: first + 2*pairs - 1}})
	var wg sync.WaitGroup
	for range pairs {
		wg.Go(func() {
			local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
			if err != nil {
				t.Error(err)
			} else if remote.Port() != local.Port()+1 {
				t.Errorf("local %d, remote %d: another pair came between", local.Port(), remote.Port())
			}
		})
	}
	wg.Wait()
}

func TestOneNICRule(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for name, c := range map[string]struct {
		nics [][]netip.Addr
		want bool
	}{
		"none":                  {nil, false},
		"one":                   {[][]netip.Addr{addrs("192.0.2.7")}, true},
		"one with link-local 6": {[][]netip.Addr{addrs("192.0.2.7", "fe80::1")}, true},
		"one with two IPv4":     {[][]netip.Addr{addrs("192.0.2.7", "192.0.2.8")}, true},
		"one and an empty one":  {[][]netip.Addr{addrs("192.0.2.7"), nil, addrs("fe80::2")}, true},
		"two":                   {[][]netip.Addr{addrs("192.0.2.7"), addrs("198.51.100.1")}, false},
		"IPv6 too":              {[][]netip.Addr{addrs("192.0.2.7", "2001:db8::1")}, false},
		"IPv6 elsewhere":        {[][]netip.Addr{addrs("192.0.2.7"), addrs("fd00::1")}, false},
		"IPv6 only":             {[][]netip.Addr{addrs("2001:db8::1")}, false},
	} {
		require.Equal(t, c.want, oneNIC(c.nics), name)
	}
	_, err := OneNIC()
	require.NoError(t, err)
}
