package portalloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// Family chooses between IPv4 and IPv6.
type Family int

const (
	// Dual listens for both, as far as the host has both.
	Dual Family = iota
	// IPv4 listens for IPv4 only.
	IPv4
	// IPv6 listens for IPv6 only.
	IPv6
)

// Options says where a listener listens. The zero Options is every address of
// the host, in both families (for LocalIPC: its loopback addresses).
type Options struct {
	// Family narrows the listener to one family.
	Family Family

	// Loopback listens on the loopback addresses of the family only. Under Dual
	// that is 127.0.0.1 and ::1, or the one of them that the host has.
	Loopback bool

	// Addrs are the addresses to listen on, all on the same port, or none if one
	// of them fails. An IPv6 link-local address needs its zone. The unspecified
	// addresses 0.0.0.0 and :: each stand for their own family. With Addrs,
	// Loopback must be false, and Family, if set, must be that of every address.
	Addrs []netip.Addr

	// NoFallback allows the preferred ports only: for an OA or an Integrity
	// server, which pull from port 80 whatever the manager listens on. A busy
	// port is then ErrBusy.
	NoFallback bool

	// Port, if not 0, is the port to listen on, and none else will do, whatever the
	// role's policy: for a target that knows no other, and to be found again where an
	// earlier process was. It must be neither excluded nor that of a role without a
	// range; a port that cannot be had is ErrBusy.
	Port uint16
}

// endpoint is one socket of a lease.
type endpoint struct {
	network  string
	host     string
	optional bool // left out on a host that lacks the address, if another is left
}

var (
	loopback4 = endpoint{network: "tcp4", host: "127.0.0.1"}
	loopback6 = endpoint{network: "tcp6", host: "::1"}
)

func (o Options) endpoints(op string, r Role) ([]endpoint, error) {
	if o.Family < Dual || o.Family > IPv6 {
		return nil, invalid(op, r, "unknown family %d", o.Family)
	}
	if len(o.Addrs) > 0 {
		if o.Loopback {
			return nil, invalid(op, r, "Loopback and Addrs exclude each other")
		}
		return o.explicit(op, r)
	}
	if o.Loopback || r == LocalIPC {
		switch o.Family {
		case IPv4:
			return []endpoint{loopback4}, nil
		case IPv6:
			return []endpoint{loopback6}, nil
		}
		both := []endpoint{loopback4, loopback6}
		for i := range both {
			both[i].optional = true
		}
		return both, nil
	}
	switch o.Family {
	case IPv4:
		return []endpoint{{network: "tcp4"}}, nil
	case IPv6:
		return []endpoint{{network: "tcp6"}}, nil
	}
	// One socket for both: it conflicts with every IPv4 and IPv6 listener on the
	// port, where 0.0.0.0 and a v6-only :: of two programs would coexist.
	return []endpoint{{network: "tcp"}}, nil
}

func (o Options) explicit(op string, r Role) ([]endpoint, error) {
	var eps []endpoint
	seen := make(map[netip.Addr]bool)
	for _, addr := range o.Addrs {
		if !addr.IsValid() {
			return nil, invalid(op, r, "an address in Addrs is the zero netip.Addr")
		}
		addr = addr.Unmap()
		if seen[addr] {
			return nil, invalid(op, r, "address %s is given twice", addr)
		}
		seen[addr] = true
		if needsZone(addr) {
			return nil, invalid(op, r, "address %s is link-local and needs a zone, as in %[1]s%%eth0", addr)
		}
		ep := endpoint{network: "tcp6", host: addr.String()}
		family := IPv6
		if addr.Is4() {
			ep.network, family = "tcp4", IPv4
		}
		if o.Family != Dual && o.Family != family {
			return nil, invalid(op, r, "address %s is not of the family asked for", addr)
		}
		eps = append(eps, ep)
	}
	return eps, nil
}

func needsZone(addr netip.Addr) bool {
	return addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == ""
}

// tieRetries is how often a port is tried again after a tie, which two managers
// that start at once have once in 10,000 times.
const tieRetries = 8

// bind opens all endpoints on one port, or none.
func (a *Allocator) bind(ctx context.Context, eps []endpoint, port uint16) ([]*net.TCPListener, error) {
	lns := make([]*net.TCPListener, 0, len(eps))
	var absent error
	for _, ep := range eps {
		address := net.JoinHostPort(ep.host, strconv.Itoa(int(port)))
		ln, err := a.listen(ctx, ep.network, address)
		for range tieRetries {
			if err == nil || !tied(err) {
				break
			}
			ln, err = a.listen(ctx, ep.network, address)
		}
		if err != nil {
			if ep.optional && (addrNotHere(err) || noFamily(err)) {
				absent = err
				continue
			}
			closeAll(lns)
			return nil, err
		}
		lns = append(lns, ln.(*net.TCPListener))
	}
	if len(lns) == 0 {
		return nil, absent
	}
	return lns, nil
}

// listen is net.ListenConfig.Listen for a port that is exclusive.
//
// Network "tcp" stands for both families on one socket. It does not leave the
// choice to package net, which makes it once for the process, by whether it can
// bind ::1 and 127.0.0.1: where the loopback device lacks 127.0.0.1, it would
// listen for IPv4 alone. Only a kernel without IPv6 gets a socket for IPv4.
//
// Multipath TCP, package net's default for listeners, is off: Linux does not tell
// the zone of such a socket, which Lease.Addr would then lack.
func listen(ctx context.Context, network, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: control}
	lc.SetMultipathTCP(false)
	if network != "tcp" {
		return lc.Listen(ctx, network, address)
	}
	dual := lc
	dual.Control = controlDual
	ln, err := dual.Listen(ctx, "tcp6", address)
	if err != nil && (noFamily(err) || errors.Is(err, errNotDual)) {
		return lc.Listen(ctx, "tcp4", address)
	}
	return ln, err
}

// controlDual is control for a socket that is to serve IPv4 too (RFC 3493,
// section 5.3), whatever the host's default.
func controlDual(network, address string, c syscall.RawConn) error {
	if err := control(network, address, c); err != nil {
		return err
	}
	var set error
	err := c.Control(func(fd uintptr) { set = acceptIPv4(fd) })
	if set != nil {
		return fmt.Errorf("%w: %w", errNotDual, set)
	}
	return err
}

// errNotDual: sockets of this system serve one family only, as on OpenBSD.
var errNotDual = errors.New("IPV6_V6ONLY cannot be turned off")

func closeAll(lns []*net.TCPListener) error {
	var errs []error
	for _, ln := range lns {
		if err := ln.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
