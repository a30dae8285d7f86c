package portalloc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// sink accepts connections and closes each when the peer has, or at the end.
func sink(t *testing.T, network, address string) net.Addr {
	t.Helper()
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	ended, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ended, func() { conn.Close() })()
				io.Copy(io.Discard, conn)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		end()
		wg.Wait()
	})
	return ln.Addr()
}

func source(c net.Conn) uint16 { return c.LocalAddr().(*net.TCPAddr).AddrPort().Port() }

func TestDialFromHeldPorts(t *testing.T) {
	server := sink(t, "tcp4", "127.0.0.1:0").String()
	first := freePorts(t, 5)
	foreign(t, "tcp", at("", first+1))
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + 4}, LocalIPC: {First: first, Last: first + 4}})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)

	var conns []net.Conn
	for _, want := range []uint16{first, first + 2} {
		conn, err := d.DialContext(t.Context(), "tcp", server)
		require.NoError(t, err)
		require.Equal(t, want, source(conn))
		require.Equal(t, want, conn.(*Conn).SourcePort())
		requireTaken(t, want)
		conns = append(conns, conn)
	}
	// The range is shared with another role, whose listener passes them over.
	l, err := a.Listen(t.Context(), LocalIPC, Options{})
	require.NoError(t, err)
	require.Equal(t, first+3, l.Port())

	_, err = conns[0].Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, conns[0].Close())
	require.NoError(t, conns[0].Close(), "Close is idempotent")
	require.False(t, a.held.has(first))
	require.True(t, a.held.has(first+2))
}

func TestDialPortIsFreeAgain(t *testing.T) {
	// The server closes first, so that no TIME-WAIT stays on the dialling side.
	ln := foreign(t, "tcp4", "127.0.0.1:0")
	port := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: Fixed(port)})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	for range 3 {
		var conn net.Conn
		poll(t, func() bool {
			conn, err = d.DialContext(t.Context(), "tcp", ln.Addr().String())
			return err == nil
		}, "the source port does not come free")
		in, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, in.Close())
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, conn.Close())
	}
}

func TestDialConcurrently(t *testing.T) {
	server := sink(t, "tcp4", "127.0.0.1:0").String()
	const workers = 32
	first := freePorts(t, workers)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + workers - 1}})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[uint16]bool)
	for range workers {
		wg.Go(func() {
			conn, err := d.DialContext(t.Context(), "tcp", server)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			seen[source(conn)] = true
		})
	}
	wg.Wait()
	require.Len(t, seen, workers)
	_, err = d.DialContext(t.Context(), "tcp", server)
	require.ErrorIs(t, err, ErrExhausted)
	e := asError(t, err)
	require.Equal(t, []Skip{{Range: Range{first, first + workers - 1}, Reason: Held, Role: ManagerToTarget}}, e.Skips)
	require.Equal(t, "dial", e.Op)

	// Closing the allocator closes what it dialled.
	require.NoError(t, a.Close(t.Context()))
	require.Zero(t, a.held)
	_, err = d.DialContext(t.Context(), "tcp", server)
	require.ErrorIs(t, err, ErrClosed)
}

func TestDialRefusedReturnsAtOnce(t *testing.T) {
	first := freePorts(t, 3)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + 1}})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	_, err = d.DialContext(t.Context(), "tcp", at("127.0.0.1", first+2))
	require.Error(t, err)
	if runtime.GOOS != "windows" {
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	require.NotErrorIs(t, err, ErrExhausted)
	require.Equal(t, ManagerToTarget, asError(t, err).Role)
	require.Zero(t, a.held)
}

func TestDialNeverReachesItself(t *testing.T) {
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + 1}})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	// Nobody listens on first: from port first, TCP would connect all the same.
	conn, err := d.DialContext(t.Context(), "tcp", at("127.0.0.1", first))
	require.Error(t, err, "connected to %v", conn)

	foreign(t, "tcp", at("", first+1))
	_, err = d.DialContext(t.Context(), "tcp", at("127.0.0.1", first))
	require.ErrorIs(t, err, ErrExhausted)
	skips := asError(t, err).Skips
	require.Equal(t, SelfConnect, skips[0].Reason)
	require.Equal(t, Busy, skips[1].Reason)
}

func TestDialFamilies(t *testing.T) {
	needIPv6(t)
	six := sink(t, "tcp6", "[::1]:0").String()
	first := freePorts(t, 4)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + 3}})
	d, err := a.Dialer(DialOptions{Local: v6})
	require.NoError(t, err)
	conn, err := d.DialContext(t.Context(), "tcp", six)
	require.NoError(t, err)
	require.Equal(t, netip.AddrPortFrom(v6, first), conn.LocalAddr().(*net.TCPAddr).AddrPort())
	_, err = d.DialContext(t.Context(), "tcp4", six)
	require.ErrorIs(t, err, ErrInvalid)

	// A name with two addresses, of which only one answers.
	any, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	names, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", "localhost")
	require.NoError(t, err)
	if len(names) > 1 {
		_, port, err := net.SplitHostPort(six)
		require.NoError(t, err)
		conn, err := any.DialContext(t.Context(), "tcp", net.JoinHostPort("localhost", port))
		require.NoError(t, err)
		require.Equal(t, first+1, source(conn))
	}

	_, err = a.Dialer(DialOptions{Local: v4, Family: IPv6})
	require.ErrorIs(t, err, ErrInvalid)
	for _, c := range [][2]string{{"udp", six}, {"tcp", "no-port"}, {"tcp", "127.0.0.1:0"}} {
		_, err := any.DialContext(t.Context(), c[0], c[1])
		require.ErrorIs(t, err, ErrInvalid, "%v", c)
	}
}

// stuck returns a dialer whose name look-up never ends by itself, and a channel
// that is closed once it has begun.
func stuck(t *testing.T, a *Allocator) (*Dialer, <-chan struct{}) {
	t.Helper()
	begun := make(chan struct{})
	var once sync.Once
	d, err := a.Dialer(DialOptions{Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			once.Do(func() { close(begun) })
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}})
	require.NoError(t, err)
	return d, begun
}

func TestDialHonoursContextAndClose(t *testing.T) {
	first := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: Fixed(first)})
	cause := errors.New("stopped by hand")
	ctx, cancel := context.WithCancelCause(t.Context())
	d, begun := stuck(t, a)
	errs := make(chan error)
	go func() {
		_, err := d.DialContext(ctx, "tcp", "name.invalid:1")
		errs <- err
	}()
	<-begun
	cancel(cause)
	err := <-errs
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)

	d, begun = stuck(t, a)
	go func() {
		_, err := d.DialContext(context.Background(), "tcp", "name.invalid:1")
		errs <- err
	}()
	<-begun
	closed := make(chan error)
	go func() { closed <- a.Close(context.Background()) }()
	err = <-errs
	require.ErrorIs(t, err, ErrClosed)
	require.NotErrorIs(t, err, context.Canceled, "the caller's context goes on")
	require.Contains(t, err.Error(), "name.invalid:1")
	require.NoError(t, <-closed)
}
