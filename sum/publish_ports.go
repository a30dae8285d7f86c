package sum

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/roundsman-go/roundsman/portalloc"
)

// role says by which role a target gets a port to fetch from. One that takes its
// payload from a fixed port gets that one or none, and only where the settings
// have it.
func (p *publisher) role(secure bool, fixed uint16) (portalloc.Role, error) {
	roles := []portalloc.Role{p.cfg.HTTPRole, portalloc.Port, portalloc.HTTP}
	if secure {
		roles = []portalloc.Role{portalloc.SSLPort}
	}
	if fixed == 0 {
		return roles[0], nil
	}
	for _, r := range roles {
		if slices.Contains(p.ports.Policy(r).Prefer, fixed) {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%w: a target that fetches from port %d only; the setting %s is %v",
		errors.ErrUnsupported, fixed, roles[0], p.ports.Policy(roles[0]))
}

// onlyPort is the port of the manager from which targets of a kind fetch and no other,
// whatever the driver knows of that, or 0: it is theirs or nobody's (see PortsFor).
func onlyPort(k Kind) uint16 {
	if k == OA || k == Integrity {
		return 80
	}
	return 0
}

// listen returns a listener, which it opens if need be: on the port fixed if that
// is not 0; else on the port before if that can be had; else by the policy of the
// role, of which one port serves all targets.
func (p *publisher) listen(ctx context.Context, secure bool, fixed, before uint16) (*portalloc.Lease, error) {
	role, err := p.role(secure, fixed)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	shut := p.shut
	p.mu.Unlock()
	if shut {
		return nil, ErrClosed
	}
	port := cmp.Or(fixed, before)
	if l := p.opened(role, port); l != nil {
		return l, nil
	}
	if err := p.turn.take(ctx); err != nil {
		return nil, err
	}
	defer p.turn.give()
	if l := p.opened(role, port); l != nil { // by whoever had the turn
		return l, nil
	}
	if port != 0 {
		// A port of an earlier offer may be another role's here: a run of the other
		// generation, or with other settings, has it from there.
		owner := role
		if r, err := p.role(secure, port); err == nil {
			owner = r
		}
		l, err := p.openPort(ctx, owner, port)
		if err == nil || fixed != 0 || ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return l, err
		}
		p.log.WarnContext(ctx, "the port of an earlier offer cannot be had: a target that still fetches from it will not find it", "port", before, "err", err)
		if l := p.opened(role, 0); l != nil {
			return l, nil
		}
	}
	return p.openPort(ctx, role, 0)
}

// opened returns an open listener of the role and on the port, of which 0 is any.
func (p *publisher) opened(role portalloc.Role, port uint16) *portalloc.Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.open {
		sameScheme := (l.Role() == portalloc.SSLPort) == (role == portalloc.SSLPort)
		if port == l.Port() && sameScheme || port == 0 && l.Role() == role {
			return l
		}
	}
	return nil
}

// canListen returns the port on which targets would be served: port if that is not 0,
// else one of the role. It listens there for a moment, or has listened already.
func (p *publisher) canListen(ctx context.Context, role portalloc.Role, port uint16) (uint16, error) {
	if err := p.turn.take(ctx); err != nil {
		return 0, err
	}
	defer p.turn.give()
	if l := p.opened(role, port); l != nil {
		return l.Port(), nil
	}
	l, err := p.ports.Listen(ctx, role, portalloc.Options{Port: port, Addrs: p.cfg.Listen})
	if err != nil {
		return 0, err
	}
	return l.Port(), l.Close()
}

// openPort opens a listener, on that port and no other if it is not 0. The caller
// has the turn.
func (p *publisher) openPort(ctx context.Context, role portalloc.Role, port uint16) (*portalloc.Lease, error) {
	l, err := p.ports.Listen(ctx, role, portalloc.Options{Port: port, Addrs: p.cfg.Listen})
	if errors.Is(err, portalloc.ErrClosed) {
		return nil, ErrClosed
	}
	if err != nil {
		return nil, err
	}
	var config *tls.Config
	if role == portalloc.SSLPort {
		config = p.serverConfig()
	}
	serve := p.depot.Attach(l, config)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		_ = l.Close()
		return nil, ErrClosed
	}
	p.open = append(p.open, l)
	p.wg.Go(func() {
		if err := serve(); err != nil {
			p.log.Error("depot stopped", "port", l.Port(), "err", err)
			p.mu.Lock()
			// The next offer opens another.
			p.open = slices.DeleteFunc(p.open, func(o *portalloc.Lease) bool { return o == l })
			p.mu.Unlock()
			_ = l.Close()
		}
	})
	return l, nil
}

func (p *publisher) close(ctx context.Context) error {
	p.mu.Lock()
	again := p.shut
	p.shut = true
	p.mu.Unlock()
	if again {
		return nil
	}
	err := p.depot.Close(ctx)
	p.wg.Wait()
	return errors.Join(err, p.ports.Close(ctx))
}
