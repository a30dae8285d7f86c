// Package bufpipe is net.Pipe with room in both directions, half-close, and
// errors that travel: what an SSH channel needs to become a net.Conn with
// deadlines, and what two SSH endpoints, which both begin by writing, need to
// talk in memory.
package bufpipe

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// size is the number of bytes under way in one direction before writers wait.
const size = 256 << 10

// New returns the two ends of a pipe. Addresses may be nil.
func New(near, far net.Addr) (*Conn, *Conn) {
	a, b := newHalf(), newHalf()
	return &Conn{in: a, out: b, local: near, remote: far}, &Conn{in: b, out: a, local: far, remote: near}
}

// Conn is one end. It is safe for concurrent use.
type Conn struct {
	in, out       *half
	local, remote net.Addr
}

var _ net.Conn = (*Conn)(nil)

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn. What was written is read on the other side even if
// this side is closed right afterwards.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// CloseWrite ends the direction away from this end.
func (c *Conn) CloseWrite() error {
	c.out.end(io.EOF)
	return nil
}

// CloseRead refuses what the other end writes from now on.
func (c *Conn) CloseRead() error {
	c.in.abandon()
	return nil
}

// PeerClosed is closed when the other end reads no more.
func (c *Conn) PeerClosed() <-chan struct{} { return c.out.gone }

// PeerFinished is closed when the other end writes no more. Bytes may be under way.
func (c *Conn) PeerFinished() <-chan struct{} { return c.in.finished }

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.in.abandon()
	c.out.end(io.EOF)
	return nil
}

// CloseWithError closes this end; the other one reads what is under way and then
// err, and fails to write with err.
func (c *Conn) CloseWithError(err error) {
	c.out.end(err)
	c.in.fail(err)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.readBy.set(c.in, t)
	c.out.writeBy.set(c.out, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.readBy.set(c.in, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.writeBy.set(c.out, t)
	return nil
}

// half is one direction.
type half struct {
	mu              sync.Mutex
	cond            *sync.Cond
	buf             []byte
	start           int           // buf[start:] is under way
	ended           error         // what the reader gets after the bytes; nil: more may come
	refused         error         // what the writer gets; nil: go on
	abandoned       bool          // by the reader
	gone            chan struct{} // closed when abandoned
	finished        chan struct{} // closed when ended
	readBy, writeBy deadline
}

func newHalf() *half {
	h := &half{gone: make(chan struct{}), finished: make(chan struct{})}
	h.cond = sync.NewCond(&h.mu)
	return h
}

// deadline is guarded by the mutex of its half.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(h *half, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cond.Broadcast()
		})
	}
	h.cond.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.abandoned:
			return 0, net.ErrClosed
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case h.start < len(h.buf):
			n := copy(p, h.buf[h.start:])
			if h.start += n; h.start == len(h.buf) {
				h.buf, h.start = h.buf[:0], 0
			}
			h.cond.Broadcast()
			return n, nil
		case h.ended != nil:
			return 0, h.ended
		}
		h.cond.Wait()
	}
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.refused != nil:
			return done, h.refused
		case h.abandoned:
			return done, io.ErrClosedPipe
		case h.ended != nil:
			return done, net.ErrClosed
		case h.writeBy.passed():
			return done, os.ErrDeadlineExceeded
		case done == len(p):
			return done, nil
		}
		if room := size - (len(h.buf) - h.start); room > 0 {
			if h.start > 0 {
				h.buf = h.buf[:copy(h.buf, h.buf[h.start:])]
				h.start = 0
			}
			n := min(room, len(p)-done)
			h.buf = append(h.buf, p[done:done+n]...)
			done += n
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

func (h *half) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended = err
		close(h.finished)
	}
	h.cond.Broadcast()
}

func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refused == nil {
		h.refused = err
	}
	h.leave()
}

func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf, h.start = nil, 0
	h.leave()
}

// leave is called with the mutex held.
func (h *half) leave() {
	if !h.abandoned {
		h.abandoned = true
		close(h.gone)
	}
	h.cond.Broadcast()
}
