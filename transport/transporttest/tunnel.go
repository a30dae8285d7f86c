package transporttest

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/roundsman-go/roundsman/transport"
)

// DialContext implements transport.Tunneler.
func (c *conn) DialContext(ctx context.Context, network, addr string) (nc net.Conn, err error) {
	caps := map[string]transport.Caps{"unix": transport.CapTunnelUnix, "tcp": transport.CapTunnelTCP, "pipe": transport.CapTunnelPipe}
	want, ok := caps[network]
	if !ok {
		return nil, c.invalid(ctx, "tunnel", addr, "network "+network)
	}
	k, err := c.use(ctx, "tunnel", addr, want)
	defer func() {
		if k.end(&err); err != nil {
			nc = nil // also where the reply was lost
		}
	}()
	if err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	l := c.t.listeners[network+" "+addr]
	c.f.mu.Unlock()
	refused := c.fail("tunnel", addr, transport.ErrUnreachable, errors.New("nobody listens there on the target"))
	if l == nil {
		return nil, refused
	}
	near, far := newMemConns(network, "tunnel", addr)
	near.onClose = func() {
		c.mu.Lock()
		delete(c.tunnels, near)
		c.mu.Unlock()
	}
	far.onClose = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = slices.DeleteFunc(l.conns, func(m *memConn) bool { return m == far })
	}
	c.mu.Lock()
	ended := c.tunneled
	if !ended {
		c.tunnels[near] = struct{}{}
	}
	c.mu.Unlock()
	if ended {
		return nil, c.state(ctx, "tunnel", addr)
	}
	l.mu.Lock()
	l.conns = append(l.conns, far)
	l.mu.Unlock()
	select {
	case <-l.done:
		near.Close()
		return nil, refused
	default:
	}
	select {
	case l.queue <- far:
		return near, nil
	case <-l.done:
		err = refused
	case <-ctx.Done():
		err = c.fail("tunnel", addr, ctx.Err(), nil)
	case <-c.closed:
		err = c.fail("tunnel", addr, transport.ErrClosed, nil)
	case <-c.lost:
		err = c.fail("tunnel", addr, transport.ErrConnLost, nil)
	}
	near.Close()
	return nil, err
}
