package smbtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// A proxy stands before smbd. Faults of the line happen in it.
type proxy struct {
	ln       net.Listener
	to       string
	netbios  bool
	opening  func(name string) // before a request to open it passes
	requests atomic.Int64
	wg       sync.WaitGroup

	mu      sync.Mutex
	change  *sync.Cond // stalled, closed or a connection's closed changed
	stalled bool
	closed  bool
	conns   map[*proxied]bool
}

// proxied is one connection, seen from both sides.
type proxied struct {
	client, server net.Conn // server is nil until smbd is connected
	closed         bool     // guarded by proxy.mu
}

func newProxy(cfg Config, to string, opening func(name string)) (*proxy, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(cfg.loopback(), "0"))
	if err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	p := &proxy{ln: ln, to: to, netbios: cfg.NetBIOS, opening: opening, conns: make(map[*proxied]bool)}
	p.change = sync.NewCond(&p.mu)
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	return p, nil
}

func (p *proxy) serve(c net.Conn) {
	pc := &proxied{client: c}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		_ = c.Close()
		return
	}
	p.conns[pc] = true
	p.mu.Unlock()
	defer p.drop(pc)
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	p.mu.Lock()
	pc.server = server
	gone := pc.closed
	p.mu.Unlock()
	if gone {
		_ = server.Close()
		return
	}
	p.wg.Go(func() {
		defer p.drop(pc)
		_, _ = io.Copy(c, &stalling{server, p, pc}) // stalling has no WriteTo, so that bytes pass through its Read
	})
	p.up(pc)
}

// up moves messages from the client to smbd. Each has a header of four bytes: a
// type and the length of the rest (MS-SMB2, 2.1; RFC 1002, 4.3.1).
func (p *proxy) up(pc *proxied) {
	r := &stalling{pc.client, p, pc}
	var head [4]byte
	for first := true; ; first = false {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint32(head[:]) & 0x00FFFFFF)
		var called []byte
		if first && p.netbios {
			if head[0] != sessionRequest || n > 1024 {
				return
			}
			called = make([]byte, n)
			if _, err := io.ReadFull(r, called); err != nil {
				return
			}
			if to := calledName(called); to != "*SMBSERVER" && !strings.EqualFold(to, name) {
				_, _ = pc.client.Write([]byte{negativeResponse, 0, 0, 1, calledNameNotPresent})
				return
			}
			n = 0
		} else {
			p.requests.Add(1)
			// What opens something is short, and read as a whole.
			if n <= maxOpen {
				called = make([]byte, n)
				if _, err := io.ReadFull(r, called); err != nil {
					return
				}
				if name := createName(called); name != "" {
					p.opening(name)
				}
				n = 0
			}
		}
		if _, err := pc.server.Write(append(head[:], called...)); err != nil {
			return
		}
		if _, err := io.CopyN(pc.server, r, n); err != nil {
			return
		}
	}
}

// maxOpen is the length of the longest request to open something that is looked at.
const maxOpen = 4096

// RFC 1002, 4.3.1 and 4.3.4.
const (
	sessionRequest       = 0x81
	negativeResponse     = 0x83
	calledNameNotPresent = 0x82
)

// calledName reads the called name of a session request, in the first-level
// encoding of RFC 1001, 14.1, without padding and without the sixteenth byte,
// which says what service is meant. It returns "" if there is none.
func calledName(b []byte) string {
	if len(b) < 34 || b[0] != 32 || b[33] != 0 {
		return ""
	}
	var out [16]byte
	for i := range out {
		hi, lo := b[1+2*i]-'A', b[2+2*i]-'A'
		if hi > 15 || lo > 15 {
			return ""
		}
		out[i] = hi<<4 | lo
	}
	return strings.TrimRight(string(out[:15]), " \x00")
}

// stalling is one direction of a connection.
type stalling struct {
	r  io.Reader
	p  *proxy
	pc *proxied
}

func (s *stalling) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for s.p.stalled && !s.p.closed && !s.pc.closed {
		s.p.change.Wait()
	}
	return n, err
}

func (p *proxy) stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = on
	p.change.Broadcast()
}

func (p *proxy) drop(pc *proxied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(pc)
}

func (p *proxy) dropLocked(pc *proxied) {
	if !pc.closed {
		pc.closed = true
		_ = pc.client.Close()
		delete(p.conns, pc)
		p.change.Broadcast()
	}
	if pc.server != nil {
		_ = pc.server.Close()
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pc := range p.conns {
		p.dropLocked(pc)
	}
}

func (p *proxy) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *proxy) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.closed = true
	p.change.Broadcast()
	p.mu.Unlock()
	p.cut()
	p.wg.Wait()
}
