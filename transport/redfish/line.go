package redfish

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is one TLS connection. It tells who waits for it that a byte moved, and its owner
// that it broke: a target that wants to end a connection says so (RFC 8446, section
// 6.1), a cable that is pulled does not.
type line struct {
	*tls.Conn
	broke  func(error)
	closed atomic.Bool
	busy   atomic.Pointer[stall] // of the request that has the line
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.busy.Load().touch()
	}
	l.seen(err)
	return n, err
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if n > 0 {
		l.busy.Load().touch()
	}
	l.seen(err)
	return n, err
}

func (l *line) seen(err error) {
	if err == nil || err == io.EOF || l.closed.Load() {
		return
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return
	}
	l.broke(err)
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.closed.Store(true)
	return l.Conn.Close()
}

// stall calls end when no byte has moved for too long. A nil stall never does. It is
// safe for concurrent use.
type stall struct {
	mu      sync.Mutex
	limit   time.Duration
	timer   *time.Timer
	stopped bool
}

func newStall(limit time.Duration, end func()) *stall {
	if limit <= 0 {
		return nil
	}
	return &stall{limit: limit, timer: time.AfterFunc(limit, end)}
}

func (s *stall) touch() { s.reset(0) }

// reset begins the wait anew, with another limit if that is not 0.
func (s *stall) reset(limit time.Duration) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	if limit > 0 {
		s.limit = limit
	}
	s.timer.Reset(s.limit)
}

func (s *stall) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.timer.Stop()
}
