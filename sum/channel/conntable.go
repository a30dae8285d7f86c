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
	maxPending, maxPendingPerAddr int
	maxConns                      int // with one peer

	mu      sync.Mutex
	clock   uint64 // counts events; orders connections by age and use
	pending map[*serverConn]bool
	trusted map[*serverConn]bool
	// The same by what is asked for at every connection.
	pendingAt map[netip.Prefix]int
	trustedAt map[netip.Prefix]int
	with      map[*credentials]map[*serverConn]bool // trusted
}

func newConnTable(maxPending, maxPendingPerAddr, maxConns int) *connTable {
	return &connTable{
		maxPending: maxPending, maxPendingPerAddr: maxPendingPerAddr, maxConns: maxConns,
		pending: make(map[*serverConn]bool), trusted: make(map[*serverConn]bool),
		pendingAt: make(map[netip.Prefix]int), trustedAt: make(map[netip.Prefix]int),
		with: make(map[*credentials]map[*serverConn]bool),
	}
}

// serverConn is one accepted connection, below TLS.
type serverConn struct {
	net.Conn
	table *connTable
	run   *run
	addr  netip.Prefix // who; the zero value where that is not known
	tls   *tls.Conn

	closeOnce sync.Once
	closeErr  error

	// Guarded by table.mu.
	used   uint64 // when it came, or when its last request ended
	spoke  bool   // it sent something
	named  bool   // it asked for one of several parties that are expected
	active int    // requests being served

	// Set before the connection is served, then used by one request at a time.
	party  *party
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
		c.table.remove(c)
		c.table.mu.Unlock()
		c.closeErr = c.Conn.Close()
	})
	return c.closeErr
}

// peer says by whose credentials it was let in.
func (c *serverConn) peer() *credentials {
	if c.party == nil {
		return nil
	}
	return c.party.creds
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

// count changes how many connections there are of an address.
func count(m map[netip.Prefix]int, addr netip.Prefix, by int) {
	if m[addr] += by; m[addr] == 0 {
		delete(m, addr)
	}
}

// remove takes a connection out of both pools. The caller holds mu.
func (t *connTable) remove(c *serverConn) {
	if t.pending[c] {
		delete(t.pending, c)
		count(t.pendingAt, c.addr, -1)
	}
	if t.trusted[c] {
		delete(t.trusted, c)
		count(t.trustedAt, c.addr, -1)
		same := t.with[c.peer()]
		if delete(same, c); len(same) == 0 {
			delete(t.with, c.peer())
		}
	}
}

// enter adds a connection that has not authenticated, evicting another if need
// be. It reports false if the run has ended.
func (t *connTable) enter(raw net.Conn, r *run) (*serverConn, bool) {
	c := &serverConn{Conn: withDeadlines(raw), table: t, run: r, addr: addrKey(raw.RemoteAddr())}
	t.mu.Lock()
	if r.shut {
		t.mu.Unlock()
		c.Conn.Close()
		return nil, false
	}
	var victims []*serverConn
	if c.addr.IsValid() && t.pendingAt[c.addr] >= t.maxPendingPerAddr {
		victims = append(victims, t.evictPending(func(o *serverConn) bool { return o.addr == c.addr }))
	}
	if len(t.pending) >= t.maxPending {
		victims = append(victims, t.evictPending(func(*serverConn) bool { return true }))
	}
	t.clock++
	c.used = t.clock
	t.pending[c] = true
	count(t.pendingAt, c.addr, 1)
	t.mu.Unlock()
	for _, v := range victims {
		v.Close()
	}
	return c, true
}

// name notes whom a connection asked for.
func (t *connTable) name(c *serverConn, p *party) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.party, c.named = p, true
}

// evictPending removes the oldest of the lowest rank: silent strangers first,
// last of all those that speak, from an address the peer is known at, and to
// somebody who is expected.
func (t *connTable) evictPending(match func(*serverConn) bool) *serverConn {
	rank := func(c *serverConn) int {
		r := 0
		if c.spoke {
			r++
		}
		if t.trustedAt[c.addr] > 0 {
			r += 2
		}
		if c.named {
			r += 4
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
	t.remove(victim)
	return victim
}

// trust moves a connection that has authenticated to its own pool. A manager
// that comes back after its line was cut takes the place of its dead
// connections, and nobody else's. It reports false if all of its others are busy, or
// c was evicted.
func (t *connTable) trust(c *serverConn) bool {
	t.mu.Lock()
	if r := c.run; r.shut || !t.pending[c] {
		t.mu.Unlock()
		return false
	}
	var victim *serverConn
	if same := t.with[c.peer()]; len(same) >= t.maxConns {
		for o := range same {
			if o.active == 0 && (victim == nil || o.used < victim.used) {
				victim = o
			}
		}
		if victim == nil {
			t.mu.Unlock()
			return false
		}
		t.remove(victim)
	}
	t.remove(c)
	t.clock++
	c.used = t.clock
	t.trusted[c] = true
	count(t.trustedAt, c.addr, 1)
	same := t.with[c.peer()]
	if same == nil {
		same = make(map[*serverConn]bool)
		t.with[c.peer()] = same
	}
	same[c] = true
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

// closeWith closes the connections with one peer.
func (t *connTable) closeWith(p *credentials) {
	t.mu.Lock()
	var list []*serverConn
	for c := range t.with[p] {
		list = append(list, c)
	}
	t.mu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// close closes the connections of a run, and lets no more in. With busyToo false,
// those that serve a request may finish.
func (t *connTable) close(r *run, busyToo bool) {
	t.mu.Lock()
	r.shut = true
	var list []*serverConn
	for c := range t.pending {
		if c.run == r {
			list = append(list, c)
		}
	}
	for c := range t.trusted {
		if c.run == r && (busyToo || c.active == 0) {
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
