package transport

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"net"
	"sync"
)

// LimitOptions are the options of Limit. 0 means no limit.
type LimitOptions struct {
	Dials int // handshakes at a time: they cost CPU on both sides
	Conns int // open connections at a time
	Calls int // calls at a time on one connection; a management processor bears 1
}

// Limit returns a Transport that makes callers wait for their turn. A wait ends
// with the context. Tunnels and iterators count as a call only while they are
// being set up or asked for the next element.
func Limit(t Transport, opts LimitOptions) Transport {
	return &limitTransport{t: t, opts: opts, dials: newGate(opts.Dials), conns: newGate(opts.Conns)}
}

// gate admits a number of holders at a time; a nil gate admits all.
type gate chan struct{}

func newGate(n int) gate {
	if n <= 0 {
		return nil
	}
	return make(gate, n)
}

func (g gate) enter(ctx context.Context, op, target string) error {
	if err := ctx.Err(); err != nil {
		return &Error{Op: op, Target: target, Kind: err}
	}
	if g == nil {
		return nil
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &Error{Op: op, Target: target, Kind: ctx.Err(), Hint: "the limit on parallel work was reached; raise it or wait longer"}
	}
}

func (g gate) leave() {
	if g != nil {
		<-g
	}
}

type limitTransport struct {
	t            Transport
	opts         LimitOptions
	dials, conns gate
}

func (l *limitTransport) Dial(ctx context.Context, ep Endpoint) (Conn, error) {
	if err := l.conns.enter(ctx, "dial", ep.Address); err != nil {
		return nil, err
	}
	if err := l.dials.enter(ctx, "dial", ep.Address); err != nil {
		l.conns.leave()
		return nil, err
	}
	conn, err := l.t.Dial(ctx, ep)
	l.dials.leave()
	if err != nil {
		l.conns.leave()
		return nil, err
	}
	return &limitConn{Forward: Forward{conn}, target: ep.Address, calls: newGate(l.opts.Calls), release: sync.OnceFunc(l.conns.leave)}, nil
}

type limitConn struct {
	Forward
	target  string
	calls   gate
	release func()
}

// limited runs f when the connection has room for another call.
func limited[T any](ctx context.Context, c *limitConn, op string, f func() (T, error)) (T, error) {
	if err := c.calls.enter(ctx, op, c.target); err != nil {
		var zero T
		return zero, err
	}
	defer c.calls.leave()
	return f()
}

// limitedErr is limited for calls that return an error only.
func limitedErr(ctx context.Context, c *limitConn, op string, f func() error) error {
	_, err := limited(ctx, c, op, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (c *limitConn) Close(ctx context.Context) error {
	defer c.release()
	return c.Conn.Close(ctx)
}

func (c *limitConn) Identify(ctx context.Context) (Identity, error) {
	return limited(ctx, c, "identify", func() (Identity, error) { return c.Conn.Identify(ctx) })
}

func (c *limitConn) Stat(ctx context.Context, name string) (FileInfo, error) {
	return limited(ctx, c, "stat", func() (FileInfo, error) { return c.Forward.Stat(ctx, name) })
}

func (c *limitConn) List(ctx context.Context, dir string) ([]FileInfo, error) {
	return limited(ctx, c, "list", func() ([]FileInfo, error) { return c.Forward.List(ctx, dir) })
}

func (c *limitConn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	return limitedErr(ctx, c, "mkdir", func() error { return c.Forward.Mkdir(ctx, dir, perm) })
}

func (c *limitConn) Put(ctx context.Context, name string, f File, opts PutOptions) (PutResult, error) {
	return limited(ctx, c, "put", func() (PutResult, error) { return c.Forward.Put(ctx, name, f, opts) })
}

func (c *limitConn) Get(ctx context.Context, name string, w io.Writer, opts GetOptions) (int64, error) {
	return limited(ctx, c, "get", func() (int64, error) { return c.Forward.Get(ctx, name, w, opts) })
}

func (c *limitConn) Remove(ctx context.Context, name string) error {
	return limitedErr(ctx, c, "remove", func() error { return c.Forward.Remove(ctx, name) })
}

func (c *limitConn) Run(ctx context.Context, cmd Command) (Exit, error) {
	if cmd.Tunnel {
		// It waits for its turn and then makes room: file calls go on beside it.
		if err := c.calls.enter(ctx, "run", c.target); err != nil {
			return Exit{}, err
		}
		c.calls.leave()
		return c.Forward.Run(ctx, cmd)
	}
	return limited(ctx, c, "run", func() (Exit, error) { return c.Forward.Run(ctx, cmd) })
}

func (c *limitConn) CreateService(ctx context.Context, cfg ServiceConfig) error {
	return limitedErr(ctx, c, "create service", func() error { return c.Forward.CreateService(ctx, cfg) })
}

func (c *limitConn) StartService(ctx context.Context, name string, args ...string) error {
	return limitedErr(ctx, c, "start service", func() error { return c.Forward.StartService(ctx, name, args...) })
}

func (c *limitConn) QueryService(ctx context.Context, name string) (ServiceStatus, error) {
	return limited(ctx, c, "query service", func() (ServiceStatus, error) { return c.Forward.QueryService(ctx, name) })
}

func (c *limitConn) StopService(ctx context.Context, name string) error {
	return limitedErr(ctx, c, "stop service", func() error { return c.Forward.StopService(ctx, name) })
}

func (c *limitConn) DeleteService(ctx context.Context, name string) error {
	return limitedErr(ctx, c, "delete service", func() error { return c.Forward.DeleteService(ctx, name) })
}

func (c *limitConn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return limited(ctx, c, "tunnel", func() (net.Conn, error) { return c.Forward.DialContext(ctx, network, addr) })
}

func (c *limitConn) Children(ctx context.Context) iter.Seq2[Child, error] {
	return func(yield func(Child, error) bool) {
		// The place is held while the wrapped iterator works and given back while
		// the caller does, so that the caller may use the connection in the loop.
		if err := c.calls.enter(ctx, "children", c.target); err != nil {
			yield(Child{}, err)
			return
		}
		held := true
		defer func() {
			if held {
				c.calls.leave()
			}
		}()
		for child, err := range c.Forward.Children(ctx) {
			c.calls.leave()
			held = false
			if !yield(child, err) || err != nil {
				return
			}
			if err := c.calls.enter(ctx, "children", c.target); err != nil {
				yield(Child{}, err)
				return
			}
			held = true
		}
	}
}

func (c *limitConn) Inventory(ctx context.Context) (*Inventory, error) {
	return limited(ctx, c, "inventory", func() (*Inventory, error) { return c.Forward.Inventory(ctx) })
}

func (c *limitConn) Update(ctx context.Context, p Payload, opts UpdateOptions) (Result, error) {
	return limited(ctx, c, "update", func() (Result, error) { return c.Forward.Update(ctx, p, opts) })
}

func (c *limitConn) Undo(ctx context.Context, s State) error {
	return limitedErr(ctx, c, "undo", func() error { return c.Forward.Undo(ctx, s) })
}

func (c *limitConn) Reboot(ctx context.Context, opts RebootOptions) error {
	return limitedErr(ctx, c, "reboot", func() error { return c.Forward.Reboot(ctx, opts) })
}

func (c *limitConn) Space(ctx context.Context, dir string) (int64, error) {
	return limited(ctx, c, "space", func() (int64, error) { return c.Forward.Space(ctx, dir) })
}

func (c *limitConn) Clock(ctx context.Context) (Clock, error) {
	return limited(ctx, c, "clock", func() (Clock, error) { return c.Forward.Clock(ctx) })
}
