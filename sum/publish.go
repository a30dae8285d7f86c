package sum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// publisher gives drivers URLs for payloads. It opens ports when the first
// target needs one and not before.
type publisher struct {
	policies map[portalloc.Role]portalloc.Policy
	log      *slog.Logger

	mu     sync.Mutex
	ports  *portalloc.Allocator
	depot  *depot.Depot
	open   map[portalloc.Role]*portalloc.Lease
	offers map[string]*depot.Offer // by token
	wg     sync.WaitGroup
	shut   bool
}

func newPublisher(policies map[portalloc.Role]portalloc.Policy, log *slog.Logger) *publisher {
	return &publisher{policies: policies, log: log, open: map[portalloc.Role]*portalloc.Lease{}, offers: map[string]*depot.Offer{}}
}

// offer makes a payload file available to the target behind path: where old says
// if that is known, so that a target that is still fetching goes on finding it.
func (p *publisher) offer(ctx context.Context, path transport.Path, r transport.PublishRequest, old offerRecord) (transport.Published, offerRecord, error) {
	fail := func(err error) (transport.Published, offerRecord, error) {
		return transport.Published{}, offerRecord{}, &Error{Step: "publish", Err: err}
	}
	if r.TLS {
		return fail(fmt.Errorf("%w: payloads are offered over HTTP only", errors.ErrUnsupported))
	}
	allow := path.CallbackFrom
	if len(allow) == 0 && path.Remote.IsValid() {
		a := path.Remote.Addr().Unmap().WithZone("")
		allow = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	host := path.SeenAs
	if !host.IsValid() {
		host = path.Local.Addr()
	}
	if !host.IsValid() || len(allow) == 0 {
		return fail(fmt.Errorf("%w: the connection does not tell under which address the target sees the manager", ErrInvalid))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lease, err := p.listen(ctx, r.FixedPort, old.Port)
	if err != nil {
		return fail(err)
	}
	token := old.Token
	if token == "" {
		token = depot.NewToken()
	}
	o := p.offers[token]
	if o == nil {
		if o, err = p.depot.Offer(depot.File{File: r.File, Token: token, Allow: allow}); err != nil {
			return fail(err)
		}
		p.offers[token] = o
	}
	// A zone means something on this host only.
	hostport := net.JoinHostPort(host.Unmap().WithZone("").String(), strconv.Itoa(int(lease.Port())))
	release := func(ctx context.Context) (int64, error) {
		p.mu.Lock()
		if p.offers[token] == o {
			delete(p.offers, token)
		}
		p.mu.Unlock()
		return o.Release(ctx)
	}
	return transport.Published{URL: "http://" + hostport + o.Path, Release: release}, offerRecord{token, lease.Port()}, nil
}

// withdraw takes back what a driver did not release.
func (p *publisher) withdraw(offers map[string]offerRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range offers {
		if o := p.offers[r.Token]; o != nil {
			delete(p.offers, r.Token)
			_, _ = o.Release(context.Background()) // it does not block
		}
	}
}

// listen returns the listener for a target that takes its payload from port, or
// for any target if that is 0; if it is not open yet, on port before if that is
// free. The caller holds p.mu.
func (p *publisher) listen(ctx context.Context, port, before uint16) (*portalloc.Lease, error) {
	role, opts := portalloc.Port, portalloc.Options{}
	if port == 80 {
		role, opts.NoFallback = portalloc.HTTP, true
	} else if port != 0 {
		return nil, fmt.Errorf("%w: a target that fetches from port %d only", errors.ErrUnsupported, port)
	}
	if p.shut {
		return nil, ErrClosed
	}
	if l := p.open[role]; l != nil {
		return l, nil
	}
	if p.ports == nil {
		policies := p.policies
		if policy, ok := policies[role]; ok && before != 0 && !slices.Contains(policy.Prefer, before) {
			policies = map[portalloc.Role]portalloc.Policy{}
			for r, pol := range p.policies {
				policies[r] = pol
			}
			policy.Prefer = append([]uint16{before}, policy.Prefer...)
			policies[role] = policy
		}
		ports, err := portalloc.New(portalloc.Config{Policies: policies})
		if err != nil {
			return nil, err
		}
		p.ports, p.depot = ports, depot.New(depot.Options{Logger: p.log})
	}
	l, err := p.ports.Listen(ctx, role, opts)
	if err != nil {
		return nil, err
	}
	p.open[role] = l
	p.wg.Go(func() {
		if err := p.depot.Serve(l); err != nil {
			p.log.Error("depot stopped", "port", l.Port(), "err", err)
			p.mu.Lock()
			if p.open[role] == l {
				delete(p.open, role) // the next offer opens another
			}
			p.mu.Unlock()
			_ = l.Close()
		}
	})
	return l, nil
}

func (p *publisher) close(ctx context.Context) error {
	p.mu.Lock()
	idle := p.shut || p.ports == nil
	p.shut = true
	p.mu.Unlock()
	if idle {
		return nil
	}
	err := p.depot.Close(ctx)
	p.wg.Wait()
	return errors.Join(err, p.ports.Close(ctx))
}
