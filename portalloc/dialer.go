package portalloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// DialOptions configures a [Dialer]. The zero DialOptions is a dialer for both
// families from whichever local address the system chooses.
type DialOptions struct {
	// Family narrows the dialer to one family.
	Family Family
	// Local is the source address; the zero Addr leaves it to the system.
	Local netip.Addr
	// Resolver looks names up; nil is net.DefaultResolver.
	Resolver *net.Resolver
}

// Dialer dials from source ports of the role [ManagerToTarget]: classic, 60000
// and up, one for every connection. It is safe for concurrent use.
//
// The socket is bound to the port and connects from it, so that the port is held
// from before the first packet until the connection is closed: by one connection
// at a time, on this host, whatever the targets are. After an end that this side
// began, TCP keeps the port for another minute or so (TIME-WAIT, RFC 9293), and
// the next free one serves.
type Dialer struct {
	a        *Allocator
	o        DialOptions
	maxShare time.Duration
}

// Dialer returns a dialer. It fails with ErrDisabled when the role is off, as it
// is in the current generation, and with ErrInvalid when the source address is
// not of the family.
func (a *Allocator) Dialer(o DialOptions) (*Dialer, error) {
	if o.Family < Dual || o.Family > IPv6 {
		return nil, invalid("dial", ManagerToTarget, "unknown family %d", o.Family)
	}
	if o.Local.IsValid() {
		o.Local = o.Local.Unmap()
		family := IPv6
		if o.Local.Is4() {
			family = IPv4
		}
		if needsZone(o.Local) {
			return nil, invalid("dial", ManagerToTarget, "source address %s is link-local and needs a zone, as in %[1]s%%eth0", o.Local)
		}
		if o.Family != Dual && o.Family != family {
			return nil, invalid("dial", ManagerToTarget, "source address %s is not of the family asked for", o.Local)
		}
		o.Family = family
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if _, err := a.enter("dial", ManagerToTarget); err != nil {
		return nil, err
	}
	a.leave()
	return &Dialer{a: a, o: o, maxShare: maxShare}, nil
}

// Conn is a connection from a held source port. Close gives the port back.
type Conn struct {
	*net.TCPConn
	a    *Allocator
	port uint16
	once sync.Once
	err  error
}

var _ net.Conn = (*Conn)(nil)

// SourcePort returns the held port.
func (c *Conn) SourcePort() uint16 { return c.port }

// Close closes the connection and gives the port back. Closing again does nothing
// and returns the same result.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.err = c.TCPConn.Close()
		c.a.forget(c, c.port)
	})
	return c.err
}

// DialContext connects to address, a host and a port; network is "tcp", "tcp4" or
// "tcp6". The connection is a *[Conn]. Where a name has several addresses they
// are tried one after the other, each but the last with its share of the time that
// ctx allows and for ten seconds at most.
//
// It fails with ErrExhausted when no source port is free, with
// context.Canceled or context.DeadlineExceeded when ctx ends, and otherwise with
// the error of the connection.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	a := d.a
	pl, err := a.enter("dial", ManagerToTarget)
	if err != nil {
		return nil, err
	}
	defer a.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(a.ended, func() { cancel(ErrClosed) })()

	targets, err := d.resolve(ctx, network, address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, unconnected(ctx, pl, address)
		}
		return nil, err
	}
	return d.dialAny(ctx, pl, address, targets)
}

