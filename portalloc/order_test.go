package portalloc

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDynamicOrder(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic, Exclude: []Range{{2000, 2999}}})
	ports := offered(a, Dynamic)
	// 64511 ports above 1024, less the ports of roles and those excluded.
	others := 8 + 8 + 1 + 6 // 60000-60007, 61000-61007, 62286, 63000-63005
	require.Len(t, ports, 65535-1024-others-1000)
	seen := make(map[uint16]bool)
	for _, p := range ports {
		switch {
		case seen[p]:
			t.Errorf("%d is offered twice", p)
		case p <= 1024, p >= 2000 && p <= 2999:
			t.Errorf("%d is excluded", p)
		case p >= 60000 && p <= 60007, p >= 61000 && p <= 61007, p == 62286, p >= 63000 && p <= 63005:
			t.Errorf("%d belongs to a role", p)
		}
		seen[p] = true
	}
	// One draw says nothing about the next: the steps are not all alike, and two
	// allocators with the same past do not agree. By chance they would, with a
	// probability of 1 in 60000^8.
	require.NotEqual(t, ports[:8], offeredFirst(mustNew(t, Config{Generation: Classic}), Dynamic, 8))
	require.NotEqual(t, ports[1]-ports[0], ports[2]-ports[1])
}

func TestRandomOrder(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic, Policies: map[Role]Policy{
		TargetToManager: {First: 61000, Last: 61007, Overflow: true, Random: true},
	}})
	firsts, upwards := make(map[uint16]int), 0
	const rounds = 400
	for range rounds {
		ports := offeredFirst(a, TargetToManager, 21)
		firsts[ports[0]]++
		if ports[1] == ports[0]+1 {
			upwards++
		}
		require.Equal(t, run(61000, 61007), slices.Sorted(slices.Values(ports[:8])))
		require.Equal(t, run(61008, 61020), ports[8:21])
	}
	// A port is missing by chance in 1 of 10^23 runs.
	require.Len(t, firsts, 8)
	require.Less(t, upwards, rounds, "every choice is followed by the next port")
}

func TestRandomStart(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic, Policies: map[Role]Policy{
		ManagerToTarget: {First: 60000, Last: 60007, Overflow: true, RandomStart: true},
	}})
	starts := make(map[uint16]bool)
	for range 400 {
		ports := offeredFirst(a, ManagerToTarget, 21)
		start := int(ports[0])
		starts[ports[0]] = true
		// From the start upwards, around, and above the range at last.
		require.Equal(t, slices.Concat(run(start, 60007), run(60000, start-1)), ports[:8])
		require.Equal(t, run(60008, 60020), ports[8:21])
	}
	require.Len(t, starts, 8)
}

