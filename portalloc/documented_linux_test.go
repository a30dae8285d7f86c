package portalloc

import (
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// The tests of this file assert the documented numbers, each in a namespace where
// every port is free.

func newManager(t *testing.T, c Config) *Allocator {
	t.Helper()
	a, err := New(c)
	require.NoError(t, err)
	a.holderTime = time.Minute
	t.Cleanup(func() { require.NoError(t, a.Close(t.Context())) })
	return a
}

// lease listens for the role and returns the port.
func lease(t *testing.T, a *Allocator, r Role, o Options) uint16 {
	t.Helper()
	l, err := a.Listen(t.Context(), r, o)
	require.NoError(t, err)
	return l.Port()
}

// leaseAll leases until an error comes, which it returns.
func leaseAll(t *testing.T, a *Allocator, r Role, o Options) (ports []uint16, err error) {
	t.Helper()
	for range maxPort {
		l, err := a.Listen(t.Context(), r, o)
		if err != nil {
			return ports, err
		}
		ports = append(ports, l.Port())
	}
	t.Fatal("more leases than ports")
	return nil, nil
}

func TestCurrentPorts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	a := newManager(t, Config{})
	require.Equal(t, uint16(80), lease(t, a, HTTP, Options{NoFallback: true}))
	require.Equal(t, uint16(63001), lease(t, a, Port, Options{}))
	require.Equal(t, uint16(63002), lease(t, a, SSLPort, Options{}))
	_, err := a.Listen(t.Context(), FTP, Options{})
	require.ErrorIs(t, err, ErrDisabled)
	require.Greater(t, lease(t, a, Dynamic, Options{}), uint16(1024))

	ports, err := leaseAll(t, a, HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, []uint16{63000, 63003, 63004, 63005}, slices.Sorted(slices.Values(ports)))

	// A second manager on the host has a random port of its own, and is told by
	// whom the fixed ones are taken.
	require.NoError(t, a.Close(t.Context()))
	first := start(t, "hold", nil, nil, ":80")
	require.Equal(t, "ready", first.line(t))
	b := newManager(t, Config{})
	ports, err = leaseAll(t, b, HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, []uint16{63000, 63003, 63004, 63005}, slices.Sorted(slices.Values(ports)))
	_, err = b.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.ErrorIs(t, err, ErrBusy)
	require.Equal(t, first.cmd.Process.Pid, asError(t, err).Skips[0].Holders[0].PID)
}

func TestChangedSettings(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	a := newManager(t, Config{Policies: map[Role]Policy{Port: Fixed(80), SSLPort: Fixed(443), FTP: Fixed(21)}})
	ports, err := leaseAll(t, a, HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, run(63000, 63005), slices.Sorted(slices.Values(ports)), "63001 and 63002 are nobody's now, 80 is port's")
	require.Equal(t, uint16(80), lease(t, a, Port, Options{}))
	require.Equal(t, uint16(443), lease(t, a, SSLPort, Options{}))
	require.Equal(t, uint16(21), lease(t, a, FTP, Options{}))
}

func TestClassicPorts(t *testing.T) {
	if !inNamespace(t, nic("nic0", nic4+"/24")...) {
		return
	}
	a := newManager(t, Config{Generation: Classic})
	local, remote, err := a.ListenPair(t.Context(), PairOptions{OneNIC: true})
	require.NoError(t, err)
	require.Equal(t, []uint16{61000, 61001}, []uint16{local.Port(), remote.Port()})
	local, remote, err = a.ListenPair(t.Context(), PairOptions{})
	require.NoError(t, err)
	require.Equal(t, []uint16{60000, 61002}, []uint16{local.Port(), remote.Port()})
	require.Equal(t, uint16(62286), lease(t, a, Agent, Options{}))
	require.Equal(t, uint16(62287), lease(t, a, Agent, Options{}), "the next free one on conflict")

	// The agent is dialled from the first source port that is left.
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	conn, err := d.DialContext(t.Context(), "tcp", nic4+":62286")
	require.NoError(t, err)
	require.Equal(t, uint16(60001), conn.(*Conn).SourcePort())

	// The web server's and the settings' ports are those of the current
	// generation.
	require.Equal(t, uint16(80), lease(t, a, HTTP, Options{}))
	require.Equal(t, uint16(63001), lease(t, a, Port, Options{}))
	require.Equal(t, uint16(63002), lease(t, a, SSLPort, Options{}))

	// A second manager goes on where the first one stopped.
	b := newManager(t, Config{Generation: Classic})
	local, remote, err = b.ListenPair(t.Context(), PairOptions{OneNIC: true})
	require.NoError(t, err)
	require.Equal(t, []uint16{61003, 61004}, []uint16{local.Port(), remote.Port()})
	require.Equal(t, uint16(62288), lease(t, b, Agent, Options{}))
}

