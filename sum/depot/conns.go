package depot

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits for addresses that no offer and no inbox allows. They get nothing but
// refusals, and have places of their own, so that however many they are they
// take none from the others.
const (
	maxStrangers       = 256
	maxConnsOfStranger = 8 // of one IPv4 address or IPv6 /64
)

// conns keeps the connections of the depot within limits. Beyond one, the
// connection makes room that has been waiting for a request for longest; if none
// is, the new one is closed.
type conns struct {
	log      *slog.Logger
	perOffer int

	mu        sync.Mutex
	known     class
	strangers class
}

// class is the connections with one limit in total.
type class struct {
	max   int
	n     int
	peers map[netip.Addr]*peer
	idle  list.List // of *conn, the one that is idle for longest in front
}

// peer is an address that has connections.
type peer struct {
	n    int
	idle list.List // as that of the class
}

func newConns(max, perOffer int, log *slog.Logger) *conns {
	return &conns{
		log:       log,
		perOffer:  perOffer,
		known:     class{max: max, peers: map[netip.Addr]*peer{}},
		strangers: class{max: maxStrangers, peers: map[netip.Addr]*peer{}},
	}
}

// conn is a connection that the limits count.
type conn struct {
	net.Conn
	from  netip.Addr
	class *class // nil once it no longer counts
	// Its places in the lists of the class and of the peer while it is idle: it
	// has sent no whole request head since it came or since the last answer.
	inClass, inPeer *list.Element
	since           time.Time // it is idle
}

// ReadFrom implements io.ReaderFrom for sendfile: net/http asks for it.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(c.Conn, r)
}

// CloseWrite lets net/http end an answer before it closes, so that the client
// gets to read it.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// connKey is under which the context of a request has its *conn.
type connKey struct{}

// countedConn returns what admit returned for a connection of the server.
func countedConn(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*conn)
}

// admit returns the connection as one that counts, or nil after closing it. It
// belongs to an address that allowed offers and inboxes allow.
func (cs *conns) admit(raw net.Conn, from netip.Addr, allowed int) *conn {
	cs.mu.Lock()
	k, each, key := &cs.strangers, maxConnsOfStranger, from
	if allowed > 0 {
		k, each = &cs.known, cs.perOffer*allowed
	} else if from.Is6() {
		key = netip.PrefixFrom(from, 64).Masked().Addr()
	}
	p := k.peers[key]
	if p == nil {
		p = &peer{}
	}
	var evicted *conn
	full := false
	switch {
	case p.n >= each:
		evicted, full = cs.evict(&p.idle)
	case k.n >= k.max:
		evicted, full = cs.evict(&k.idle)
	}
	var c *conn
	if !full {
		c = &conn{Conn: raw, from: key, class: k}
		k.peers[key] = p // evicting may have taken it away
		k.n++
		p.n++
		c.rest(p)
	}
	ofPeer, inAll := p.n, k.n
	cs.mu.Unlock()

	if evicted != nil {
		_ = evicted.Close() // of the socket: it does not wait
		cs.log.Debug("depot: closed an idle connection to make room", "from", evicted.from, "for", from)
	}
	if c == nil {
		_ = raw.Close()
		level := slog.LevelDebug
		if allowed > 0 {
			level = slog.LevelWarn
		}
		cs.log.Log(context.Background(), level, "depot: refused a connection, too many are busy", "from", from, "of this address", ofPeer, "in all", inAll)
	}
	return c
}

// evict stops counting the connection that is idle for longest and returns it,
// to be closed. The caller holds cs.mu.
func (cs *conns) evict(idle *list.List) (c *conn, full bool) {
	front := idle.Front()
	if front == nil {
		return nil, true
	}
	c = front.Value.(*conn)
	c.forget()
	return c, false
}

// idleEnough is how long a connection must have been idle to be closed for want of
// file descriptors: the request of one that is new may be on its way.
const idleEnough = time.Second

// makeRoom closes the connection that is idle for longest, of a stranger if there
// is one, and so gives back its file descriptor.
func (cs *conns) makeRoom() {
	cs.mu.Lock()
	var evicted *conn
	for _, k := range []*class{&cs.strangers, &cs.known} {
		if front := k.idle.Front(); front != nil && time.Since(front.Value.(*conn).since) >= idleEnough {
			evicted, _ = cs.evict(&k.idle)
			break
		}
	}
	cs.mu.Unlock()
	if evicted != nil {
		_ = evicted.Close() // of the socket: it does not wait
		cs.log.Debug("depot: closed an idle connection for want of file descriptors", "from", evicted.from)
	}
}

// rest puts the connection last in the lists of idle ones.
func (c *conn) rest(p *peer) {
	c.inClass = c.class.idle.PushBack(c)
	c.inPeer = p.idle.PushBack(c)
	c.since = time.Now()
}

// wake takes it from those lists.
func (c *conn) wake(p *peer) {
	if c.inClass != nil {
		c.class.idle.Remove(c.inClass)
		p.idle.Remove(c.inPeer)
		c.inClass, c.inPeer = nil, nil
	}
}

// forget stops counting it.
func (c *conn) forget() {
	p := c.class.peers[c.from]
	c.wake(p)
	c.class.n--
	if p.n--; p.n == 0 {
		delete(c.class.peers, c.from)
	}
	c.class = nil
}

// busy notes that a request has come.
func (cs *conns) busy(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.class != nil {
		c.wake(c.class.peers[c.from])
	}
}

// idle notes that a request has been answered.
func (cs *conns) idle(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.class != nil {
		p := c.class.peers[c.from]
		c.wake(p)
		c.rest(p)
	}
}

// closed notes that a connection is closed.
func (cs *conns) closed(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.class != nil {
		c.forget()
	}
}

// listener gives the server connections within the limits.
type listener struct {
	net.Listener
	d *Depot
}

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	for {
		l.d.starved.wait(l.d.ctx)
		raw, err := l.Listener.Accept()
		if scarce(err) {
			// net/http tries again, at most a second later.
			l.d.opts.Logger.Warn("depot: no connection can be accepted for now", "err", err)
			l.d.conns.makeRoom()
			return nil, shortage{err}
		}
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if a := raw.RemoteAddr(); a != nil {
			from = plainAddr(a.String())
		}
		if c := l.d.conns.admit(raw, from, l.d.grants.connected(from)); c != nil {
			return c, nil
		}
	}
}
