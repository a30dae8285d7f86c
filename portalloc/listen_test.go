package portalloc

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFirstFree(t *testing.T) {
	first := freePorts(t, 8)
	a := newAllocator(t, map[Role]Policy{TargetToManager: {First: first, Last: first + 7}})
	foreign(t, "tcp", at("", first+1))

	var got []uint16
	for range 3 {
		l, err := a.Listen(t.Context(), TargetToManager, Options{})
		require.NoError(t, err)
		require.Equal(t, TargetToManager, l.Role())
		requireTaken(t, l.Port())
		got = append(got, l.Port())
		if len(got) > 1 {
			skipped := l.Skipped()
			require.Len(t, skipped, 1)
			require.Equal(t, Range{first + 1, first + 1}, skipped[0].Range)
			require.Equal(t, Busy, skipped[0].Reason)
			require.Error(t, skipped[0].Err)
		} else {
			require.Empty(t, l.Skipped())
		}
	}
	require.Equal(t, []uint16{first, first + 2, first + 3}, got)
}

func TestClosedLeaseGivesThePortBack(t *testing.T) {
	first := freePorts(t, 4)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 3}})
	l, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first, l.Port())
	require.NoError(t, l.Close())
	require.NoError(t, l.Close(), "Close is idempotent")
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)

	again, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first, again.Port())
	require.NoError(t, l.Close(), "a late second Close must not free the new lease")
	third, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first+1, third.Port())
}

func TestOverflow(t *testing.T) {
	first := freePorts(t, 6)
	a := newAllocator(t, map[Role]Policy{
		Agent: {First: first, Last: first, Overflow: true},
		Port:  Fixed(first + 1),
		HTTP:  {First: first + 2, Last: first + 3, Random: true},
	})
	for _, want := range []uint16{first, first + 4, first + 5} {
		l, err := a.Listen(t.Context(), Agent, Options{})
		require.NoError(t, err)
		require.Equal(t, want, l.Port())
	}
}

func TestFallback(t *testing.T) {
	first := freePorts(t, 7)
	web := first + 6
	a := newAllocator(t, map[Role]Policy{
		HTTP:    {Prefer: []uint16{web}, First: first, Last: first + 5, Random: true},
		Port:    Fixed(first + 1),
		SSLPort: Fixed(first + 2),
	})
	l, err := a.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.NoError(t, err)
	require.Equal(t, web, l.Port())
	require.NoError(t, l.Close())

	foreign(t, "tcp", at("", web))
	_, err = a.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.ErrorIs(t, err, ErrBusy)
	e := asError(t, err)
	require.Equal(t, HTTP, e.Role)
	require.Equal(t, Range{web, web}, e.Skips[0].Range)
	require.Equal(t, Busy, e.Skips[0].Reason)
	require.NotEmpty(t, e.Advice)

	seen := make(map[uint16]bool)
	for range 4 {
		l, err := a.Listen(t.Context(), HTTP, Options{})
		require.NoError(t, err)
		require.Equal(t, Range{web, web}, l.Skipped()[0].Range)
		seen[l.Port()] = true
	}
	require.Equal(t, map[uint16]bool{first: true, first + 3: true, first + 4: true, first + 5: true}, seen)
	_, err = a.Listen(t.Context(), HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
}

// TestPreferredInRange: a preferred port that is also in the range is tried once
// and named once.
func TestPreferredInRange(t *testing.T) {
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{HTTP: {Prefer: []uint16{first + 1}, First: first, Last: first + 1}})
	foreign(t, "tcp", at("", first+1))
	l, err := a.Listen(t.Context(), HTTP, Options{})
	require.NoError(t, err)
	require.Equal(t, first, l.Port())
	tries := 0
	a.listen = func(context.Context, string, string) (net.Listener, error) {
		tries++
		return nil, &net.OpError{Op: "listen", Err: errInUse}
	}
	_, err = a.Listen(t.Context(), HTTP, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, 1, tries)
	skips := asError(t, err).Skips
	require.Len(t, skips, 2)
	require.Equal(t, Range{first + 1, first + 1}, skips[0].Range)
	require.Equal(t, Skip{Range: Range{first, first}, Reason: Held, Role: HTTP}, skips[1])
}

