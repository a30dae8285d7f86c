package smbtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// pipeDir is where smbd looks for the sockets behind its named pipes.
func (s *Server) pipeDir() string { return filepath.Join(s.dir, "rpc", "np") }

// Listen makes a named pipe: what a client opens on IPC$ under this name, with or
// without the prefix \\.\pipe\, reaches the listener as one connection. Closing
// the listener removes the pipe and leaves open connections alone.
//
// It is a pipe in byte mode: a stream in both directions, whatever the sizes of
// reads and writes. Half of it cannot be closed.
func (s *Server) Listen(pipe string) (net.Listener, error) {
	l, err := s.listen(pipe, nil)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// pipeBase is the name of a pipe as smbd has it, which folds it.
func pipeBase(pipe string) string {
	return strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(pipe, `\\.\pipe`), `\`))
}

// listen makes a pipe. What f is not nil for f has the connections, and Accept has none.
func (s *Server) listen(pipe string, f *forward) (*pipeListener, error) {
	base := pipeBase(pipe)
	if base == "" || strings.ContainsAny(base, "/\\\x00") {
		return nil, fmt.Errorf("smbtest: %q is no name of a pipe", pipe)
	}
	path := filepath.Join(s.pipeDir(), base)
	if len(path) > 107 { // unix(7)
		return nil, fmt.Errorf("smbtest: the name of pipe %q is too long: its socket would be %s", pipe, path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("smbtest: listen on pipe %s: %w", pipe, net.ErrClosed)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("smbtest: listen on pipe %s: %w", pipe, err)
	}
	l := &pipeListener{ln: ln, s: s, addr: pipeAddr(base), f: f, queue: make(chan *pipeConn), done: make(chan struct{}), conns: make(map[*pipeConn]bool)}
	s.pipes[l] = true
	l.wg.Go(l.accept)
	return l, nil
}

// pipeAddr is the address of a pipe.
type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return `\\.\pipe\` + string(a) }

type pipeListener struct {
	ln    net.Listener
	s     *Server
	addr  pipeAddr
	f     *forward // nil: Accept has the connections
	queue chan *pipeConn
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns map[*pipeConn]bool // nil after shut
}

func (l *pipeListener) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		pc := &pipeConn{Conn: c, l: l}
		l.mu.Lock()
		if l.conns == nil {
			l.mu.Unlock()
			_ = c.Close()
			return
		}
		l.conns[pc] = true
		l.mu.Unlock()
		l.wg.Go(func() {
			if l.f != nil {
				l.f.serve(pc)
				return
			}
			if err := greet(c); err != nil {
				_ = pc.Close()
				return
			}
			select {
			case l.queue <- pc:
			case <-l.done:
				_ = pc.Close()
			}
		})
	}
}

// Accept waits for the next client.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "pipe", Addr: l.addr, Err: net.ErrClosed}
}

func (l *pipeListener) Addr() net.Addr { return l.addr }

func (l *pipeListener) Close() error {
	err := error(&net.OpError{Op: "close", Net: "pipe", Addr: l.addr, Err: net.ErrClosed})
	l.once.Do(func() {
		err = l.ln.Close() // which removes the socket
		close(l.done)
	})
	return err
}

// shut closes the listener and its connections, and waits for its goroutines.
func (l *pipeListener) shut() {
	_ = l.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
	l.wg.Wait()
}

// greet answers the request with which smbd begins (named_pipe_auth.idl of Samba):
// a length in network order, "NPAM" and a level, whose number depends on the
// version of Samba; then, little-endian, who the client is, which is not looked at.
func greet(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	var head [12]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if string(head[4:8]) != "NPAM" || n < 8 || n > 1<<20 {
		return errors.New("smbtest: not a request for a named pipe")
	}
	if _, err := io.CopyN(io.Discard, c, n-8); err != nil {
		return err
	}
	reply := make([]byte, 36)
	binary.BigEndian.PutUint32(reply, uint32(len(reply)-4))
	copy(reply[4:], head[4:12])                     // magic and level
	copy(reply[12:], head[8:12])                    // the level again, as the union's discriminant
	binary.LittleEndian.PutUint16(reply[16:], 1)    // FILE_TYPE_BYTE_MODE_PIPE: nothing frames what follows
	binary.LittleEndian.PutUint16(reply[18:], 0xff) // device state: no limit of instances
	binary.LittleEndian.PutUint64(reply[24:], 4096) // allocation size, aligned to 8
	// The status, which is 0, ends it.
	if _, err := c.Write(reply); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// pipeConn is one open of a pipe.
type pipeConn struct {
	net.Conn
	l *pipeListener
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.l.addr }
func (c *pipeConn) RemoteAddr() net.Addr { return c.l.addr }

// Close ends the connection; the client's reads end with STATUS_PIPE_BROKEN or
// the like.
func (c *pipeConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}
