package portalloc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
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

	// Loopback listens on the loopback addresses of the family only. Under Dual a
	// host without ::1 gives 127.0.0.1 alone.
	Loopback bool

	// Addrs are the addresses to listen on, all on the same port, or none if one
	// of them fails. An IPv6 address may have a zone. The unspecified addresses
	// 0.0.0.0 and :: each stand for their own family. With Addrs, Loopback must
	// be false, and Family, if set, must be that of every address.
	Addrs []netip.Addr

	// NoFallback allows the preferred ports only: for an OA or an Integrity
	// server, which pull from port 80 whatever the manager listens on. A busy
	// port is then ErrBusy.
	NoFallback bool
}

// endpoint is one socket of a lease.
type endpoint struct {
	network  string
	host     string
	optional bool // left out on a host that lacks the address
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
		maybe := loopback6
		maybe.optional = true
		return []endpoint{loopback4, maybe}, nil
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

// Listen opens a listener on the first port that the role's policy allows and
// that is free, and keeps it: the port is not tested beforehand, so nobody can
// take it in between.
//
// It fails with ErrDisabled for a role that is off; with ErrExhausted when no
// port of the range is free; with ErrBusy when a role without range, or
// NoFallback, has its port taken, and with fs.ErrPermission when that port is
// refused; and with the error of the system when another port would not help.
// For ManagerToTarget, which never listens, it fails with
// errors.ErrUnsupported.
func (a *Allocator) Listen(ctx context.Context, r Role, o Options) (*Lease, error) {
	eps, pl, err := a.prepare("listen", r, o)
	if err != nil {
		return nil, err
	}
	defer a.leave()
	if err := a.takeTurn(ctx, pl); err != nil {
		return nil, err
	}
	defer a.endTurn()
	return a.listenOn(ctx, pl, eps)
}

// prepare checks the arguments and begins the call; the caller must leave.
func (a *Allocator) prepare(op string, r Role, o Options) ([]endpoint, plan, error) {
	if r == ManagerToTarget {
		return nil, plan{}, &Error{Op: op, Role: r, Kind: errors.ErrUnsupported,
			Advice: "this role is the source port of connections: use Allocator.Dialer"}
	}
	eps, err := o.endpoints(op, r)
	if err != nil {
		return nil, plan{}, err
	}
	pl, err := a.enter(op, r)
	if err != nil {
		return nil, plan{}, err
	}
	pl.preferOnly = o.NoFallback
	if o.NoFallback && len(pl.policy.Prefer) == 0 {
		a.leave()
		return nil, plan{}, invalid(op, r, "NoFallback needs a preferred port, and the policy is %s", pl.policy)
	}
	return eps, pl, nil
}

func (a *Allocator) takeTurn(ctx context.Context, pl plan) error {
	if ctx.Err() != nil {
		return stopped("listen", pl, ctx)
	}
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return stopped("listen", pl, ctx)
	case <-a.ended.Done():
		return &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
	}
}

func (a *Allocator) endTurn() { <-a.turn }

// listenOn opens the endpoints on the first port that all of them can have. The
// caller has the turn.
func (a *Allocator) listenOn(ctx context.Context, pl plan, eps []endpoint) (*Lease, error) {
	var tried map[uint16]Skip
	var skips []Skip
	for port := range a.candidates(pl) {
		if err := a.interrupted(ctx, pl); err != nil {
			a.release(port)
			return nil, err
		}
		lns, err := a.bind(ctx, eps, port)
		if err == nil {
			l := &Lease{a: a, role: pl.role, port: port, listeners: lns, skipped: skips}
			if !a.keep(l) {
				l.Close()
				return nil, &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
			}
			return l, nil
		}
		a.release(port)
		reason := passOver(err, port)
		if reason == 0 {
			if e := a.interrupted(ctx, pl); e != nil {
				return nil, e
			}
			return nil, failed("listen", pl, err)
		}
		if tried == nil {
			tried = make(map[uint16]Skip)
		}
		tried[port] = Skip{Range: Range{port, port}, Reason: reason, Err: err}
		skips = appendSkip(skips, tried[port])
	}
	return nil, a.exhausted(ctx, "listen", pl, tried)
}

func (a *Allocator) interrupted(ctx context.Context, pl plan) error {
	switch {
	case ctx.Err() != nil:
		return stopped("listen", pl, ctx)
	case a.ended.Err() != nil:
		return &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
	}
	return nil
}

// bind opens all endpoints on one port, or none.
func (a *Allocator) bind(ctx context.Context, eps []endpoint, port uint16) ([]*net.TCPListener, error) {
	lns := make([]*net.TCPListener, 0, len(eps))
	for _, ep := range eps {
		ln, err := a.listen(ctx, ep.network, net.JoinHostPort(ep.host, strconv.Itoa(int(port))))
		if err != nil {
			if ep.optional && (addrNotHere(err) || noFamily(err)) {
				continue
			}
			closeAll(lns)
			return nil, err
		}
		lns = append(lns, ln.(*net.TCPListener))
	}
	return lns, nil
}

func closeAll(lns []*net.TCPListener) error {
	var errs []error
	for _, ln := range lns {
		if err := ln.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
