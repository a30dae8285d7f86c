package depot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Await waits for the target: it returns nil as soon as the first request for the
// offer has come from an allowed address. After patience it gives up with
// ErrNotRequested and says what is known: on which ports the depot listens,
// whether the allowed addresses connected at all, and which other addresses asked
// and were refused. Nothing changes by that; Await may be called again.
//
// When ctx ends it returns the context's error, and ErrWithdrawn when the offer
// is released or the depot closed.
func (o *Offer) Await(ctx context.Context, patience time.Duration) error {
	fail := func(err error) error { return &Error{Op: "await", File: o.name, Err: err} }
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-o.requested:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-o.withdrawn:
		err = ErrWithdrawn
	case <-timer.C:
		err = fmt.Errorf("%w within %v: %s", ErrNotRequested, patience, o.advice())
	}
	select {
	case <-o.requested: // also when something else has happened meanwhile
		return nil
	default:
		return fail(err)
	}
}

// advice says why a target that should fetch may not have come.
func (o *Offer) advice() string {
	ports := o.d.ports()
	if ports == "" {
		return "the depot does not listen on any port"
	}
	o.mu.Lock()
	allow, grants, before := o.allow, o.grants, o.before
	o.mu.Unlock()
	allowed := listed(allow)
	var came int64
	for i, g := range grants {
		came += g.conns.Load() - before[i]
	}
	refused := o.Refused()
	var b strings.Builder
	if came == 0 {
		fmt.Fprintf(&b, "nothing came from %s, which may fetch it, to the manager's %s", allowed, ports)
	} else {
		fmt.Fprintf(&b, "%s, which may fetch it, connected to the manager's %s (%d connections) but did not ask for it", allowed, ports, came)
	}
	switch {
	case len(refused) > 0:
		fmt.Fprintf(&b, "; %s asked for it and was refused: if that is the target behind NAT or a proxy, allow this address too", listed(refused))
	case came > 0:
		b.WriteString("; the network lets it through to one of them, so check the URL that the target was given, its port too, and for HTTPS whether it trusts the certificate")
	default:
		b.WriteString("; check that routes and firewalls let TCP through in the direction from the target to the manager, to that port, and that the target was given the URL")
	}
	return b.String()
}

// listed joins the first few of a list.
func listed[T netip.Addr | netip.Prefix](list []T) string {
	var b strings.Builder
	for i, v := range list {
		if i == maxRefused {
			fmt.Fprintf(&b, " and %d more", len(list)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, v)
	}
	return b.String()
}

// served is an address that the depot listens on.
type served struct {
	addr net.Addr
	tls  bool
}

func (s *served) String() string {
	where, scheme := s.addr.String(), "HTTP"
	if _, port, err := net.SplitHostPort(where); err == nil {
		where = "TCP port " + port
	}
	if s.tls {
		scheme = "HTTPS"
	}
	return where + " (" + scheme + ")"
}

// ports says where the depot listens, or "" if it does not.
func (d *Depot) ports() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, s := range d.serving {
		list = append(list, s.String())
	}
	return strings.Join(list, " and ")
}
