package transporttest

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// conn is one connection to a target.
type conn struct {
	f  *Fake
	t  *Target
	ep transport.Endpoint

	mu       sync.Mutex
	tunnels  map[*memConn]struct{}
	tasks    sync.WaitGroup // programs that run on this connection
	closed   chan struct{}  // by the caller
	lost     chan struct{}
	closing  sync.Once
	losing   sync.Once
	tunneled bool // no more tunnels: the connection has ended
}

var _ interface {
	transport.Conn
	transport.FileStore
	transport.Runner
	transport.Services
	transport.Tunneler
	transport.Lister
	transport.Inventorier
	transport.Updater
	transport.Undoer
	transport.Rebooter
	transport.Spacer
	transport.Clocker
} = (*conn)(nil)

func (c *conn) fail(op, path string, kind, cause error) *transport.Error {
	return &transport.Error{Op: op, Target: c.ep.Address, Path: path, Kind: kind, Err: cause}
}

// lose breaks the connection.
func (c *conn) lose() {
	c.losing.Do(func() { close(c.lost) })
	c.endTunnels()
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	delete(c.f.conns, c)
}

func (c *conn) endTunnels() {
	c.mu.Lock()
	tunnels := c.tunnels
	c.tunnels, c.tunneled = nil, true
	c.mu.Unlock()
	for m := range tunnels {
		m.abort(transport.ErrConnLost)
	}
}

// Close implements transport.Conn.
func (c *conn) Close(context.Context) error {
	c.closing.Do(func() {
		close(c.closed)
		c.endTunnels()
		k := c.journal("close", "")
		c.f.mu.Lock()
		delete(c.f.conns, c)
		k.entry.Done = true
		c.f.mu.Unlock()
		done := make(chan struct{})
		go func() {
			c.tasks.Wait()
			close(done)
		}()
		timer := time.NewTimer(transport.CloseGrace)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			_ = c.f.violate("a program on %q did not end when its connection was closed", c.ep.Address)
		}
	})
	return nil
}

// state returns why a call cannot go on, if so.
func (c *conn) state(ctx context.Context, op, path string) error {
	select {
	case <-c.closed:
		return c.fail(op, path, transport.ErrClosed, nil)
	default:
	}
	select {
	case <-c.lost:
		return c.fail(op, path, transport.ErrConnLost, nil)
	default:
	}
	if err := ctx.Err(); err != nil {
		return c.fail(op, path, err, nil)
	}
	return nil
}

// wait waits for ch, as long as context and connection last.
func (c *conn) wait(ctx context.Context, op, path string, ch <-chan struct{}) error {
	select {
	case <-ch: // and what it means arrives if the line is still there
	case <-ctx.Done():
	case <-c.closed:
	case <-c.lost:
	case <-c.f.life.Done():
		c.lose()
	}
	return c.state(ctx, op, path)
}

// call is one call at work.
type call struct {
	conn      *conn
	op, path  string
	entry     *Call
	fault     *Injected // strikes after some bytes
	loseReply bool
}

func (c *conn) journal(op, path string) *call {
	k := &call{conn: c, op: op, path: path, entry: &Call{Address: c.ep.Address, Object: c.ep.Object, Op: op, Path: path}}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.calls = append(c.f.calls, k.entry)
	return k
}

// begin journals a call and lets the fault happen that is waiting for it. The
// caller defers end, also after an error.
func (c *conn) begin(ctx context.Context, op, path string) (*call, error) {
	k := c.journal(op, path)
	if err := c.state(ctx, op, path); err != nil {
		return k, err
	}
	c.f.mu.Lock()
	c.f.requests++
	c.f.mu.Unlock()
	if i := c.t.arm(op); i != nil {
		if i.fault.After > 0 {
			k.fault = i
		} else if err := i.strike(ctx, k); err != nil {
			return k, err
		}
	}
	return k, nil
}

// use is begin for a capability: to call it past Caps is a violation.
func (c *conn) use(ctx context.Context, op, path string, want transport.Caps) (*call, error) {
	if !c.t.cfg.Caps.Has(want) {
		k := c.journal(op, path)
		return k, c.fail(op, path, errors.ErrUnsupported, c.f.violate("%s on %q, which does not offer %v", op, c.ep.Address, want))
	}
	return c.begin(ctx, op, path)
}

// invalid refuses arguments before anything is sent, unless the connection has
// ended: then that is what the caller hears.
func (c *conn) invalid(ctx context.Context, op, path, why string) error {
	k := c.journal(op, path)
	err := c.state(ctx, op, path)
	if err == nil {
		err = c.fail(op, path, transport.ErrInvalid, errors.New(why))
	}
	k.end(&err)
	return err
}