// dialAny connects to the first of the targets that answers; they are those of
// address.
func (d *Dialer) dialAny(ctx context.Context, pl plan, address string, targets []netip.AddrPort) (net.Conn, error) {
	var first error
	for i, target := range targets {
		conn, err := d.dialOne(ctx, pl, target, len(targets)-i)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, unconnected(ctx, pl, address)
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// unconnected makes the error of a connection whose context ended.
func unconnected(ctx context.Context, pl plan, address string) *Error {
	e := stopped("dial", pl, ctx)
	if e.Cause == nil {
		e.Cause = fmt.Errorf("there is no connection to %s yet", address)
	} else {
		e.Cause = fmt.Errorf("there is no connection to %s yet: %w", address, e.Cause)
	}
	return e
}

func (d *Dialer) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	var ipNetwork string
	switch network {
	case "tcp":
		ipNetwork = [...]string{Dual: "ip", IPv4: "ip4", IPv6: "ip6"}[d.o.Family]
	case "tcp4":
		ipNetwork = "ip4"
	case "tcp6":
		ipNetwork = "ip6"
	default:
		return nil, invalid("dial", ManagerToTarget, "network %q is not tcp, tcp4 or tcp6", network)
	}
	if (ipNetwork == "ip4" && d.o.Family == IPv6) || (ipNetwork == "ip6" && d.o.Family == IPv4) {
		return nil, invalid("dial", ManagerToTarget, "network %s is not of the dialer's family", network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, invalid("dial", ManagerToTarget, "%w", err)
	}
	port, err := d.o.Resolver.LookupPort(ctx, "tcp", service)
	if err == nil && port == 0 {
		err = errors.New("port 0 cannot be dialled")
	}
	if err != nil {
		return nil, invalid("dial", ManagerToTarget, "%w", err)
	}
	ips, err := d.o.Resolver.LookupNetIP(ctx, ipNetwork, host)
	if err != nil {
		return nil, &Error{Op: "dial", Role: ManagerToTarget, Cause: err}
	}
	targets := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		targets[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return targets, nil
}

// What one of several addresses gets: at the least as in net.Dialer, and at the
// most so that one whose packets are lost, as those of IPv6 often are, does not
// keep the others waiting until TCP gives up, which takes minutes.
const (
	minShare = 2 * time.Second
	maxShare = 10 * time.Second
)

func (d *Dialer) dialOne(ctx context.Context, pl plan, target netip.AddrPort, left int) (*Conn, error) {
	if left > 1 {
		share := d.maxShare
		if deadline, ok := ctx.Deadline(); ok {
			share = min(share, max(time.Until(deadline)/time.Duration(left), minShare))
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	// From its own port to the same port of this host, TCP connects a socket to
	// itself (simultaneous open).
	pl.bounds = pl.with(span{Range: Range{target.Port(), target.Port()}, reason: SelfConnect})

	network, local := "tcp6", d.o.Local
	if target.Addr().Is4() {
		network = "tcp4"
	}
	if !local.IsValid() {
		local = netip.IPv6Unspecified()
		if target.Addr().Is4() {
			local = netip.IPv4Unspecified()
		}
	}
	var tried map[uint16]Skip
	var passed []Skip
	for port := range d.a.candidates(pl, &passed) {
		if _, again := tried[port]; again {
			d.a.release(port)
			continue
		}
		nd := net.Dialer{
			LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, port)),
			Control:   control,
		}
		conn, err := nd.DialContext(ctx, network, target.String())
		if err == nil {
			c := &Conn{TCPConn: conn.(*net.TCPConn), a: d.a, port: port}
			if !d.a.keep(c) {
				c.Close()
				return nil, &Error{Op: "dial", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
			}
			return c, nil
		}
		d.a.release(port)
		reason := passOver(err)
		if connecting(err) && addrNotHere(err) {
			reason = Busy // this very pair of addresses and ports is still known to TCP
		}
		if reason == 0 || ctx.Err() != nil {
			return nil, &Error{Op: "dial", Role: pl.role, Cause: fmt.Errorf("%s from port %d: %w", target, port, err)}
		}
		if tried == nil {
			tried = make(map[uint16]Skip)
		}
		tried[port] = Skip{Range: Range{port, port}, Reason: reason, Err: err}
	}
	return nil, d.a.explain(ctx, d.a.shortage("dial", pl, tried))
}

// connecting tells an error of connect from one of bind.
func connecting(err error) bool {
	var se *os.SyscallError
	return errors.As(err, &se) && se.Syscall != "bind" && se.Syscall != "setsockopt"
}
