package redfish

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport/internal/stall"
)

// line is one TLS connection. It tells who waits for it that a byte moved, and its owner
// that it broke: a target that wants to end a connection says so (RFC 8446, section
// 6.1), a cable that is pulled does not.
type line struct {
	*tls.Conn
	broke  func(error)
	closed atomic.Bool
	busy   atomic.Pointer[stall.Watch] // of the request that has the line
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.busy.Load().Touch()
	}
	l.seen(err)
	return n, err
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if n > 0 {
		l.busy.Load().Touch()
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
