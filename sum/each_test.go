package sum_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// fleet is nodes that nobody connects to: n at each address.
func fleet(t *testing.T, n int, addresses ...string) []*sum.Node {
	t.Helper()
	s, err := sum.Open(t.Context(), sum.Config{Journal: t.TempDir(),
		Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
			return nil, transport.Endpoint{}, errors.New("never called")
		}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	var out []*sum.Node
	for i := range n {
		for _, a := range addresses {
			node, err := s.Node(sum.Target{Kind: sum.VMware, Address: a, Object: fmt.Sprint(i)})
			require.NoError(t, err)
			out = append(out, node)
		}
	}
	return out
}

func addresses(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("host%d", i)
	}
	return out
}

func name(_ context.Context, n *sum.Node) (string, error) { return n.Target().String(), nil }

func TestEachYieldsEveryNodeOnce(t *testing.T) {
	nodes := fleet(t, 5, addresses(20)...)
	for _, opts := range []sum.EachOptions{{}, {Parallel: 1}, {Parallel: 1000, PerAddress: 1}} {
		seq := sum.Each(t.Context(), nodes, opts, name)
		for range 2 { // a sequence can be used again
			got := map[*sum.Node]string{}
			for r := range seq {
				require.NoError(t, r.Err)
				require.NotContains(t, got, r.Node)
				got[r.Node] = r.Value
			}
			require.Len(t, got, len(nodes))
			for n, v := range got {
				require.Equal(t, n.Target().String(), v)
			}
		}
	}
}

func TestEachNothing(t *testing.T) {
	for range sum.Each(t.Context(), nil, sum.EachOptions{}, name) {
		require.Fail(t, "there is no node")
	}
}

// meter counts how many steps run at a time, in all and at each address.
type meter struct {
	mu         sync.Mutex
	now, most  int
	at, mostAt map[string]int
	started    int
}

func (m *meter) enter(n *sum.Node) (leave func()) {
	a := n.Target().Address
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == nil {
		m.at, m.mostAt = map[string]int{}, map[string]int{}
	}
	m.started++
	m.now++
	m.at[a]++
	m.most, m.mostAt[a] = max(m.most, m.now), max(m.mostAt[a], m.at[a])
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.now--
		m.at[a]--
	}
}

// TestEachLimits lets every step take a second of a false clock: the limits are
// kept, and used up.
func TestEachLimits(t *testing.T) {
	for _, tt := range []struct {
		name         string
		each         int
		hosts        int
		opts         sum.EachOptions
		most, mostAt int
		took         time.Duration
	}{
		{"parallel", 1, 10, sum.EachOptions{Parallel: 3}, 3, 1, 4 * time.Second},
		{"default parallel", 1, 100, sum.EachOptions{}, 32, 1, 4 * time.Second},
		{"per address", 8, 1, sum.EachOptions{PerAddress: 2}, 2, 2, 4 * time.Second},
		{"default per address", 10, 1, sum.EachOptions{}, 4, 4, 3 * time.Second},
		{"both", 6, 4, sum.EachOptions{Parallel: 8, PerAddress: 2}, 8, 2, 3 * time.Second},
		// Without PerAddress one address would take all places.
		{"a crowd does not hold up the others", 4, 8, sum.EachOptions{Parallel: 8, PerAddress: 1}, 8, 1, 4 * time.Second},
		{"more places than nodes", 1, 3, sum.EachOptions{Parallel: 1 << 30, PerAddress: 1 << 30}, 3, 1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := fleet(t, tt.each, addresses(tt.hosts)...)
			slices.SortStableFunc(nodes, func(a, b *sum.Node) int { // crowds first
				return slices.Compare([]byte(a.Target().Address), []byte(b.Target().Address))
			})
			synctest.Test(t, func(t *testing.T) {
				var m meter
				start := time.Now()
				n := 0
				for range sum.Each(t.Context(), nodes, tt.opts, func(_ context.Context, n *sum.Node) (int, error) {
					defer m.enter(n)()
					time.Sleep(time.Second)
					return 0, nil
				}) {
					n++
				}
				require.Equal(t, len(nodes), n)
				require.Equal(t, tt.most, m.most)
				for a, most := range m.mostAt {
					require.Equal(t, tt.mostAt, most, a)
				}
				require.Equal(t, tt.took, time.Since(start))
			})
		})
	}
}

// TestEachAsTheyCome: a slow node does not keep results of others back.
func TestEachAsTheyCome(t *testing.T) {
	nodes := fleet(t, 1, "slow", "fast")
	release := make(chan struct{})
	var got []string
	for r := range sum.Each(t.Context(), nodes, sum.EachOptions{}, func(_ context.Context, n *sum.Node) (string, error) {
		if n.Target().Address == "slow" {
			<-release
		}
		return n.Target().Address, nil
	}) {
		if got = append(got, r.Value); r.Value == "fast" {
			close(release)
		}
	}
	require.Equal(t, []string{"fast", "slow"}, got)
}

