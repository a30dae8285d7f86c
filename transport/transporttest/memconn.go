package transporttest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// memConn is one end of a connection in memory. Unlike that of net.Pipe it has a
// buffer, as sockets have: a peer that does not read does not block one that
// says goodbye.
type memConn struct {
	in, out       *memPipe
	local, remote memAddr
	read, write   deadline
	shut          sync.Once
	done          chan struct{} // this end was closed
	onClose       func()
}

type memAddr struct{ network, addr string }

func (a memAddr) Network() string { return a.network }
func (a memAddr) String() string  { return a.addr }

func newMemConns(network, from, to string) (near, far *memConn) {
	a, b := newMemPipe(), newMemPipe()
	l, r := memAddr{network, from}, memAddr{network, to}
	near = &memConn{in: a, out: b, local: l, remote: r, done: make(chan struct{}), read: newDeadline(), write: newDeadline()}
	far = &memConn{in: b, out: a, local: r, remote: l, done: make(chan struct{}), read: newDeadline(), write: newDeadline()}
	return near, far
}

// memPipe is one direction: a bounded buffer.
type memPipe struct {
	mu      sync.Mutex
	buf     []byte
	err     error         // what readers get when the buffer is empty
	broken  error         // what everybody gets at once
	changed chan struct{} // closed and replaced when anything changes
}

const memBuffer = 64 << 10

func newMemPipe() *memPipe { return &memPipe{changed: make(chan struct{})} }

// change applies f and wakes everybody up.
func (p *memPipe) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (c *memConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.network, Source: c.local, Addr: c.remote, Err: err}
}

// Read implements net.Conn.
func (c *memConn) Read(b []byte) (int, error) {
	for {
		if c.isDone() {
			return 0, c.opError("read", net.ErrClosed)
		}
		if c.read.over() {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		p := c.in
		p.mu.Lock()
		switch {
		case p.broken != nil:
			defer p.mu.Unlock()
			return 0, c.opError("read", p.broken)
		case len(b) == 0:
			p.mu.Unlock()
			return 0, nil
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.mu.Unlock()
			p.change(func() { p.buf = p.buf[n:] })
			return n, nil
		case p.err != nil:
			defer p.mu.Unlock()
			return 0, p.err
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-c.done:
		case <-c.read.wait():
		}
	}
}

// Write implements net.Conn.
func (c *memConn) Write(b []byte) (total int, err error) {
	c.write.mu.Lock() // writes do not interleave
	defer c.write.mu.Unlock()
	for {
		if total > 0 && total == len(b) {
			return total, nil // what becomes of the peer now is no matter
		}
		if c.isDone() {
			return total, c.opError("write", net.ErrClosed)
		}
		if c.write.over() {
			return total, c.opError("write", os.ErrDeadlineExceeded)
		}
		p := c.out
		p.mu.Lock()
		broken, full, changed := p.broken, len(p.buf) >= memBuffer, p.changed
		if broken == nil && p.err != nil {
			broken = io.ErrClosedPipe // the peer hung up
		}
		n := min(len(b)-total, memBuffer-len(p.buf))
		p.mu.Unlock()
		switch {
		case broken != nil:
			return total, c.opError("write", broken)
		case total == len(b):
			return total, nil
		case !full:
			p.change(func() { p.buf = append(p.buf, b[total:total+n]...) })
			total += n
			continue
		}
		select {
		case <-changed:
		case <-c.done:
		case <-c.write.wait():
		}
	}
}

func (c *memConn) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Close implements net.Conn. What was written before can still be read.
func (c *memConn) Close() error {
	c.shut.Do(func() {
		close(c.done)
		for _, p := range []*memPipe{c.out, c.in} {
			p.change(func() {
				if p.err == nil {
					p.err = io.EOF
				}
			})
		}
		if c.onClose != nil {
			c.onClose()
		}
	})
	return nil
}

// abort breaks both directions at once.
func (c *memConn) abort(err error) {
	for _, p := range []*memPipe{c.out, c.in} {
		p.change(func() {
			if p.broken == nil {
				p.broken, p.buf = err, nil
			}
		})
	}
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *memConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *memConn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.read, t) }

// SetWriteDeadline implements net.Conn.
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *memConn) setDeadline(d *deadline, t time.Time) error {
	if c.isDone() {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

// deadline is a channel that is closed when a time has come.
type deadline struct {
	mu    sync.Mutex // held by one writer at a time
	state *deadlineState
}

type deadlineState struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func newDeadline() deadline { return deadline{state: &deadlineState{ch: make(chan struct{})}} }

func (d *deadline) wait() <-chan struct{} {
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return d.state.ch
}

func (d *deadline) over() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}

func (d *deadline) set(t time.Time) {
	s := d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil && !s.timer.Stop() {
		<-s.ch // the timer has fired: wait until it closed its channel
	}
	s.timer = nil
	select {
	case <-s.ch:
		s.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	ch := s.ch
	if d := time.Until(t); d > 0 {
		s.timer = time.AfterFunc(d, func() { close(ch) })
	} else {
		close(ch)
	}
}

// A listener accepts connections inside a target.
type listener struct {
	t     *Target
	addr  memAddr
	queue chan *memConn
	done  chan struct{}
	shut  sync.Once

	mu    sync.Mutex
	conns []*memConn // accepted or waiting: they end when the target reboots
}

// Listen makes a listener inside the target, as a program there does: network
// "unix" with a path, "tcp" with host:port, "pipe" with a name. Tunnels of
// connections to the target reach it. It is closed when the target reboots and
// when the fake is closed.
func (t *Target) Listen(network, addr string) (net.Listener, error) {
	switch network {
	case "unix", "tcp", "pipe":
	default:
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	l := &listener{t: t, addr: memAddr{network, addr}, queue: make(chan *memConn, 128), done: make(chan struct{})}
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if t.listeners[l.key()] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: errors.New("address in use on the target")}
	}
	if t.f.life.Err() != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: net.ErrClosed}
	}
	t.listeners[l.key()] = l
	return l, nil
}

// Listening returns the addresses on which something listens, as "network addr".
func (t *Target) Listening() []string {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	var out []string
	for k := range t.listeners {
		out = append(out, k)
	}
	return out
}

func (l *listener) key() string { return l.addr.network + " " + l.addr.addr }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
	}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Close() error {
	l.shut.Do(func() {
		l.t.f.mu.Lock()
		delete(l.t.listeners, l.key())
		l.t.f.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue: // nobody will accept it
				c.abort(transport.ErrConnLost)
			default:
				return
			}
		}
	})
	return nil
}

// abort closes the listener and what it accepted, as the death of its process does.
func (l *listener) abort() {
	l.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		c.abort(transport.ErrConnLost)
	}
}
