package local

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Address is what Endpoint.Address says of the manager's own host; "" means it
// too. A name such as "localhost" is refused: it may lead elsewhere.
const Address = "local"

// Transport dials the manager's own host. Its zero value is ready for use. It is
// safe for concurrent use.
type Transport struct {
	quiet time.Duration // quietTime, unless a test is in a hurry
}

// Dial implements transport.Transport. It changes nothing and cannot fail for an
// endpoint that makes sense.
func (t *Transport) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	invalid := func(hint string) (transport.Conn, error) {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid, Hint: hint}
	}
	creds := ep.Credentials
	switch {
	case ep.Address != "" && ep.Address != Address:
		return invalid("the manager's own host has no address but " + Address)
	case ep.Object != "":
		return invalid("the manager's own host has no object")
	case creds.User != "" || creds.Domain != "" || !creds.Password.IsZero():
		return invalid("the manager's own host asks for no credentials: run the program as the user whose rights it needs")
	case !ep.Trust.IsZero():
		return invalid("the manager's own host has no identity that could be checked")
	case ep.Options != nil:
		return invalid("this driver has no options")
	}
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: "dial", Target: Address, Kind: err}
	}
	c := &conn{caps: transport.CapFiles | transport.CapRun | transport.CapTunnelTCP, tunnels: map[*tunnel]struct{}{},
		quiet: cmp.Or(t.quiet, quietTime)}
	if unixSockets() {
		c.caps |= transport.CapTunnelUnix
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

// conn is one connection: the right to use this host until Close.
type conn struct {
	caps   transport.Caps
	quiet  time.Duration   // see quietTime
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // calls, and what they left behind

	mu      sync.Mutex
	closed  bool
	tunnels map[*tunnel]struct{}
}

var _ interface {
	transport.Conn
	transport.FileStore
	transport.Runner
	transport.Tunneler
} = (*conn)(nil)

// Caps implements transport.Conn.
func (c *conn) Caps() transport.Caps { return c.caps }

// Path implements transport.Conn. There are no addresses.
func (c *conn) Path() transport.Path { return transport.Path{SameHost: true} }

// Close implements transport.Conn. Programs that still run are ended.
func (c *conn) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	open := make([]*tunnel, 0, len(c.tunnels))
	for t := range c.tunnels {
		open = append(open, t)
	}
	c.mu.Unlock()
	c.cancel(errClosed)
	for _, t := range open {
		_ = t.Close()
	}
	done := make(chan struct{})
	go func() {
		c.work.Wait()
		close(done)
	}()
	// Also with an ended context.
	grace := time.NewTimer(transport.CloseGrace)
	defer grace.Stop()
	select {
	case <-done:
		return nil
	case <-grace.C:
		return &transport.Error{Op: "close", Target: Address, Kind: transport.ErrTimeout, Err: errors.New("a call does not end")}
	}
}

// call is one call of the caller's.
type call struct {
	c        *conn
	op, path string
	ctx      context.Context // ends with the caller's context and with the connection
	cancel   context.CancelCauseFunc
	stop     func() bool
}

// begin starts a call. The caller must call end, unless there is an error.
func (c *conn) begin(ctx context.Context, op, path string) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: op, Target: Address, Path: path, Kind: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &transport.Error{Op: op, Target: Address, Path: path, Kind: transport.ErrClosed}
	}
	c.work.Add(1)
	k := &call{c: c, op: op, path: path}
	k.ctx, k.cancel = context.WithCancelCause(ctx)
	k.stop = context.AfterFunc(c.ctx, func() { k.cancel(errClosed) })
	return k, nil
}

func (k *call) end() {
	k.stop()
	k.cancel(nil)
	k.c.work.Done()
}

// hangTime is how long a call whose context ended waits for what it began: most
// of it ends at once, and then nothing is left behind.
const hangTime = time.Second

// do runs f, which looks at the context of the call between its steps, and
// returns when f does or when f hangs after the context has ended. Errors are
// ready to be returned.
func do[T any](k *call, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result, 1)
	k.c.work.Go(func() {
		v, err := f()
		answer <- result{v, err}
	})
	var r result
	select {
	case r = <-answer:
	case <-k.ctx.Done():
		hung := time.NewTimer(hangTime)
		defer hung.Stop()
		select {
		case r = <-answer:
		case <-hung.C:
			r.err = k.ctx.Err()
		}
	}
	return r.v, k.fail(r.err)
}
