package ssh

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/internal/bufpipe"
	xssh "golang.org/x/crypto/ssh"
)

// DialContext implements transport.Tunneler for "tcp" (RFC 4254, section 7.2) and
// "unix" (OpenSSH PROTOCOL, section 2.4). That nobody listens is ErrUnreachable,
// that there is no such socket fs.ErrNotExist, and that the server forbids it
// ErrRejected, each with the code {"ssh-open", reason}. OpenSSH gives one reason
// for two cases of Unix sockets; where the socket is there, it is ErrRejected.
// The connection has deadlines and half-close, and ends with conn.
func (c *conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	k, err := c.begin(ctx, "tunnel", addr)
	if err != nil {
		return nil, err
	}
	defer k.end()
	var kind string
	var extra []byte
	switch {
	case network == "tcp":
		host, port, err := net.SplitHostPort(addr)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || host == "" || n == 0 {
			return nil, c.invalid("tunnel", addr, `want "host:port"`)
		}
		kind = "direct-tcpip"
		extra = xssh.Marshal(struct {
			Host       string
			Port       uint32
			OriginHost string
			OriginPort uint32
		}{host, uint32(n), "127.0.0.1", 0})
	case network == "unix" && c.caps.Has(transport.CapTunnelUnix):
		if addr == "" {
			return nil, c.invalid("tunnel", addr, "want the path of a socket")
		}
		kind = "direct-streamlocal@openssh.com"
		extra = xssh.Marshal(struct {
			Path      string
			Reserved0 string
			Reserved1 uint32
		}{Path: addr})
	case network == "unix":
		return nil, &transport.Error{Op: "tunnel", Target: c.target, Path: addr, Kind: errors.ErrUnsupported,
			Hint: "the server would connect as the user who logged in, not as root"}
	default:
		return nil, &transport.Error{Op: "tunnel", Target: c.target, Path: addr, Kind: errors.ErrUnsupported,
			Hint: "no tunnel for network " + network}
	}
	ch, reqs, err := c.openChannel(k.ctx, kind, extra)
	if err != nil {
		return nil, k.tunnelError(network, addr, err)
	}
	near, far := bufpipe.New(tunnelAddr{network, "ssh"}, tunnelAddr{network, addr})
	c.bg.Go(func() { xssh.DiscardRequests(reqs) })
	c.bg.Go(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) })
	c.pipe(far, ch)
	return near, nil
}

// tunnelError is why a tunnel did not come about.
func (k *call) tunnelError(network, addr string, err error) error {
	var open *xssh.OpenChannelError
	if !errors.As(err, &open) {
		return k.fail(err)
	}
	e := &transport.Error{Op: k.op, Target: k.c.target, Path: addr, Code: openCode(open), Err: err}
	switch {
	case open.Reason == xssh.ConnectionFailed && network == "tcp":
		e.Kind = transport.ErrUnreachable
	case open.Reason == xssh.ConnectionFailed:
		e.Kind = transport.ErrUnreachable
		if k.c.caps.Has(transport.CapFiles) {
			if _, serr := k.c.Stat(k.ctx, addr); serr != nil {
				return &transport.Error{Op: k.op, Target: k.c.target, Path: addr, Code: e.Code, Kind: kindOf(serr), Err: serr}
			}
			e.Kind = transport.ErrRejected
			e.Hint = "nobody listens there, or sshd's AllowStreamLocalForwarding forbids it; a program on the target can connect instead"
		}
	case open.Reason == xssh.ResourceShortage:
		e.Kind = transport.ErrBusy
	default:
		e.Kind = transport.ErrRejected
		e.Hint = "the server forbids forwarding (AllowTcpForwarding, AllowStreamLocalForwarding and PermitOpen of sshd); a program on the target can connect instead"
	}
	return e
}

// kindOf is the class of an error of this driver.
func kindOf(err error) error {
	var te *transport.Error
	if errors.As(err, &te) && te.Kind != nil {
		return te.Kind
	}
	return transport.ErrUnreachable
}

// flushTime is how long the far side of a tunnel that was closed may take none of
// what was written before.
const flushTime = 5 * time.Second

// pipe joins a channel to one end of a pipe until one of them ends.
func (c *conn) pipe(far *bufpipe.Conn, ch xssh.Channel) {
	over := make(chan struct{}) // the channel has ended
	sent := make(chan struct{}) // what the near side wrote has been sent, or never will be
	out := &counter{w: ch}
	c.bg.Go(func() {
		defer close(sent)
		if _, err := io.Copy(out, far); err == nil {
			_ = ch.CloseWrite()
		} else if !c.tellLoss(far) {
			_ = far.CloseRead() // the peer takes no more, and the writer hears of it
		}
	})
	c.bg.Go(func() {
		for _, end := range []<-chan struct{}{far.PeerClosed(), far.PeerFinished()} {
			select {
			case <-end:
			case <-over:
				return
			}
		}
		// Nobody is left on the near side. A far side that does not read would keep
		// the channel, and the connection behind it on the server, for ever.
		tick := time.NewTicker(flushTime)
		defer tick.Stop()
		for last := int64(-1); last != out.sum(); {
			last = out.sum()
			select {
			case <-sent:
				_ = ch.Close()
				return
			case <-over:
				return
			case <-tick.C:
			}
		}
		_ = ch.Close()
	})
	c.bg.Go(func() {
		defer close(over)
		defer ch.Close()
		_, _ = io.Copy(far, ch)
		select {
		case <-far.PeerClosed():
			return // nobody reads
		default:
		}
		// A channel ends in many ways when the line breaks, the usual end included.
		if !c.tellLoss(far) {
			_ = far.CloseWrite()
		}
	})
}

// tellLoss tells the near side of a tunnel if it ended because the connection is
// lost, and reports whether it is.
func (c *conn) tellLoss(far *bufpipe.Conn) bool {
	_, err := do(c.ctx, c, func() (struct{}, error) { return struct{}{}, c.ask() }, nil)
	if err == nil {
		return false
	}
	<-c.ctx.Done() // who waits for the end of the line is about to say why
	far.CloseWithError(c.fail(c.ctx, "tunnel", far.LocalAddr().String(), err))
	return true
}

type tunnelAddr struct{ network, addr string }

func (a tunnelAddr) Network() string { return a.network }
func (a tunnelAddr) String() string  { return a.addr }
