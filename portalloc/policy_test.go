package portalloc

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// collect returns every port that the role would be offered, in order.
func collect(a *Allocator, r Role) []uint16 {
	pl := plan{role: r, policy: a.policies[r], near: a.spans[r][0], open: a.spans[r][1]}
	var ports []uint16
	for port := range a.candidates(pl) {
		a.release(port)
		ports = append(ports, port)
	}
	return ports
}

func mustNew(t *testing.T, c Config) *Allocator {
	t.Helper()
	a, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(context.Background()) })
	// The tests of the documented order must not depend on the host's sysctl.
	for r, s := range a.spans {
		for i := range s {
			s[i] = slices.DeleteFunc(s[i], func(s span) bool { return s.reason == SystemReserved })
		}
		a.spans[r] = s
	}
	return a
}

func run(first, last int) []uint16 {
	var ports []uint16
	for p := first; p <= last; p++ {
		ports = append(ports, uint16(p))
	}
	return ports
}

func TestClassicOrder(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic})

	sixty := slices.Concat(run(60000, 60999), run(61008, 62285), run(62287, 62999), run(63006, 65535))
	require.Equal(t, sixty, collect(a, LocalIPC))
	require.Equal(t, sixty, collect(a, ManagerToTarget))
	require.Equal(t, slices.Concat(run(61000, 62285), run(62287, 62999), run(63006, 65535)), collect(a, TargetToManager))
	require.Equal(t, slices.Concat(run(62286, 62999), run(63006, 65535)), collect(a, Agent))
	require.Equal(t, []uint16{63001}, collect(a, Port))
	require.Equal(t, []uint16{63002}, collect(a, SSLPort))
}

func TestCurrentHasNoClassicRoles(t *testing.T) {
	a := mustNew(t, Config{})
	for _, r := range []Role{LocalIPC, TargetToManager, Agent, FTP} {
		_, err := a.Listen(t.Context(), r, Options{})
		require.ErrorIs(t, err, ErrDisabled, "%v", r)
		require.NotEmpty(t, asError(t, err).Advice)
	}
	_, err := a.Dialer(DialOptions{})
	require.ErrorIs(t, err, ErrDisabled)
}

func TestHTTPOrder(t *testing.T) {
	a := mustNew(t, Config{})
	firsts := make(map[uint16]int)
	for range 200 {
		ports := collect(a, HTTP)
		require.Equal(t, uint16(80), ports[0])
		firsts[ports[1]]++
		rest := slices.Sorted(slices.Values(ports[1:]))
		require.Equal(t, []uint16{63000, 63003, 63004, 63005}, rest, "63001 and 63002 are port and ssl_port")
	}
	require.Len(t, firsts, 4, "200 random choices of 4 ports missed one: %v", firsts)
}

func TestHTTPOrderFollowsTheSettings(t *testing.T) {
	a := mustNew(t, Config{Policies: map[Role]Policy{Port: Fixed(80), SSLPort: Fixed(63004)}})
	ports := slices.Sorted(slices.Values(collect(a, HTTP)))
	require.Equal(t, []uint16{63000, 63001, 63002, 63003, 63005}, ports)

	// Without fallback nothing is left, and the role that has 80 is named.
	_, err := a.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.ErrorIs(t, err, ErrBusy)
	e := asError(t, err)
	require.Equal(t, []Skip{{Range: Range{80, 80}, Reason: OtherRole, Role: Port}}, e.Skips)
	require.Equal(t, Policy{Prefer: []uint16{80}}, e.Policy)
}

func TestDynamicOrder(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic, Exclude: []Range{{2000, 2999}}})
	firsts := make(map[uint16]bool)
	for i := range 8 {
		ports := collect(a, Dynamic)
		firsts[ports[0]] = true
		if i > 0 {
			continue
		}
		// 64511 ports above 1024, less the ports of roles and those excluded.
		others := 8 + 8 + 1 + 6 // 60000-60007, 61000-61007, 62286, 63000-63005
		require.Len(t, ports, 65535-1024-others-1000)
		seen := make(map[uint16]bool)
		for _, p := range ports {
			require.False(t, seen[p], "%d is offered twice", p)
			seen[p] = true
			require.Greater(t, p, uint16(1024))
			require.False(t, p >= 2000 && p <= 2999, "%d is excluded", p)
			require.False(t, p >= 63000 && p <= 63005 || p == 62286, "%d belongs to a role", p)
		}
	}
	// Equal first choices in all 8 runs have a chance of 1 in 64000^7.
	require.Greater(t, len(firsts), 1)
}

func TestRandomStartThenOverflowUpwards(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic, Policies: map[Role]Policy{
		TargetToManager: {First: 61000, Last: 61007, Overflow: true, Random: true},
	}})
	firsts := make(map[uint16]bool)
	for range 100 {
		ports := collect(a, TargetToManager)
		firsts[ports[0]] = true
		require.Equal(t, run(61000, 61007), slices.Sorted(slices.Values(ports[:8])))
		require.Equal(t, run(61008, 61020), ports[8:21])
	}
	require.Greater(t, len(firsts), 1)
}

func TestReservedPortsBindOnlyGuests(t *testing.T) {
	// An administrator reserves 60000-60007 for this very program, as the advice
	// of an exhausted range says: they must stay usable.
	spans := spansFor(LocalIPC, DefaultPolicies(Classic), nil, []Range{{60000, 60010}})
	_, near := within(spans[0], 60000)
	require.False(t, near)
	s, open := within(spans[1], 60009)
	require.True(t, open)
	require.Equal(t, SystemReserved, s.reason)
	s, dynamic := within(spansFor(Dynamic, DefaultPolicies(Current), nil, []Range{{60000, 60010}})[0], 60000)
	require.True(t, dynamic)
	require.Equal(t, SystemReserved, s.reason)
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"one end":           {Policies: map[Role]Policy{HTTP: {First: 5}}},
		"downwards":         {Policies: map[Role]Policy{HTTP: {First: 5, Last: 4}}},
		"port zero":         {Policies: map[Role]Policy{HTTP: Fixed(0)}},
		"overflow of none":  {Policies: map[Role]Policy{HTTP: {Prefer: []uint16{80}, Overflow: true}}},
		"random of none":    {Policies: map[Role]Policy{HTTP: {Random: true}}},
		"unknown role":      {Policies: map[Role]Policy{0: Fixed(80)}},
		"role beyond":       {Policies: map[Role]Policy{lastRole + 1: Fixed(80)}},
		"the same port":     {Policies: map[Role]Policy{Port: Fixed(443), SSLPort: Fixed(443)}},
		"FTP on ssl_port":   {Policies: map[Role]Policy{FTP: Fixed(63002)}},
		"exclude downwards": {Exclude: []Range{{9, 8}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c)
			require.ErrorIs(t, err, ErrInvalid)
		})
	}
}

func TestPolicyIsACopy(t *testing.T) {
	a := mustNew(t, Config{})
	a.Policy(HTTP).Prefer[0] = 1
	require.Equal(t, []uint16{80}, a.Policy(HTTP).Prefer)
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for r := LocalIPC; r <= lastRole; r++ {
		require.NotEmpty(t, r.String())
		require.False(t, seen[r.String()])
		seen[r.String()] = true
	}
	require.Equal(t, "Role(0)", Role(0).String())
	require.Equal(t, "classic", Classic.String())
	require.Equal(t, "80, then 63000-63005 in random order", DefaultPolicies(Current)[HTTP].String())
	require.Equal(t, "61000-61007 and up", DefaultPolicies(Classic)[TargetToManager].String())
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
