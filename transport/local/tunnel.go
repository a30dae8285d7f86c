package local

import (
	"context"
	"errors"
	"net"
	"path/filepath"

	"github.com/roundsman-go/roundsman/transport"
)

// DialContext implements transport.Tunneler for "tcp" and "unix": it dials from
// this host, as the target of any other driver would. That nobody listens is
// ErrUnreachable, that there is no such socket fs.ErrNotExist. The connection has
// deadlines and half-close, and ends with conn.
func (c *conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	k, err := c.begin(ctx, "tunnel", addr)
	if err != nil {
		return nil, err
	}
	defer k.end()
	switch {
	case network == "tcp":
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, k.invalid(`want "host:port"`)
		}
	case network == "unix" && c.caps.Has(transport.CapTunnelUnix):
		if !filepath.IsAbs(addr) {
			return nil, k.invalid("want the absolute path of a socket")
		}
	default:
		return nil, &transport.Error{Op: k.op, Target: Address, Path: addr, Kind: errors.ErrUnsupported, Hint: "no tunnel for network " + network}
	}
	nc, err := (&net.Dialer{}).DialContext(k.ctx, network, addr)
	if err != nil {
		return nil, k.fail(err)
	}
	t := &tunnel{nc.(halfCloser), c}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.tunnels[t] = struct{}{}
	}
	c.mu.Unlock()
	if closed {
		_ = nc.Close()
		return nil, &transport.Error{Op: k.op, Target: Address, Path: addr, Kind: transport.ErrClosed}
	}
	return t, nil
}

// halfCloser is what connections of package net over TCP and Unix sockets are.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// tunnel is a connection that the end of conn closes.
type tunnel struct {
	halfCloser
	c *conn
}

func (t *tunnel) Close() error {
	t.c.mu.Lock()
	delete(t.c.tunnels, t)
	t.c.mu.Unlock()
	return t.halfCloser.Close()
}
