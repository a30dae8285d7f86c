package ssh

import (
	"bytes"
	"context"
	"errors"
	"net"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// errOther is why a second connection is refused that leads elsewhere, as it may
// behind a load balancer.
var errOther = errors.New("the second connection shows another host key than the first")

// again makes a second connection to the target of d.twin, with what it was
// dialled with. A first use that was accepted then is not put to the caller again.
func (d *dialer) again(ctx context.Context) (*conn, error) {
	e := dialer{t: d.t, ep: d.ep, opts: d.opts, addr: d.addr, twin: d.twin}
	if e.ep.Trust.FirstUse != nil {
		e.ep.Trust.FirstUse = func(context.Context, transport.SeenIdentity) error { return nil } // hostKey compares
	}
	return e.dial(ctx)
}

// errRekeyed is why a connection ends on which the target shows another key than it
// began with.
var errRekeyed = errors.New("the target shows another host key than when the connection was made")

// hostKey is the HostKeyCallback. It is called at each key exchange: what was
// decided at the first holds for the connection.
func (d *dialer) hostKey(addr string, remote net.Addr, key xssh.PublicKey) error {
	shown := key.Marshal()
	if accepted := d.shown.Load(); accepted != nil {
		if !bytes.Equal(shown, *accepted) {
			return errRekeyed
		}
		return nil
	}
	if err := d.v.check(addr, remote, key); err != nil {
		return err
	}
	if d.twin != nil && !bytes.Equal(shown, d.twin.hostKey) {
		d.v.err, d.v.decided = errOther, false
		return errOther
	}
	d.shown.Store(&shown)
	return nil
}

// takeAfter takes over what probe found out on another connection to the target.
func (c *conn) takeAfter(o *conn) {
	c.caps, c.path, c.shell, c.noSh, c.terminal = o.caps, o.path, o.shell, o.noSh, o.terminal
}