func TestEachFailureStopsNobody(t *testing.T) {
	nodes := fleet(t, 1, addresses(50)...)
	broken := errors.New("broken")
	failed, ok := 0, 0
	for r := range sum.Each(t.Context(), nodes, sum.EachOptions{Parallel: 4}, func(ctx context.Context, n *sum.Node) (int, error) {
		if n.Target().Address[len(n.Target().Address)-1] == '3' {
			return 7, broken
		}
		return 1, ctx.Err()
	}) {
		if r.Err != nil {
			require.Equal(t, broken, r.Err, "as the step gave it")
			require.Equal(t, 7, r.Value)
			failed++
		} else {
			ok++
		}
	}
	require.Equal(t, 5, failed)
	require.Equal(t, 45, ok)
}

// TestEachBreak leaves the loop early: what runs is cancelled and joined before
// the loop is left, and nothing begins any more.
func TestEachBreak(t *testing.T) {
	nodes := fleet(t, 4, addresses(25)...)
	leave := map[string]func(sum.Result[int]) bool{
		"break": func(sum.Result[int]) bool { return true },
		"panic": func(sum.Result[int]) bool { panic("of the caller") },
	}
	for how, stop := range leave {
		t.Run(how, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			var m meter
			var cancelled atomic.Int64
			started := make(chan struct{}, len(nodes))
			func() {
				defer func() { require.Equal(t, how == "panic", recover() != nil) }()
				for r := range sum.Each(t.Context(), nodes, sum.EachOptions{Parallel: 8}, func(ctx context.Context, n *sum.Node) (int, error) {
					defer m.enter(n)()
					started <- struct{}{}
					if n == nodes[0] {
						for range 8 { // until all others run
							<-started
						}
						return 1, nil
					}
					<-ctx.Done()
					time.Sleep(10 * time.Millisecond) // cleaning up takes its time
					cancelled.Add(1)
					return 0, ctx.Err()
				}) {
					require.Equal(t, nodes[0], r.Node)
					if stop(r) {
						break
					}
				}
			}()
			require.Zero(t, m.now, "the loop was left while steps ran")
			require.GreaterOrEqual(t, cancelled.Load(), int64(7))
			require.LessOrEqual(t, m.started, 9, "a step began after the break")
			goleak.VerifyNone(t, before)
		})
	}
}

// TestEachContextEnds: every node has a result; of those that had not begun it is
// the context's error.
func TestEachContextEnds(t *testing.T) {
	for name, limit := range map[string]sum.EachOptions{"parallel": {Parallel: 3, PerAddress: 3}, "per address": {Parallel: 50, PerAddress: 3}} {
		t.Run(name, func(t *testing.T) {
			nodes := fleet(t, 20, "one")
			before := goleak.IgnoreCurrent()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var begun atomic.Int64
			late, inStep := 0, 0
			for r := range sum.Each(ctx, nodes, limit, func(ctx context.Context, n *sum.Node) (string, error) {
				if begun.Add(1) == 3 {
					cancel()
				}
				<-ctx.Done()
				return "begun", ctx.Err()
			}) {
				require.ErrorIs(t, r.Err, context.Canceled)
				if r.Value == "begun" {
					inStep++
					continue
				}
				late++
				var e *sum.Error
				require.ErrorAs(t, r.Err, &e)
				require.Equal(t, r.Node.Target().String(), e.Target)
			}
			require.Equal(t, 3, inStep)
			require.Equal(t, 17, late)
			goleak.VerifyNone(t, before)
		})
	}
}

// TestEachThousands: goroutines are bounded by Parallel, not by the fleet, also
// where it is behind one address.
func TestEachThousands(t *testing.T) {
	for how, nodes := range map[string][]*sum.Node{"addresses": fleet(t, 1, addresses(5000)...), "one address": fleet(t, 5000, "vcenter")} {
		t.Run(how, func(t *testing.T) {
			base := runtime.NumGoroutine()
			var most atomic.Int64
			n := 0
			start := time.Now()
			for r := range sum.Each(t.Context(), nodes, sum.EachOptions{Parallel: 16}, func(context.Context, *sum.Node) (int, error) {
				g := int64(runtime.NumGoroutine() - base)
				for old := most.Load(); g > old && !most.CompareAndSwap(old, g); old = most.Load() {
				}
				return 0, nil
			}) {
				require.NoError(t, r.Err)
				n++
			}
			require.Equal(t, 5000, n)
			require.LessOrEqual(t, most.Load(), int64(16+2))
			t.Logf("5,000 nodes took %v", time.Since(start))
		})
	}
}
