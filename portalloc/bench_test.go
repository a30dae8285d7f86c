package portalloc

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkListen opens and closes a lease while 1,000 others are held in front
// of it, and in turns a bare listener on one known port. The metric
// rate-vs-bare is how many leases go into the time of one bare listener: 1 is as
// fast, 0.5 half as fast.
func BenchmarkListen(b *testing.B) {
	const held = 1000
	ctx := context.Background()
	first := freePorts(b, held+2)
	a := newAllocator(b, map[Role]Policy{TargetToManager: {First: first, Last: first + 7, Overflow: true}})
	for range held {
		_, err := a.Listen(ctx, TargetToManager, Options{})
		require.NoError(b, err)
	}
	bareAt := at("", first+held+1)

	const batch = 20 // in turns, so that a loaded machine slows both alike
	var ours, bare time.Duration
	n := 0
	for b.Loop() {
		begun := time.Now()
		for range batch {
			l, err := a.Listen(ctx, TargetToManager, Options{})
			if err != nil {
				b.Fatal(err)
			}
			if l.Port() != first+held {
				b.Fatalf("leased %d", l.Port())
			}
			l.Close()
		}
		between := time.Now()
		for range batch {
			ln, err := net.Listen("tcp", bareAt)
			if err != nil {
				b.Fatal(err)
			}
			ln.Close()
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
