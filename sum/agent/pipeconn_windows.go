package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/windows"
)

// pipeConn is one end of a pipe that was opened for overlapped operations: os.File has
// no deadlines for those under Wine 8, which does not say of a handle how it was opened. It
// is safe for concurrent use; of operations of one direction one is done at a time, and
// has a thread as long.
type pipeConn struct {
	h    windows.Handle
	name pipeAddr
	in   pipeSide
	out  pipeSide
}

// pipeSide is one direction.
type pipeSide struct {
	turn sync.Mutex     // of an operation
	done windows.Handle // an event: the operation is over
	wake windows.Handle // an event: look at what follows

	mu       sync.Mutex
	deadline time.Time
	closed   bool
}

func newPipeConn(h windows.Handle, name pipeAddr) (*pipeConn, error) {
	c := &pipeConn{h: h, name: name}
	for _, event := range []*windows.Handle{&c.in.done, &c.in.wake, &c.out.done, &c.out.wake} {
		var err error
		if *event, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
			c.free()
			return nil, os.NewSyscallError("CreateEvent", err)
		}
	}
	return c, nil
}

func (c *pipeConn) free() {
	for _, h := range []windows.Handle{c.h, c.in.done, c.in.wake, c.out.done, c.out.wake} {
		if h != 0 {
			windows.CloseHandle(h)
		}
	}
}

// expired returns why an operation must not go on, or how many milliseconds it may.
func (s *pipeSide) expired() (wait uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch left := time.Until(s.deadline); {
	case s.closed:
		return 0, net.ErrClosed
	case s.deadline.IsZero():
		return windows.INFINITE, nil
	case left <= 0:
		return 0, os.ErrDeadlineExceeded
	default:
		return uint32(min(left/time.Millisecond+1, 1<<30)), nil
	}
}

// do does one operation to its end, its deadline, or Close.
func (c *pipeConn) do(s *pipeSide, begin func(o *windows.Overlapped) error) (int, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	wait, stop := s.expired()
	if stop != nil {
		return 0, stop
	}
	o := &windows.Overlapped{HEvent: s.done}
	err := begin(o)
	for pending := err == windows.ERROR_IO_PENDING; pending; {
		n, werr := windows.WaitForMultipleObjects([]windows.Handle{s.done, s.wake}, false, wait)
		if werr == nil && n == windows.WAIT_OBJECT_0 {
			break
		}
		_ = windows.ResetEvent(s.wake) // before what it is about
		if wait, stop = s.expired(); stop == nil && werr != nil && werr != error(windows.WAIT_TIMEOUT) {
			stop = werr
		}
		if stop != nil {
			_ = windows.CancelIoEx(c.h, o)
			break
		}
	}
	if err != nil && err != windows.ERROR_IO_PENDING {
		return 0, err
	}
	var done uint32
	err = windows.GetOverlappedResult(c.h, o, &done, true)
	if err != nil && stop != nil {
		err = stop
	}
	return int(done), err
}

// Read implements net.Conn.
func (c *pipeConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.do(&c.in, func(o *windows.Overlapped) error { return windows.ReadFile(c.h, p, nil, o) })
	runtime.KeepAlive(p)
	if n > 0 {
		return n, nil
	}
	switch {
	case err == nil, errors.Is(err, windows.ERROR_BROKEN_PIPE), errors.Is(err, windows.ERROR_PIPE_NOT_CONNECTED), errors.Is(err, windows.ERROR_NO_DATA):
		return 0, io.EOF
	}
	return 0, c.failed("read", err)
}

// Write implements net.Conn.
func (c *pipeConn) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		chunk := p[:min(len(p), pipeBuffer)]
		n, err := c.do(&c.out, func(o *windows.Overlapped) error { return windows.WriteFile(c.h, chunk, nil, o) })
		runtime.KeepAlive(p)
		written, p = written+n, p[n:]
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, c.failed("write", err)
		}
	}
	return written, nil
}

func (c *pipeConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "pipe", Addr: c.name, Err: err}
}

// Close implements net.Conn. What the other side has not read yet it still can.
func (c *pipeConn) Close() error {
	for _, s := range []*pipeSide{&c.in, &c.out} {
		s.mu.Lock()
		was := s.closed
		s.closed = true
		if !was {
			_ = windows.SetEvent(s.wake)
		}
		s.mu.Unlock()
		if was {
			return c.failed("close", net.ErrClosed)
		}
	}
	c.in.turn.Lock() // until what is going on is over
	defer c.in.turn.Unlock()
	c.out.turn.Lock()
	defer c.out.turn.Unlock()
	c.free()
	return nil
}

func (s *pipeSide) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.deadline = t
	return windows.SetEvent(s.wake)
}

// SetReadDeadline implements net.Conn.
func (c *pipeConn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(t) }

// SetDeadline implements net.Conn.
func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.in.setDeadline(t), c.out.setDeadline(t))
}

// LocalAddr implements net.Conn.
func (c *pipeConn) LocalAddr() net.Addr { return c.name }

// RemoteAddr implements net.Conn.
func (c *pipeConn) RemoteAddr() net.Addr { return c.name }
