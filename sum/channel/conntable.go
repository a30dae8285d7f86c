package channel

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"
)

// connTable holds the connections of a server in two pools, so that those who
// cannot authenticate never take a place from the manager. When a pool is full
// it is not the newcomer that goes but the one least likely to be the manager:
// whoever holds sockets without speaking is evicted as soon as someone comes.
type connTable struct {
	maxPending, maxPendingPerAddr, maxConns int

	mu      sync.Mutex
	clock   uint64 // counts events; orders connections by age and use
	closed  bool
	pending map[*serverConn]bool
	trusted map[*serverConn]bool
}

// serverConn is one accepted connection, below TLS.
type serverConn struct {
	net.Conn
	table *connTable
	addr  netip.Prefix // who; the zero value where that is not known
	tls   *tls.Conn

	closeOnce sync.Once
	closeErr  error

	// Guarded by table.mu.
	used   uint64 // when it came, or when its last request ended
	spoke  bool   // it sent something
	active int    // requests being served

	// Set before the connection is served, then used by one request at a time.
	keys   authKeys
	mu     sync.Mutex
	window replayWindow
}

// Read notes that the peer speaks.
func (c *serverConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.table.mu.Lock()
		c.spoke = true
		c.table.mu.Unlock()
	}
	return n, err
}

// Close closes once and gives the place in the table back.
func (c *serverConn) Close() error {
	c.closeOnce.Do(func() {
		c.table.mu.Lock()
		delete(c.table.pending, c)
		delete(c.table.trusted, c)
		c.table.mu.Unlock()
		c.closeErr = c.Conn.Close()
	})
	return c.closeErr
}

// acceptReplay records a sequence number of this connection.
func (c *serverConn) acceptReplay(seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.window.accept(seq)
}

// addrKey is what counts as one address: an IPv6 host owns its whole /64.
func addrKey(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// enter adds a connection that has not authenticated, evicting another if need
// be. It reports false if the table is closed.
func (t *connTable) enter(raw net.Conn) (*serverConn, bool) {
	c := &serverConn{Conn: withDeadlines(raw), table: t, addr: addrKey(raw.RemoteAddr())}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		c.Conn.Close()
		return nil, false
	}
	var victims []*serverConn
	if c.addr.IsValid() {
		same := func(o *serverConn) bool { return o.addr == c.addr }
		if n := t.countPending(same); n >= t.maxPendingPerAddr {
			victims = append(victims, t.evictPending(same))
		}
	}
	if len(t.pending) >= t.maxPending {
		victims = append(victims, t.evictPending(func(*serverConn) bool { return true }))
	}
	t.clock++
	c.used = t.clock
	t.pending[c] = true
	t.mu.Unlock()
	for _, v := range victims {
		v.Close()
	}
	return c, true
}

func (t *connTable) countPending(match func(*serverConn) bool) int {
	n := 0
	for c := range t.pending {
		if match(c) {
			n++
		}
	}
	return n
}

// evictPending removes the oldest of the lowest rank: silent strangers first,
// last of all those that speak from an address the manager is known at.
func (t *connTable) evictPending(match func(*serverConn) bool) *serverConn {
	rank := func(c *serverConn) int {
		r := 0
		if c.spoke {
			r++
		}
		for m := range t.trusted {
			if m.addr == c.addr {
				return r + 2
			}
		}
		return r
	}
	var victim *serverConn
	best := 0
	for c := range t.pending {
		if !match(c) {
			continue
		}
		r := rank(c)
		if victim == nil || r < best || r == best && c.used < victim.used {
			victim, best = c, r
		}
	}
	delete(t.pending, victim)
	return victim
}

// trust moves a connection that has authenticated to its own pool. A manager
// that comes back after its line was cut takes the place of its dead
// connections. It reports false if all others are busy, or c was evicted.
func (t *connTable) trust(c *serverConn) bool {
	t.mu.Lock()
	if t.closed || !t.pending[c] {
		t.mu.Unlock()
		return false
	}
	var victim *serverConn
	if len(t.trusted) >= t.maxConns {
		for o := range t.trusted {
			if o.active == 0 && (victim == nil || o.used < victim.used) {
				victim = o
			}
		}
		if victim == nil {
			t.mu.Unlock()
			return false
		}
		delete(t.trusted, victim)
	}
	delete(t.pending, c)
	t.clock++
	c.used = t.clock
	t.trusted[c] = true
	t.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	return true
}

// begin and end bracket a request.
func (t *connTable) begin(c *serverConn) {
	t.mu.Lock()
	c.active++
	t.mu.Unlock()
}

func (t *connTable) end(c *serverConn) {
	t.mu.Lock()
	c.active--
	t.clock++
	c.used = t.clock
	t.mu.Unlock()
}

// close closes connections, and lets no more in. With busyToo false, those that
// serve a request may finish.
func (t *connTable) close(busyToo bool) {
	t.mu.Lock()
	t.closed = true
	var list []*serverConn
	for c := range t.pending {
		list = append(list, c)
	}
	for c := range t.trusted {
		if busyToo || c.active == 0 {
			list = append(list, c)
		}
	}
	t.mu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// lingerClose ends a connection whose handshake failed. Closing a TCP socket
// with unread input resets it, and the reset can overtake the alert that tells
// the peer why; so the input is read for a moment.
func lingerClose(c *serverConn, limit time.Duration) {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok && hc.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(limit))
		var scrap [4096]byte
		for range 64 {
			if _, err := c.Read(scrap[:]); err != nil {
				break
			}
		}
	}
	c.Close()
}