func TestReservedPorts(t *testing.T) {
	reserved := func(r Role, c Config, ranges ...Range) ([]uint16, []Skip) {
		a := mustNew(t, c)
		for r := range a.bounds {
			a.bounds[r] = boundsFor(r, a.policies, c.Exclude, ranges)
		}
		return collect(a, r)
	}
	classic := Config{Generation: Classic}

	// A part of the range is reserved: for something else.
	ports, passed := reserved(TargetToManager, classic, Range{61000, 61002}, Range{61005, 61005})
	require.Equal(t, []uint16{61003, 61004, 61006, 61007, 61008}, ports[:5])
	require.Equal(t, []Skip{
		{Range: Range{61000, 61002}, Reason: SystemReserved},
		{Range: Range{61005, 61005}, Reason: SystemReserved},
	}, passed[:2])

	// The whole range is: for this program, as the advice of an exhausted range
	// says. Above it the role stays a guest.
	ports, passed = reserved(LocalIPC, classic, Range{60000, 60010})
	require.Equal(t, slices.Concat(run(60000, 60007), run(60011, 60012)), ports[:10])
	require.Equal(t, Skip{Range: Range{60008, 60010}, Reason: SystemReserved}, passed[0])
	ports, _ = reserved(Agent, classic, Range{62286, 62286})
	require.Equal(t, uint16(62286), ports[0])
	own := Config{Policies: map[Role]Policy{Dynamic: {First: 20000, Last: 20007, Random: true}}}
	ports, _ = reserved(Dynamic, own, Range{20000, 20007})
	require.Len(t, ports, 8)

	// Random orders keep to it too, and so does the role with all the ports.
	ports, _ = reserved(HTTP, Config{}, Range{63003, 63004})
	require.Equal(t, []uint16{80, 63000, 63005}, slices.Sorted(slices.Values(ports)))
	ports, _ = reserved(Dynamic, own, Range{20000, 20002})
	require.Equal(t, run(20003, 20007), slices.Sorted(slices.Values(ports)))
	start := Config{Generation: Classic, Policies: map[Role]Policy{LocalIPC: {First: 60000, Last: 60007, RandomStart: true}}}
	ports, _ = reserved(LocalIPC, start, Range{60001, 60006})
	require.Equal(t, []uint16{60000, 60007}, slices.Sorted(slices.Values(ports)))

	// A port that is named is explicit.
	ports, _ = reserved(Port, Config{}, Range{63001, 63001})
	require.Equal(t, []uint16{63001}, ports)
	ports, _ = reserved(HTTP, Config{}, Range{80, 80})
	require.Equal(t, uint16(80), ports[0])
}

func TestPassedOver(t *testing.T) {
	_, passed := collect(mustNew(t, Config{Generation: Classic, Exclude: []Range{{61003, 61009}}}), TargetToManager)
	require.Equal(t, []Skip{
		{Range: Range{61003, 61009}, Reason: Excluded},
		{Range: Range{62286, 62286}, Reason: OtherRole, Role: Agent},
		{Range: Range{63000, 63005}, Reason: OtherRole, Role: HTTP},
	}, passed)
	_, passed = collect(mustNew(t, Config{Policies: map[Role]Policy{Port: Fixed(80)}}), HTTP)
	require.Equal(t, []Skip{{Range: Range{80, 80}, Reason: OtherRole, Role: Port}}, passed)
}

func TestBitmap(t *testing.T) {
	var b bitmap
	next := func(from, last int) int {
		p, ok := b.nextClear(from, last)
		if !ok {
			return -1
		}
		return p
	}
	require.Equal(t, 0, next(0, maxPort))
	for p := 100; p <= 1100; p++ {
		b.set(uint16(p))
	}
	require.Equal(t, 99, next(99, maxPort))
	require.Equal(t, 1101, next(100, maxPort))
	require.Equal(t, -1, next(100, 1100))
	b.clear(640)
	require.Equal(t, 640, next(100, maxPort))
	require.True(t, b.has(641))
	b.set(maxPort)
	require.Equal(t, -1, next(maxPort, maxPort))
	require.Equal(t, -1, next(maxPort+1, maxPort))
}

func TestBitmapRanges(t *testing.T) {
	for _, r := range []Range{{0, 0}, {63, 64}, {1, 62}, {0, 63}, {64, 127}, {100, 1100}, {65535, 65535}, {0, 65535}} {
		var b, none bitmap
		b.setRange(r)
		for p := 0; p <= maxPort; p++ {
			if b.has(uint16(p)) != r.contains(uint16(p)) {
				t.Fatalf("%v: %d is %v", r, p, b.has(uint16(p)))
			}
		}
		_, ok := b.anyClear(&none, r, nil)
		require.False(t, ok)
	}
	// Each clear port is chosen by exactly one number.
	var b, other bitmap
	b.setRange(Range{100, 300})
	b.clear(200)
	other.setRange(Range{310, 400})
	r := Range{150, 420}
	want := slices.Concat([]uint16{200}, run(301, 309), run(401, 420))
	var got []uint16
	for n := range want {
		port, ok := b.anyClear(&other, r, func(count int) int {
			require.Equal(t, len(want), count)
			return n
		})
		require.True(t, ok)
		got = append(got, port)
	}
	require.Equal(t, want, got)
}
