package sshtest

import (
	"encoding/binary"
	"io"
	"net"
	"sync"

	xssh "golang.org/x/crypto/ssh"
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

// EndSFTP lets skip more requests of SFTP pass, on any session, and then closes the
// session of each of the n requests that follow, instead of an answer. The line
// stays. So do servers that close idle channels (ChannelTimeout of sshd_config(5)).
func (s *Server) EndSFTP(skip, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sftpSkip, s.sftpEnds = skip, n
}

// EndSessions closes each of the next n sessions when something is to be started in
// it, instead of an answer. Dropbear does so now and then, when the program of another
// session ends.
func (s *Server) EndSessions(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessionEnds = n
}

// endsSession counts a session and reports whether it is to be closed.
func (s *Server) endsSession() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessionEnds == 0 {
		return false
	}
	s.sessionEnds--
	return true
}

// endsSFTP counts a request of SFTP and reports whether its session is to be closed.
func (s *Server) endsSFTP() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.sftpEnds == 0:
		return false
	case s.sftpSkip > 0:
		s.sftpSkip--
		return false
	}
	s.sftpEnds--
	return true
}

// sftpChannel is the server's end of a session of SFTP. It is read packet by packet:
// a length of 4 bytes, and so many more (draft-ietf-secsh-filexfer-02, section 3).
type sftpChannel struct {
	xssh.Channel
	s      *Server
	inited bool // the first packet, which is no request, has begun
	length [4]byte
	have   int    // bytes of length
	left   uint32 // bytes that the packet still has, once length is complete
}

func (c *sftpChannel) Read(p []byte) (int, error) {
	if c.have == 4 && c.left == 0 {
		c.have = 0
	}
	if c.have == 4 {
		n, err := c.Channel.Read(p[:min(len(p), int(c.left))])
		c.left -= uint32(n)
		return n, err
	}
	n, err := c.Channel.Read(p[:min(len(p), 4-c.have)])
	c.have += copy(c.length[c.have:], p[:n])
	if c.have < 4 || err != nil {
		return n, err
	}
	c.left = binary.BigEndian.Uint32(c.length[:])
	if c.inited && c.s.endsSFTP() {
		_ = c.Close()
		return 0, io.EOF
	}
	c.inited = true
	return n, nil
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
