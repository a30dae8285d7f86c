package redfishtest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// network is the service's end of the wire. It listens while the service is up
// and no fault wants callers refused.
type network struct {
	mu      sync.Mutex
	addr    string
	release func() // gives the port back
	ln      net.Listener
	conns   map[*conn]bool
}

// open takes the port for the life of the server.
func (s *Server) openNetwork() error {
	port, release, err := hold(s.at)
	if err != nil {
		return fmt.Errorf("redfishtest: listening on %s: %w", s.at, err)
	}
	s.net.addr, s.net.release = netip.AddrPortFrom(s.at.Addr(), uint16(port)).String(), release
	s.net.conns = make(map[*conn]bool)
	return s.listen()
}

// listen lets clients in again.
func (s *Server) listen() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.net.ln != nil || s.ctx.Err() != nil {
		return nil
	}
	ln, err := net.Listen("tcp", s.net.addr)
	for deadline := time.Now().Add(10 * time.Second); err != nil && s.ctx.Err() == nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // somebody else has the port; see hold
		ln, err = net.Listen("tcp", s.net.addr)
	}
	if err != nil {
		return fmt.Errorf("redfishtest: %w", err)
	}
	s.net.addr = ln.Addr().String()
	s.net.ln = ln
	s.wg.Go(func() {
		_ = s.http.Serve(tls.NewListener(&listener{Listener: ln, s: s}, s.tlsConfig()))
	})
	return nil
}

// unlisten refuses clients from now on.
func (s *Server) unlisten() {
	s.net.mu.Lock()
	ln := s.net.ln
	s.net.ln = nil
	s.net.mu.Unlock()
	if ln != nil {
		_ = ln.Close()
	}
}

// adjust listens or does not, as the state wants it.
func (s *Server) adjust() error {
	s.adjusting.Lock()
	defer s.adjusting.Unlock()
	s.mu.Lock()
	up := !s.down && !s.active(RefuseConnections)
	s.mu.Unlock()
	if up {
		return s.listen()
	}
	s.unlisten()
	return nil
}

// CloseConnections breaks every connection that is open now with a reset.
func (s *Server) CloseConnections() {
	s.net.mu.Lock()
	var conns []*conn
	for c := range s.net.conns {
		conns = append(conns, c)
	}
	s.net.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

// Connections returns how many connections of clients are open.
func (s *Server) Connections() int {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return len(s.net.conns)
}

// listener counts connections, and turns away those that a fault is for.
type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, s: l.s}
		l.s.net.mu.Lock()
		others := len(l.s.net.conns)
		l.s.net.conns[c] = true
		l.s.net.mu.Unlock()
		switch {
		case l.s.fault(ResetConnections, nil) != nil,
			others > 0 && l.s.fault(SingleConnection, nil) != nil:
			c.abort()
		default:
			return c, nil
		}
	}
}

// conn is the service's end of a connection.
type conn struct {
	net.Conn
	s    *Server
	once sync.Once
	err  error
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.s.net.mu.Lock()
		delete(c.s.net.conns, c)
		c.s.net.mu.Unlock()
		c.err = c.Conn.Close()
	})
	return c.err
}

// abort closes the connection with a reset instead of a last word.
func (c *conn) abort() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// shutNetwork ends connections and gives the port back.
func (s *Server) shutNetwork() error {
	s.unlisten()
	err := s.http.Close()
	s.CloseConnections()
	s.net.release()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
