package redfish

import (
	"context"
	"net/netip"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// conn is one connection. It is safe for concurrent use.
type conn struct {
	s          *session
	root       serviceRoot
	managers   []manager
	update     updateService // as it was at the dial
	updatePath string
	noUpdate   error // why there is no update service
	profile    Profile
	updating   chan struct{} // holds the right to change the target
	leaves     map[Way]bool  // ways by which a request has left a task; for who holds updating
	once       sync.Once
}

var _ interface {
	transport.Conn
	transport.Inventorier
	transport.Updater
	transport.Undoer
	transport.Rebooter
	transport.Explainer
} = (*conn)(nil)

// Caps implements transport.Conn.
func (c *conn) Caps() transport.Caps {
	caps := transport.CapInventory
	if c.updatePath != "" && len(c.ways(&c.update)) > 0 {
		caps |= transport.CapUpdate | transport.CapUndo
	}
	if c.systems() != "" {
		caps |= transport.CapReboot
	}
	return caps
}

// Path implements transport.Conn. Whoever answers fetches, too.
func (c *conn) Path() transport.Path {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	p := transport.Path{Local: c.s.local, Remote: c.s.remote, SeenAs: c.s.local.Addr()}
	if a := p.Remote.Addr(); a.IsValid() {
		p.CallbackFrom = []netip.Prefix{netip.PrefixFrom(a.WithZone(""), a.BitLen())}
	}
	return p
}

// Close implements transport.Conn.
func (c *conn) Close(ctx context.Context) (err error) {
	c.once.Do(func() { err = c.s.close(ctx) })
	return err
}