// TestClassicRangesGrow holds ports until there are no more.
func TestClassicRangesGrow(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	var files syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	if files.Max < 16<<10 {
		realtest.Missing(t, fmt.Sprintf("the right to open 16384 files; the limit is %d", files.Max))
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files.Max, Max: files.Max}))

	a := newManager(t, Config{Generation: Classic})
	ports, err := leaseAll(t, a, TargetToManager, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, slices.Concat(run(61000, 62285), run(62287, 62999), run(63006, 65535)), ports)
	e := asError(t, err)
	require.Equal(t, Skip{Range: Range{61000, 62285}, Reason: Held, Role: TargetToManager}, e.Skips[0])
	require.Equal(t, Skip{Range: Range{62286, 62286}, Reason: OtherRole, Role: Agent}, e.Skips[1])
	require.Contains(t, err.Error(), "close leases")

	// Hundreds of connections, each from a port of its own, in order; they too
	// leave out what another role or program has.
	foreign(t, "tcp", ":60005")
	server := sink(t, "tcp4", "127.0.0.1:9000").String()
	d, err := a.Dialer(DialOptions{Family: IPv4})
	require.NoError(t, err)
	var sources []uint16
	for range 600 {
		conn, err := d.DialContext(t.Context(), "tcp", server)
		require.NoError(t, err)
		sources = append(sources, source(conn))
	}
	require.Equal(t, slices.Concat(run(60000, 60004), run(60006, 60600)), sources)

	// The roles that share the range share what is left of it, up to 61000 and,
	// since the others have everything above, not a port further.
	ports, err = leaseAll(t, a, LocalIPC, Options{Family: IPv4})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, run(60601, 60999), ports)
}

func TestPortsReservedOnTheHost(t *testing.T) {
	if !inNamespace(t, "ipv4/ip_local_reserved_ports = 61000-61002,60000-60007,63000-63004") {
		return
	}
	a := newManager(t, Config{Generation: Classic})
	l, err := a.Listen(t.Context(), TargetToManager, Options{})
	require.NoError(t, err)
	require.Equal(t, uint16(61003), l.Port())
	require.Equal(t, []Skip{{Range: Range{61000, 61002}, Reason: SystemReserved}}, l.Skipped())
	require.Equal(t, uint16(60000), lease(t, a, LocalIPC, Options{}), "all of this range is reserved: for us")

	require.Equal(t, uint16(80), lease(t, a, HTTP, Options{}))
	require.Equal(t, uint16(63005), lease(t, a, HTTP, Options{}), "the only one that is not reserved")
	_, err = a.Listen(t.Context(), HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Contains(t, asError(t, err).Skips, Skip{Range: Range{63003, 63004}, Reason: SystemReserved})
	require.Equal(t, uint16(63001), lease(t, a, Port, Options{}), "a port that is named is explicit")

	// To reserve the range is no advice where it is reserved.
	foreign(t, "tcp", ":60001")
	b := newManager(t, Config{Policies: map[Role]Policy{LocalIPC: {First: 60001, Last: 60001}}})
	_, err = b.Listen(t.Context(), LocalIPC, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.NotContains(t, err.Error(), "sysctl")
}

func TestPrivilegedPorts(t *testing.T) {
	if !inNamespace(t, "ipv4/ip_unprivileged_port_start = 1024") {
		return
	}
	become(t, nobody)
	a := newManager(t, Config{Policies: map[Role]Policy{Port: Fixed(81)}})
	for r, o := range map[Role]Options{HTTP: {NoFallback: true}, Port: {}} {
		_, err := a.Listen(t.Context(), r, o)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorIs(t, err, syscall.EACCES)
		require.NotErrorIs(t, err, ErrBusy)
		require.Contains(t, asError(t, err).Advice, "CAP_NET_BIND_SERVICE")
	}
	l, err := a.Listen(t.Context(), HTTP, Options{})
	require.NoError(t, err)
	require.Contains(t, run(63000, 63005), l.Port())
	require.Len(t, l.Skipped(), 1)
	require.Equal(t, Range{80, 80}, l.Skipped()[0].Range)
	require.Equal(t, Denied, l.Skipped()[0].Reason)
}

// TestPrivilegedPartOfARange has a host where more ports than usual need a right.
func TestPrivilegedPartOfARange(t *testing.T) {
	if !inNamespace(t, "ipv4/ip_local_port_range = 62000 62999", "ipv4/ip_unprivileged_port_start = 61004") {
		return
	}
	become(t, nobody)
	a := newManager(t, Config{Generation: Classic})
	l, err := a.Listen(t.Context(), TargetToManager, Options{})
	require.NoError(t, err)
	require.Equal(t, uint16(61004), l.Port())
	require.Len(t, l.Skipped(), 1, "%v", l.Skipped())
	require.Equal(t, Range{61000, 61003}, l.Skipped()[0].Range)
	require.Equal(t, Denied, l.Skipped()[0].Reason)
	require.ErrorIs(t, l.Skipped()[0].Err, syscall.EACCES)

	// The source ports too: bind refuses them, and the next one serves.
	d, err := a.Dialer(DialOptions{Family: IPv4})
	require.NoError(t, err)
	conn, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:61004")
	require.NoError(t, err)
	require.Equal(t, uint16(61008), source(conn), "61004 is the target's own, the rest another role's")
}

// TestProhibitedTarget has a network that refuses a connection with the error
// that is otherwise about the port.
func TestProhibitedTarget(t *testing.T) {
	if !inNamespace(t, append(nic("nic0", nic4+"/24"), "ip route add prohibit 198.51.100.0/24")...) {
		return
	}
	a := newManager(t, Config{Generation: Classic})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	_, err = d.DialContext(t.Context(), "tcp", "198.51.100.1:62286")
	require.ErrorIs(t, err, syscall.EACCES)
	require.NotErrorIs(t, err, ErrExhausted)
	require.Nil(t, asError(t, err).Kind)
	require.Empty(t, asError(t, err).Skips)
}

func TestNoPortIsPrivileged(t *testing.T) {
	if !inNamespace(t, "ipv4/ip_unprivileged_port_start = 0") {
		return
	}
	become(t, nobody)
	a := newManager(t, Config{})
	require.Equal(t, uint16(80), lease(t, a, HTTP, Options{NoFallback: true}))
}