func TestFixedPortBusy(t *testing.T) {
	port := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{SSLPort: Fixed(port)})
	_, err := a.Listen(t.Context(), SSLPort, Options{})
	require.NoError(t, err)
	_, err = a.Listen(t.Context(), SSLPort, Options{})
	require.ErrorIs(t, err, ErrBusy)
	require.NotErrorIs(t, err, ErrExhausted)
	require.Equal(t, []Skip{{Range: Range{port, port}, Reason: Held, Role: SSLPort}}, asError(t, err).Skips)
}

func TestDynamicListens(t *testing.T) {
	a, err := New(Config{})
	require.NoError(t, err)
	defer a.Close(context.Background())
	seen := make(map[uint16]bool)
	for range 20 {
		l, err := a.Listen(t.Context(), Dynamic, Options{})
		require.NoError(t, err)
		require.Greater(t, l.Port(), uint16(1024))
		require.False(t, seen[l.Port()])
		seen[l.Port()] = true
	}
}

// failAt replaces listen by one that fails for some ports.
func failAt(a *Allocator, errs map[uint16]error) {
	real := a.listen
	a.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		_, s, _ := net.SplitHostPort(address)
		n, _ := strconv.Atoi(s)
		if err := errs[uint16(n)]; err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Err: err}
		}
		return real(ctx, network, address)
	}
}

func TestRefusedPortFallsBack(t *testing.T) {
	first := freePorts(t, 3)
	web := first + 2 // as a security policy refuses one, privileged or not
	a := newAllocator(t, map[Role]Policy{HTTP: {Prefer: []uint16{web}, First: first, Last: first + 1}})
	failAt(a, map[uint16]error{web: errDenied, first: errDenied})

	_, err := a.Listen(t.Context(), HTTP, Options{NoFallback: true})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, ErrBusy)
	e := asError(t, err)
	require.Equal(t, Denied, e.Skips[0].Reason)
	require.Contains(t, e.Advice, deniedAdvice(web))

	l, err := a.Listen(t.Context(), HTTP, Options{})
	require.NoError(t, err)
	require.Equal(t, first+1, l.Port())
	require.Equal(t, []Reason{Denied, Denied}, []Reason{l.Skipped()[0].Reason, l.Skipped()[1].Reason})
	require.NoError(t, l.Close())

	// Where every port is refused, that is the error, and not "no port is free".
	failAt(a, map[uint16]error{first + 1: errDenied})
	_, err = a.Listen(t.Context(), HTTP, Options{})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, ErrExhausted)
}

func TestTieIsTriedAgain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: here bind decides, and not listen")
	}
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	real, ties := a.listen, 1
	a.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		if ties > 0 {
			ties--
			return nil, &net.OpError{Op: "listen", Net: network, Err: errTied}
		}
		return real(ctx, network, address)
	}
	l, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first, l.Port(), "neither of two had the port: it is free")
	require.Empty(t, l.Skipped())
	require.NoError(t, l.Close())

	ties = 1 << 30 // it does not go on for ever
	_, err = a.Listen(t.Context(), Agent, Options{})
	require.ErrorIs(t, err, ErrExhausted)
}

func TestOtherErrorsReturn(t *testing.T) {
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	failAt(a, map[uint16]error{first: errNoDescriptors})
	_, err := a.Listen(t.Context(), Agent, Options{})
	require.ErrorIs(t, err, errNoDescriptors)
	require.NotErrorIs(t, err, ErrExhausted)
	e := asError(t, err)
	require.Equal(t, Agent, e.Role)
	require.Nil(t, e.Kind)
	require.NotEmpty(t, e.Advice)

	// The port of the failed call is not lost.
	a.listen = listen
	l, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first, l.Port())
}

