package portalloc

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// held is how many leases stand in front of the one that is measured.
const held = 1000

// BenchmarkListen opens and closes a lease while 1,000 others are held in front
// of it, and in turns a bare listener on one known port. The metric
// rate-vs-bare is how many leases go into the time of one bare listener: 1 is as
// fast, 0.5 half as fast.
func BenchmarkListen(b *testing.B) {
	benchmark(b, TargetToManager, Options{}, func(first uint16) Policy {
		return Policy{First: first, Last: first + 7, Overflow: true}
	})
}

// BenchmarkListenOther measures the other ways to listen, each against bare
// listeners on the same addresses.
func BenchmarkListenOther(b *testing.B) {
	upwards := func(first uint16) Policy { return Policy{First: first, Last: first + 7, Overflow: true} }
	wide := func(first uint16) Policy { return Policy{First: first, Last: first + held + 7} }
	ordered := func(set func(*Policy)) func(uint16) Policy {
		return func(first uint16) Policy {
			p := wide(first)
			set(&p)
			return p
		}
	}
	wildcards := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	for _, c := range []struct {
		name    string
		role    Role
		options Options
		policy  func(first uint16) Policy
	}{
		{"IPv4", TargetToManager, Options{Family: IPv4}, upwards},
		{"loopback", LocalIPC, Options{}, upwards},
		{"both-families", TargetToManager, Options{Addrs: wildcards}, upwards},
		{"random-start", TargetToManager, Options{}, ordered(func(p *Policy) { p.RandomStart = true })},
		{"random", TargetToManager, Options{}, ordered(func(p *Policy) { p.Random = true })},
		{"dynamic", Dynamic, Options{}, func(uint16) Policy { return DefaultPolicies(Current)[Dynamic] }},
	} {
		b.Run(c.name, func(b *testing.B) { benchmark(b, c.role, c.options, c.policy) })
	}
}

func benchmark(b *testing.B, r Role, o Options, policy func(first uint16) Policy) {
	ctx := context.Background()
	first := freePorts(b, held+9)
	a := newAllocator(b, map[Role]Policy{r: policy(first)})
	for range held {
		_, err := a.Listen(ctx, r, o)
		require.NoError(b, err)
	}
	l, err := a.Listen(ctx, r, o)
	require.NoError(b, err)
	var bareAt []netip.AddrPort
	for _, addr := range l.Addrs() {
		bareAt = append(bareAt, netip.AddrPortFrom(addr.Addr(), first+held+8))
	}
	network := map[bool]string{true: "tcp4", false: "tcp6"}
	if len(bareAt) == 1 {
		network[false] = "tcp" // [::] for both families
	}
	require.NoError(b, l.Close())
	// Package net's default, Multipath TCP, is slower and would flatter us.
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)

	const batch = 20 // in turns, so that a loaded machine slows both alike
	var ours, bare time.Duration
	n := 0
	for b.Loop() {
		begun := time.Now()
		for range batch {
			l, err := a.Listen(ctx, r, o)
			if err != nil {
				b.Fatal(err)
			}
			l.Close()
		}
		between := time.Now()
		for range batch {
			lns := make([]net.Listener, len(bareAt))
			for i, addr := range bareAt {
				ln, err := plain.Listen(ctx, network[addr.Addr().Is4()], addr.String())
				if err != nil {
					b.Fatal(err)
				}
				lns[i] = ln
			}
			for _, ln := range lns {
				ln.Close()
			}
		}
		ours += between.Sub(begun)
		bare += time.Since(between)
		n += batch
	}
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "rate-vs-bare")
	b.ReportMetric(float64(n)/ours.Seconds(), "leases/s")
	b.ReportMetric(float64(n)/bare.Seconds(), "bare/s")
	b.ReportMetric(0, "ns/op")
}