// end journals how the call ended.
func (k *call) end(err *error) {
	if k.loseReply && *err == nil {
		k.conn.lose()
		*err = k.conn.fail(k.op, k.path, transport.ErrConnLost, nil)
	}
	k.conn.f.mu.Lock()
	defer k.conn.f.mu.Unlock()
	k.entry.Done, k.entry.Err = true, *err
}

// move says how many of n bytes may pass now.
func (k *call) move(ctx context.Context, n int) (int, error) {
	if err := k.conn.state(ctx, k.op, k.path); err != nil {
		return 0, err
	}
	if k.fault != nil {
		left := k.fault.fault.After - k.entry.Bytes // only this call changes Bytes
		if left <= 0 {
			i := k.fault
			k.fault = nil
			if err := i.strike(ctx, k); err != nil {
				return 0, err
			}
		} else {
			n = int(min(int64(n), left))
		}
	}
	k.conn.f.mu.Lock()
	k.entry.Bytes += int64(n)
	k.conn.f.mu.Unlock()
	return n, nil
}

// Caps implements transport.Conn.
func (c *conn) Caps() transport.Caps { return c.t.cfg.Caps }

// Path implements transport.Conn.
func (c *conn) Path() transport.Path {
	manager := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	if c.t.cfg.Addr.IsLoopback() {
		manager = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return transport.Path{
		Local:        netip.AddrPortFrom(manager, 40000),
		Remote:       netip.AddrPortFrom(c.t.cfg.Addr, 1),
		SeenAs:       manager,
		CallbackFrom: slices.Clone(c.t.cfg.CallbackFrom),
	}
}

// Identify implements transport.Conn.
func (c *conn) Identify(ctx context.Context) (_ transport.Identity, err error) {
	k, err := c.begin(ctx, "identify", "")
	defer func() { k.end(&err) }()
	if err != nil {
		return transport.Identity{}, err
	}
	return c.t.Identity(), nil
}

// Children implements transport.Lister.
func (c *conn) Children(ctx context.Context) iter.Seq2[transport.Child, error] {
	return func(yield func(transport.Child, error) bool) {
		k, err := c.use(ctx, "children", "", transport.CapChildren)
		defer func() { k.end(&err) }()
		if err != nil {
			yield(transport.Child{}, err)
			return
		}
		c.f.mu.Lock()
		children := slices.Clone(c.t.cfg.Children)
		c.f.mu.Unlock()
		for _, child := range children {
			if err = c.state(ctx, "children", ""); err != nil {
				yield(transport.Child{}, err)
				return
			}
			if !yield(child, nil) {
				return
			}
		}
	}
}

// Inventory implements transport.Inventorier.
func (c *conn) Inventory(ctx context.Context) (_ *transport.Inventory, err error) {
	k, err := c.use(ctx, "inventory", "", transport.CapInventory)
	defer func() { k.end(&err) }()
	if err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return &transport.Inventory{
		Taken:    time.Now(),
		Identity: c.t.cfg.Identity,
		Devices:  slices.Clone(c.t.cfg.Devices),
		Software: slices.Clone(c.t.cfg.Software),
	}, nil
}

// Space implements transport.Spacer.
func (c *conn) Space(ctx context.Context, dir string) (free int64, err error) {
	k, err := c.use(ctx, "space", dir, transport.CapSpace)
	defer func() { k.end(&err) }()
	if err != nil {
		return 0, err
	}
	if free, err = c.t.fs.free(dir); err != nil {
		err = c.fsError("space", dir, err)
	}
	return free, err
}

// Clock implements transport.Clocker.
func (c *conn) Clock(ctx context.Context) (_ transport.Clock, err error) {
	k, err := c.use(ctx, "clock", "", transport.CapClock)
	defer func() { k.end(&err) }()
	if err != nil {
		return transport.Clock{}, err
	}
	return transport.Clock{Skew: c.t.cfg.Skew, Within: time.Millisecond}, nil
}

// Reboot implements transport.Rebooter.
func (c *conn) Reboot(ctx context.Context, opts transport.RebootOptions) (err error) {
	if opts.Delay < 0 {
		return c.invalid(ctx, "reboot", "", "negative delay")
	}
	k, err := c.use(ctx, "reboot", opts.Message, transport.CapReboot)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	c.t.RebootNow(0)
	return nil
}
