package sshtest

import (
	"net"
	"sync"
)

// CutAfter breaks the line once n more bytes, counted on the wire, have come in
// over any connection: the connection that received the last of them is closed
// without a word. It happens once; n of 0 or less takes the order back.
func (s *Server) CutAfter(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = max(0, n)
}

// Stall makes every connection hang, present and future, until it is called with
// false: nothing is read and nothing is answered, yet no connection is closed.
func (s *Server) Stall(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = on
	s.change.Broadcast()
}

// Refuse makes the server close new connections at once until it is called with
// false.
func (s *Server) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = on
}

// HangCommands makes the server leave commands without an answer, until it is
// called with false, as some servers do that are for files alone. SFTP goes on.
func (s *Server) HangCommands(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hanging = on
}

// CloseConnections breaks every connection that is open now. Commands go on, as
// they do under OpenSSH.
func (s *Server) CloseConnections() {
	s.mu.Lock()
	conns := make([]*faultConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// faultConn is the server's end of a line, on which the faults happen.
type faultConn struct {
	net.Conn
	s      *Server
	once   sync.Once
	closed bool // guarded by s.mu
}

// wait returns when the line does not hang, or is closed.
func (c *faultConn) wait() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for c.s.stalled && !c.s.closed && !c.closed {
		c.s.change.Wait()
	}
}

func (c *faultConn) Read(p []byte) (int, error) {
	c.wait()
	n, err := c.Conn.Read(p)
	c.wait() // bytes that came in while the line was made to hang wait as well
	if n > 0 && c.s.spend(int64(n)) {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// spend counts n bytes and reports whether the line is to be cut now.
func (s *Server) spend(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut == 0 {
		return false
	}
	if s.cut -= n; s.cut <= 0 {
		s.cut = 0
		return true
	}
	return false
}

func (c *faultConn) Write(p []byte) (int, error) {
	c.wait()
	return c.Conn.Write(p)
}

func (c *faultConn) Close() error {
	var err error
	c.once.Do(func() {
		c.s.mu.Lock()
		c.closed = true
		c.s.change.Broadcast()
		c.s.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
