package smb

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// pipeBuffer is how much is read from a pipe at once: what does not fit of a message
// would be lost.
const pipeBuffer = 64 << 10

// pipeChunk is how much is written to a pipe at once.
const pipeChunk = 32 << 10

// pipeWait is how long an instance of a pipe is waited for of which all are taken.
const pipeWait = 10 * time.Second

// DialContext implements transport.Tunneler for the network "pipe". addr is the name of
// a named pipe of the host, such as "svcctl", with or without `\\.\pipe\` before it. The
// tunnel needs no port but that of SMB itself. It has a connection and a login of its
// own: of one that others use, too, it could not be closed while a read waits.
func (c *conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	name := addr
	if n := len(pipePrefix); len(addr) > n && strings.EqualFold(addr[:n], pipePrefix) {
		name = addr[n:]
	}
	refuse := func(kind error, hint string) (net.Conn, error) {
		return nil, &transport.Error{Op: "tunnel", Target: c.target, Path: addr, Kind: kind, Hint: hint}
	}
	if network != "pipe" {
		return refuse(errors.ErrUnsupported, `this driver tunnels to named pipes alone: network "pipe"`)
	}
	if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, `\`) {
		return refuse(transport.ErrInvalid, "want the name of a pipe")
	}
	k, err := c.begin(ctx, "tunnel", addr)
	if err != nil {
		return nil, err
	}
	defer k.end()
	own := c.session
	if c.again != nil {
		// Not by lib: it returns when the call ends.
		if own, err = c.again(k.ctx); err != nil {
			return nil, k.fail(err)
		}
	}
	s, err := k.openPipe(own, name)
	if err == nil && c.again != nil {
		s = &alone{s, own}
	}
	var p *pipe
	if err == nil {
		p, err = c.newPipe(name, s)
	}
	if err != nil {
		if c.again != nil {
			own.hangUp(errClosed)
		}
		return nil, k.fail(err)
	}
	return p, nil
}

const pipePrefix = `\\.\pipe\`

// impersonates reports whether the service behind a pipe acts as who asks it, and does
// not only look at who that is: the registry opens keys so, and a shutdown takes a
// privilege. Who may only be identified can have rights checked, and opens nothing.
func impersonates(pipe string) bool {
	return strings.EqualFold(pipe, "winreg") || strings.EqualFold(pipe, "InitShutdown")
}

// openPipe opens an instance of a pipe, and waits while all are taken.
func (k *call) openPipe(by session, name string) (stream, error) {
	end := time.Now().Add(pipeWait)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		s, err := lib(k, func() (stream, error) { return by.openPipe(name) }, func(s stream) { _ = s.Close() })
		if err == nil {
			return s, nil
		}
		if st := status(err); st != statusPipeNone && st != statusPipeBusy && !nativePipeBusy(err) || time.Now().After(end) {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// pipe is a connection over an instance of a named pipe. What moves bytes between the
// two is joined by Close.
type pipe struct {
	net.Conn // the near end
	c        *conn
	s        stream
	name     string
	far      net.Conn
	wrote    chan struct{} // closed when nothing is written to s any more
	done     chan struct{} // closed when both directions have ended
	once     sync.Once
	closing  atomic.Bool
	mu       sync.Mutex
	why      error // why the far end has hung up, if not because the peer has
}

func (c *conn) newPipe(name string, s stream) (*pipe, error) {
	near, far := net.Pipe()
	p := &pipe{Conn: near, c: c, s: s, name: name, far: far, wrote: make(chan struct{}), done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.ctx.Err() != nil {
		c.lib.Go(func() { _, _ = guard(func() (any, error) { return nil, s.Close() }) })
		return nil, &transport.Error{Kind: transport.ErrClosed}
	}
	c.pipes[p] = struct{}{}
	var both sync.WaitGroup
	both.Go(p.fromPeer)
	both.Go(p.toPeer)
	c.bg.Go(func() {
		both.Wait()
		close(p.done)
		c.mu.Lock()
		delete(c.pipes, p)
		c.mu.Unlock()
	})
	return p, nil
}

func (p *pipe) fromPeer() {
	defer p.far.Close()
	buf := make([]byte, pipeBuffer)
	for {
		n, err := guard(func() (int, error) { return p.s.Read(buf) })
		if n > 0 {
			if _, werr := p.far.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil || n <= 0 {
			p.ended(err)
			return
		}
	}
}

func (p *pipe) toPeer() {
	defer close(p.wrote)
	buf := make([]byte, pipeChunk)
	for {
		n, err := p.far.Read(buf)
		for at := 0; at < n; {
			m, werr := guard(func() (int, error) { return p.s.Write(buf[at:n]) })
			if werr != nil || m <= 0 {
				p.ended(werr)
				_ = p.far.Close()
				return
			}
			at += m
		}
		if err != nil {
			return
		}
	}
}

// ended notes why the pipe ended, unless the peer has closed it.
func (p *pipe) ended(err error) {
	if p.closing.Load() {
		return
	}
	switch status(err) {
	case statusPipeBroken, statusPipeClosing, statusPipeGone, statusEndOfFile, statusCancelled, statusNameDeleted:
		return
	}
	if err == nil || errors.Is(err, io.EOF) {
		return
	}
	e := &transport.Error{Op: "tunnel", Target: p.c.target, Path: p.name}
	if p.c.ctx.Err() != nil {
		err = (&call{c: p.c, op: e.Op, path: p.name, ctx: p.c.ctx}).fail(err)
	} else {
		err = explain(e, err) // its own connection may be lost alone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		p.why = err
	}
}

// reason is why the pipe ended, unless the peer has closed it.
func (p *pipe) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// explain replaces the bare end of the near end by the reason.
func (p *pipe) explain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		if why := p.reason(); why != nil {
			return why
		}
	}
	return err
}

func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	return n, p.explain(err)
}

func (p *pipe) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	return n, p.explain(err)
}

// farewellTime is how long Close waits for what was written to reach the peer.
const farewellTime = 2 * time.Second

// Close ends the connection when what was written has reached the peer, or hangs.
func (p *pipe) Close() error {
	p.once.Do(func() {
		_ = p.Conn.Close()
		timer := time.NewTimer(farewellTime)
		select {
		case <-p.wrote:
		case <-timer.C:
		}
		timer.Stop()
		p.closing.Store(true)
		p.c.lib.Go(func() { _, _ = guard(func() (any, error) { return nil, p.s.Close() }) })
	})
	return nil
}

func (p *pipe) LocalAddr() net.Addr  { return pipeAddr("manager") }
func (p *pipe) RemoteAddr() net.Addr { return pipeAddr(p.name) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
