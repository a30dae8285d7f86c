package channel

import (
	"io"
	"net"
	"sync"
	"time"
)

// withDeadlines gives a connection deadlines if it has none, as one through the
// standard input and output of a process has not. net/http relies on them: it
// aborts a pending read after each request by a deadline in the past.
func withDeadlines(raw net.Conn) net.Conn {
	if raw.SetDeadline(time.Time{}) == nil {
		return raw
	}
	inner, outer := net.Pipe()
	c := &pumpConn{Conn: outer, raw: raw, inner: inner}
	c.wg.Add(2)
	go c.pump(inner, raw)
	go c.pump(raw, inner)
	return c
}

// pumpConn is the near end of a pipe to raw.
type pumpConn struct {
	net.Conn
	raw, inner net.Conn
	wg         sync.WaitGroup
}

func (c *pumpConn) pump(to, from net.Conn) {
	defer c.wg.Done()
	io.Copy(to, from)
	// Either direction's end is the connection's: HTTP needs no half close.
	c.raw.Close()
	c.inner.Close()
}

// Close joins the pumps. It relies on raw.Close ending reads and writes of raw,
// as net.Conn demands.
func (c *pumpConn) Close() error {
	err := c.Conn.Close()
	c.raw.Close()
	c.inner.Close()
	c.wg.Wait()
	return err
}

func (c *pumpConn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *pumpConn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }
