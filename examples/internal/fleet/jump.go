package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
)

// maxJumps bounds a chain of jump hosts, of which each may name others.
const maxJumps = 8

// A hop is one jump host of ProxyJump.
type hop struct{ user, address string }

// parseJumps reads the value of ProxyJump: [user@]host[:port] or ssh://..., and
// several of them separated by commas, the first being the nearest.
func parseJumps(v string) ([]hop, error) {
	var out []hop
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		rest := strings.TrimSuffix(strings.TrimPrefix(part, "ssh://"), "/")
		var h hop
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			h.user, rest = rest[:i], rest[i+1:]
		}
		h.address = rest
		if _, _, err := (transport.Endpoint{Address: rest}).HostPort(22); err != nil || strings.Contains(h.user, ":") {
			return nil, fmt.Errorf("%w: ProxyJump: want [user@]host[:port]", sum.ErrInvalid)
		}
		out = append(out, h)
	}
	return out, nil
}

// chain returns the jump hosts of a ProxyJump in the order in which they are
// reached. The nearest one may have a ProxyJump of its own, as with ssh.
func (r *Resolver) chain(value string) ([]settings, error) {
	var out []settings
	for value != "" {
		hops, err := parseJumps(value)
		if err != nil {
			return nil, err
		}
		value = ""
		part := make([]settings, len(hops), len(hops)+len(out))
		for i, h := range hops {
			if part[i], err = r.lookup(h.address, h.user); err != nil {
				return nil, err
			}
			if i == 0 {
				value = part[i].jumps
			}
		}
		if out = append(part, out...); len(out) > maxJumps {
			return nil, fmt.Errorf("%w: ProxyJump: more than %d jump hosts, or a circle", sum.ErrInvalid, maxJumps)
		}
	}
	return out, nil
}

// chainKey names a chain.
func chainKey(hops []settings) string {
	names := make([]string, len(hops))
	for i, s := range hops {
		names[i] = s.user + "@" + joinPort(s.host, s.port)
	}
	return strings.Join(names, ",")
}

// jumping dials targets through jump hosts.
type jumping struct {
	r    *Resolver
	hops []settings
}

// Dial implements transport.Transport.
func (j *jumping) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	return j.r.dialThrough(ctx, j.hops, ep, func(dial transport.DialFunc) transport.Transport {
		return &ssh.Transport{DialContext: dial}
	})
}

// jumpError is why a jump host could not be used: what it refuses says nothing
// about the credentials for the target behind it.
type jumpError struct {
	alias string
	err   error
}

func (e *jumpError) Error() string { return "jump host " + e.alias + ": " + e.err.Error() }
func (e *jumpError) Unwrap() error { return e.err }

// dialThrough dials ep from the last of the hops. The connection keeps the hop
// until it is closed.
func (r *Resolver) dialThrough(ctx context.Context, hops []settings, ep transport.Endpoint, by func(transport.DialFunc) transport.Transport) (transport.Conn, error) {
	via, err := r.borrow(ctx, hops)
	if err != nil {
		return nil, &jumpError{hops[len(hops)-1].alias, err}
	}
	conn, err := by(via.dial).Dial(ctx, ep)
	if err != nil {
		via.release(ctx)
		return nil, err
	}
	return &jumped{transport.Forward{Conn: conn}, via}, nil
}

// borrow connects to the last of the hops, or shares the connection that others
// have. A hop is only ever waited for by those behind it, so nobody waits in a
// circle.
func (r *Resolver) borrow(ctx context.Context, hops []settings) (*lent, error) {
	return r.jumps.borrow(ctx, chainKey(hops), func(ctx context.Context) (transport.Conn, error) {
		last := len(hops) - 1
		ep, err := r.endpoint(ctx, hops[last], transport.Secret{}, true)
		if err != nil {
			return nil, err
		}
		by := func(dial transport.DialFunc) transport.Transport {
			return &asking{&ssh.Transport{DialContext: dial}, r, jumpSecret(hops[last])}
		}
		if last == 0 {
			return by(r.dialNetwork).Dial(ctx, ep)
		}
		return r.dialThrough(ctx, hops[:last], ep, by)
	})
}

// jumped is a connection that keeps its jump host.
type jumped struct {
	transport.Forward
	via *lent
}

// Close implements transport.Conn.
func (j *jumped) Close(ctx context.Context) error {
	err := j.Conn.Close(ctx)
	j.via.release(ctx)
	return err
}

// jumps are the connections to jump hosts, shared by the targets behind them.
type jumps struct {
	mu    sync.Mutex
	hosts map[string]*jumpHost
}

type jumpHost struct {
	chain string
	users int           // guarded by jumps.mu
	turn  chan struct{} // held while conn is made, used or changed
	conn  transport.Conn
}

// lent is the use of a jump host.
type lent struct {
	j    *jumps
	h    *jumpHost
	conn transport.Conn
	once sync.Once
}

// borrow returns the connection to the end of a chain, making it if there is
// none.
func (j *jumps) borrow(ctx context.Context, chain string, dial func(context.Context) (transport.Conn, error)) (*lent, error) {
	j.mu.Lock()
	h := j.hosts[chain]
	if h == nil {
		h = &jumpHost{chain: chain, turn: make(chan struct{}, 1)}
		if j.hosts == nil {
			j.hosts = map[string]*jumpHost{}
		}
		j.hosts[chain] = h
	}
	h.users++
	j.mu.Unlock()
	l := &lent{j: j, h: h}
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		l.release(ctx)
		return nil, ctx.Err()
	}
	var err error
	if h.conn == nil {
		h.conn, err = dial(ctx)
	}
	l.conn = h.conn
	<-h.turn
	if err != nil {
		l.release(ctx)
		return nil, err
	}
	return l, nil
}

// dial implements transport.DialFunc.
func (l *lent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := ssh.Through(l.conn)(ctx, network, address)
	if errors.Is(err, transport.ErrConnLost) || errors.Is(err, transport.ErrClosed) {
		l.drop(ctx)
	}
	return c, err
}

// drop lets the next user make a new connection in the place of one that is lost.
func (l *lent) drop(ctx context.Context) {
	select {
	case l.h.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	mine := l.h.conn == l.conn
	if mine {
		l.h.conn = nil
	}
	<-l.h.turn
	if mine {
		_ = l.conn.Close(ctx) // it is lost
	}
}

// release gives the jump host back. The last user closes it.
func (l *lent) release(ctx context.Context) {
	l.once.Do(func() {
		l.j.mu.Lock()
		l.h.users--
		last := l.h.users == 0
		if last && l.j.hosts[l.h.chain] == l.h {
			delete(l.j.hosts, l.h.chain)
		}
		l.j.mu.Unlock()
		if last {
			l.h.end(ctx)
		}
	})
}

// end closes the connection, of which nobody is left to hear an error.
func (h *jumpHost) end(ctx context.Context) {
	h.turn <- struct{}{} // held for a moment only: nobody dials any more
	conn := h.conn
	h.conn = nil
	<-h.turn
	if conn != nil {
		_ = conn.Close(ctx)
	}
}

// close ends all connections to jump hosts.
func (j *jumps) close(ctx context.Context) {
	j.mu.Lock()
	hosts := j.hosts
	j.hosts = nil
	j.mu.Unlock()
	for _, h := range hosts {
		h.end(ctx)
	}
}

// joinPort puts a port to a host name or IP literal.
func joinPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