func TestContext(t *testing.T) {
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	cause := errors.New("the operator pressed stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := a.Listen(ctx, Agent, Options{})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)

	// In the middle of a search.
	ctx, cancel = context.WithCancelCause(t.Context())
	a.listen = func(context.Context, string, string) (net.Listener, error) {
		cancel(nil)
		return nil, &net.OpError{Op: "listen", Err: errInUse}
	}
	_, err = a.Listen(ctx, Agent, Options{})
	require.ErrorIs(t, err, context.Canceled)

	// While another call has the turn.
	a.turn <- struct{}{}
	short, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	_, err = a.Listen(short, Agent, Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, asError(t, err).Timeout())
	<-a.turn
	require.Zero(t, a.held, "ports are claimed after failed calls")
}

func TestAllocatorClose(t *testing.T) {
	first := freePorts(t, 4)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 3}})
	for range 3 {
		_, err := a.Listen(t.Context(), Agent, Options{})
		require.NoError(t, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, a.Close(ended), "Close on an ended context still cleans up")
	require.NoError(t, a.Close(context.Background()))
	for i := range uint16(4) {
		requireFree(t, first+i)
	}
	_, err := a.Listen(t.Context(), Agent, Options{})
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, a.held)
}

func TestCloseEndsWaitingCalls(t *testing.T) {
	first := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first}})
	a.turn <- struct{}{} // another call is under way
	errs := make(chan error)
	go func() {
		_, err := a.Listen(context.Background(), Agent, Options{})
		errs <- err
	}()
	poll(t, func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.calls == 1 }, "Listen does not begin")
	require.NoError(t, a.Close(context.Background()))
	require.ErrorIs(t, <-errs, ErrClosed)
}

func TestUnsupportedRoleAndArguments(t *testing.T) {
	a := mustNew(t, Config{Generation: Classic})
	_, err := a.Listen(t.Context(), ManagerToTarget, Options{})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = a.Listen(t.Context(), 0, Options{})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = a.Listen(t.Context(), Agent, Options{NoFallback: true})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = a.Listen(t.Context(), Agent, Options{Family: 9})
	require.ErrorIs(t, err, ErrInvalid)
}

// TestListenAsked: a port that is asked for by its number is had or nothing is,
// whatever the policy and the leases of the role.
func TestListenAsked(t *testing.T) {
	first := freePorts(t, 6)
	a := newAllocator(t, map[Role]Policy{
		Port:    {Prefer: []uint16{first, first + 1}, First: first + 2, Last: first + 3},
		SSLPort: Fixed(first + 5),
	})
	foreign(t, "tcp", at("", first))
	listen := func(o Options) uint16 {
		l, err := a.Listen(t.Context(), Port, o)
		require.NoError(t, err)
		return l.Port()
	}
	require.Equal(t, first+1, listen(Options{}), "the policy goes on")
	_, err := a.Listen(t.Context(), Port, Options{Port: first})
	require.ErrorIs(t, err, ErrBusy)
	e := asError(t, err)
	require.Equal(t, Fixed(first), e.Policy)
	require.Len(t, e.Skips, 1)
	require.Equal(t, Busy, e.Skips[0].Reason)
	require.Contains(t, e.Advice, "asks for this port and no other")

	require.Equal(t, first+4, listen(Options{Port: first + 4}), "not of the policy")
	require.Equal(t, first+3, listen(Options{Port: first + 3, NoFallback: true}))
	_, err = a.Listen(t.Context(), Port, Options{Port: first + 4})
	require.ErrorIs(t, err, ErrBusy)
	require.Equal(t, Held, asError(t, err).Skips[0].Reason)
	_, err = a.Listen(t.Context(), Port, Options{Port: first + 5})
	require.ErrorIs(t, err, ErrBusy)
	require.Equal(t, OtherRole, asError(t, err).Skips[0].Reason)
}
