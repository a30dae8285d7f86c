package smbtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
)

// Forward makes a named pipe whose server is elsewhere: each client that opens it gets
// what dial returns, and where dial fails there is no such pipe. Closing what Forward
// returns removes it and leaves open connections alone.
//
// That there is no pipe smbd has to find out by itself. So the proxy looks for opens in
// the requests that pass it, which it cannot where the client encrypts them: then the
// pipe is there always, and a client that dial fails for loses its connection.
func (s *Server) Forward(pipe string, dial func(ctx context.Context) (net.Conn, error)) (io.Closer, error) {
	base := pipeBase(pipe)
	ctx, cancel := context.WithCancel(context.Background())
	f := &forward{s: s, name: base, dial: dial, ctx: ctx, cancel: cancel}
	s.mu.Lock()
	taken := s.forwards[base] != nil
	if !taken && !s.closed {
		s.forwards[base] = f
	}
	closed := s.closed
	s.mu.Unlock()
	if taken || closed {
		cancel()
		err := net.ErrClosed
		if taken {
			err = errors.New("somebody has it")
		}
		return nil, fmt.Errorf("smbtest: forward pipe %s: %w", pipe, err)
	}
	if s.cfg.Encryption {
		if err := f.appear(nil); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return f, nil
}

// forward is a pipe of Forward.
type forward struct {
	s      *Server
	name   string
	dial   func(context.Context) (net.Conn, error)
	ctx    context.Context // until it is closed
	cancel context.CancelFunc

	mu    sync.Mutex
	l     *pipeListener // nil while there is no such pipe
	ready []net.Conn    // for those who are about to open it
}

// dialTime bounds dial.
const dialTime = 30 * time.Second

// opening is called when a client is about to open the pipe.
func (f *forward) opening() {
	ctx, cancel := context.WithTimeout(f.ctx, dialTime)
	defer cancel()
	c, err := f.dial(ctx)
	if err == nil {
		err = f.appear(c)
	}
	if err != nil {
		f.vanish()
	}
}

// appear makes the pipe, if there is none, for a client that is to get c.
func (f *forward) appear(c net.Conn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.ctx.Err()
	if err == nil && f.l == nil {
		f.l, err = f.s.listen(f.name, f)
	}
	switch {
	case c == nil:
	case err != nil:
		_ = c.Close()
	default:
		f.ready = append(f.ready, c)
	}
	return err
}

func (f *forward) vanish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.l != nil {
		_ = f.l.Close()
	}
	for _, c := range f.ready {
		_ = c.Close()
	}
	f.l, f.ready = nil, nil
}

// take is what a client gets.
func (f *forward) take() (net.Conn, error) {
	f.mu.Lock()
	if len(f.ready) > 0 {
		defer f.mu.Unlock()
		c := f.ready[0]
		f.ready = f.ready[1:]
		return c, nil
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(f.ctx, dialTime)
	defer cancel()
	return f.dial(ctx)
}

// serve connects a client, until either of the two hangs up.
func (f *forward) serve(c *pipeConn) {
	defer c.Close()
	to, err := f.take()
	if err != nil {
		return
	}
	defer to.Close()
	if greet(c.Conn) != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c.Conn, to)
		_ = c.Conn.Close()
	})
	_, _ = io.Copy(to, c.Conn)
	_ = to.Close()
	_ = c.Conn.Close()
	back.Wait()
}

// Close implements io.Closer.
func (f *forward) Close() error {
	f.cancel()
	f.vanish()
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.forwards[f.name] == f {
		delete(f.s.forwards, f.name)
	}
	return nil
}

// opening is called by the proxy when a client is about to open a file or a pipe.
func (s *Server) opening(name string) {
	s.mu.Lock()
	f := s.forwards[pipeBase(name)]
	s.mu.Unlock()
	if f != nil {
		f.opening()
	}
}

// createName is the name in a request to open a file or a pipe (MS-SMB2, 2.2.13), as
// the proxy sees it, or "".
func createName(b []byte) string {
	const header, create = 64, 5
	if len(b) < header+56 || string(b[:4]) != "\xfeSMB" || binary.LittleEndian.Uint16(b[12:]) != create {
		return ""
	}
	offset, n := int(binary.LittleEndian.Uint16(b[header+44:])), int(binary.LittleEndian.Uint16(b[header+46:]))
	if offset+n > len(b) || n%2 != 0 {
		return ""
	}
	var u []uint16
	for b := b[offset : offset+n]; len(b) > 0; b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return strings.TrimPrefix(string(utf16.Decode(u)), `\`)
}
