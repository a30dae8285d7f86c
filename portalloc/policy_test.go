package portalloc

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// collect returns every port that the role would be offered, in order, and what
// was passed over on the way.
func collect(a *Allocator, r Role) (ports []uint16, passed []Skip) {
	pl := plan{role: r, policy: a.policies[r], bounds: a.bounds[r]}
	for port := range a.candidates(pl, &passed) {
		a.release(port)
		ports = append(ports, port)
	}
	return ports, passed
}

func offered(a *Allocator, r Role) []uint16 {
	ports, _ := collect(a, r)
	return ports
}

// offeredFirst returns the first n of them.
func offeredFirst(a *Allocator, r Role, n int) (ports []uint16) {
	for port := range a.candidates(plan{role: r, policy: a.policies[r], bounds: a.bounds[r]}, new([]Skip)) {
		a.release(port)
		if ports = append(ports, port); len(ports) == n {
			break
		}
	}
	return ports
}

// mustNew returns an allocator that does not know what this host reserves: the
// tests of the documented order must not depend on its sysctl.
func mustNew(t *testing.T, c Config) *Allocator {
	t.Helper()
	a, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(context.Background()) })
	for r := range a.bounds {
		a.bounds[r] = boundsFor(r, a.policies, c.Exclude, nil)
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
	require.Equal(t, sixty, offered(a, LocalIPC))
	require.Equal(t, sixty, offered(a, ManagerToTarget))
	require.Equal(t, slices.Concat(run(61000, 62285), run(62287, 62999), run(63006, 65535)), offered(a, TargetToManager))
	require.Equal(t, slices.Concat(run(62286, 62999), run(63006, 65535)), offered(a, Agent))
	require.Equal(t, []uint16{63001}, offered(a, Port))
	require.Equal(t, []uint16{63002}, offered(a, SSLPort))
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
		ports := offered(a, HTTP)
		require.Equal(t, uint16(80), ports[0])
		firsts[ports[1]]++
		rest := slices.Sorted(slices.Values(ports[1:]))
		require.Equal(t, []uint16{63000, 63003, 63004, 63005}, rest, "63001 and 63002 are port and ssl_port")
	}
	require.Len(t, firsts, 4, "200 random choices of 4 ports missed one: %v", firsts)
}

func TestHTTPOrderFollowsTheSettings(t *testing.T) {
	a := mustNew(t, Config{Policies: map[Role]Policy{Port: Fixed(80), SSLPort: Fixed(63004)}})
	ports := slices.Sorted(slices.Values(offered(a, HTTP)))
	require.Equal(t, []uint16{63000, 63001, 63002, 63003, 63005}, ports)

	ports = offered(mustNew(t, Config{Policies: map[Role]Policy{Port: {}, SSLPort: {}}}), HTTP)
	require.Equal(t, uint16(80), ports[0])
	require.Equal(t, run(63000, 63005), slices.Sorted(slices.Values(ports[1:])), "both settings are off")

	// Also where the setting may move, its port is left to it as long as there is
	// a choice.
	for _, port := range []Policy{
		{Prefer: []uint16{63001}, First: 64000, Last: 64007},
		{First: 63001, Last: 63001},
	} {
		ports = offered(mustNew(t, Config{Policies: map[Role]Policy{Port: port}}), HTTP)
		require.NotContains(t, ports, uint16(63001), "port is %v", port)
	}

	ports = offered(mustNew(t, Config{Policies: map[Role]Policy{FTP: Fixed(63003)}}), HTTP)
	require.Equal(t, []uint16{63000, 63004, 63005}, slices.Sorted(slices.Values(ports[1:])), "63003 is ftp_port")

	b := mustNew(t, Config{Policies: map[Role]Policy{Port: Fixed(80), SSLPort: Fixed(443), FTP: Fixed(2121)}})
	require.Equal(t, []uint16{80}, offered(b, Port))
	require.Equal(t, []uint16{443}, offered(b, SSLPort))
	require.Equal(t, []uint16{2121}, offered(b, FTP))
	require.Equal(t, run(63000, 63005), slices.Sorted(slices.Values(offered(b, HTTP))))

	// Without fallback nothing is left, and the role that has 80 is named.
	_, err := a.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.ErrorIs(t, err, ErrBusy)
	e := asError(t, err)
	require.Equal(t, []Skip{{Range: Range{80, 80}, Reason: OtherRole, Role: Port}}, e.Skips)
	require.Equal(t, Policy{Prefer: []uint16{80}}, e.Policy)
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"one end":           {Policies: map[Role]Policy{HTTP: {First: 5}}},
		"downwards":         {Policies: map[Role]Policy{HTTP: {First: 5, Last: 4}}},
		"port zero":         {Policies: map[Role]Policy{HTTP: Fixed(0)}},
		"overflow of none":  {Policies: map[Role]Policy{HTTP: {Prefer: []uint16{80}, Overflow: true}}},
		"random of none":    {Policies: map[Role]Policy{HTTP: {Random: true}}},
		"two orders":        {Policies: map[Role]Policy{HTTP: {First: 5, Last: 9, Random: true, RandomStart: true}}},
		"start of none":     {Policies: map[Role]Policy{HTTP: {Prefer: []uint16{80}, RandomStart: true}}},
		"generation":        {Generation: Classic + 1},
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
	require.Equal(t, "60000-60007 from a random start and up", Policy{First: 60000, Last: 60007, Overflow: true, RandomStart: true}.String())
}
