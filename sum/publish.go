package sum

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	tls      *tls.Config // nil: with certificates of our own
	log      *slog.Logger

	mu     sync.Mutex
	ports  *portalloc.Allocator
	depot  *depot.Depot
	open   map[portalloc.Role]*portalloc.Lease
	offers map[string]*depot.Offer // by token
	cert   *tls.Certificate        // of our own
	wg     sync.WaitGroup
	shut   bool
}

func newPublisher(policies map[portalloc.Role]portalloc.Policy, config *tls.Config, log *slog.Logger) *publisher {
	return &publisher{policies: policies, tls: config, log: log,
		open: map[portalloc.Role]*portalloc.Lease{}, offers: map[string]*depot.Offer{}}
}

// treeName is the last part of the path of a directory on offer.
const treeName = "files"

// offer makes a payload file available to the target behind path: where old says
// if that is known, so that a target that is still fetching goes on finding it.
func (p *publisher) offer(ctx context.Context, path transport.Path, r transport.PublishRequest, old offerRecord) (transport.Published, offerRecord, error) {
	fail := func(err error) (transport.Published, offerRecord, error) {
		return transport.Published{}, offerRecord{}, &Error{Step: "publish", Err: err}
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
	host = host.Unmap().WithZone("") // a zone means something on this host only
	p.mu.Lock()
	defer p.mu.Unlock()
	out := transport.Published{URL: "http://"}
	if r.TLS {
		out.URL = "https://"
		if p.tls == nil {
			cert, err := p.certificate(host)
			if err != nil {
				return fail(err)
			}
			out.Certificate = cert.Certificate[0]
		}
	}
	lease, err := p.listen(ctx, r, old.Port)
	if err != nil {
		return fail(err)
	}
	token := old.Token
	if token == "" {
		token = depot.NewToken()
	}
	o := p.offers[token]
	if o == nil {
		if len(r.Tree) > 0 {
			o, err = p.depot.OfferTree(depot.Tree{Name: treeName, Files: r.Tree, Token: token, Allow: allow})
		} else {
			o, err = p.depot.Offer(depot.File{File: r.File, Token: token, Allow: allow})
		}
		if err != nil {
			return fail(err)
		}
		p.offers[token] = o
	}
	out.URL += net.JoinHostPort(host.String(), strconv.Itoa(int(lease.Port()))) + o.Path
	out.Await = o.Await
	out.Release = func(ctx context.Context) (int64, error) {
		p.mu.Lock()
		if p.offers[token] == o {
			delete(p.offers, token)
		}
		p.mu.Unlock()
		return o.Release(ctx)
	}
	return out, offerRecord{token, lease.Port()}, nil
}

// certificate returns the one of our own, which is good for all addresses of this
// machine and for the one under which a target sees it. The caller holds p.mu.
func (p *publisher) certificate(host netip.Addr) (*tls.Certificate, error) {
	if p.cert != nil && p.cert.Leaf.VerifyHostname(host.String()) == nil {
		return p.cert, nil
	}
	hosts := []string{host.String()}
	if p.cert != nil {
		for _, ip := range p.cert.Leaf.IPAddresses {
			hosts = append(hosts, ip.String())
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		p.log.Debug("the addresses of this machine are not known", "err", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			hosts = append(hosts, n.IP.String())
		}
	}
	slices.Sort(hosts[1:])
	cert, err := depot.NewCertificate(slices.Compact(hosts)...)
	if err != nil {
		return nil, err
	}
	p.cert = &cert
	return p.cert, nil
}

// serverConfig is the TLS configuration of the depot.
func (p *publisher) serverConfig() *tls.Config {
	if p.tls != nil {
		return p.tls
	}
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cert, nil
	}}
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

// role says which port a target is to fetch from. One that takes its payload from
// a fixed port gets that one or none.
func (p *publisher) role(r transport.PublishRequest) (portalloc.Role, portalloc.Options, error) {
	role := portalloc.Port
	if r.TLS {
		role = portalloc.SSLPort
	}
	policy := p.policy(role)
	switch {
	case r.FixedPort == 0:
		return role, portalloc.Options{}, nil
	case len(policy.Prefer) > 0 && policy.Prefer[0] == r.FixedPort:
		return role, portalloc.Options{NoFallback: true}, nil
	case r.FixedPort == 80 && !r.TLS:
		return portalloc.HTTP, portalloc.Options{NoFallback: true}, nil
	}
	return 0, portalloc.Options{}, fmt.Errorf("%w: a target that fetches from port %d only; the setting %s is %v",
		errors.ErrUnsupported, r.FixedPort, role, policy)
}

// policy is the one in force for a role.
func (p *publisher) policy(role portalloc.Role) portalloc.Policy {
	if policy, ok := p.policies[role]; ok {
		return policy
	}
	return portalloc.DefaultPolicies(portalloc.Current)[role]
}

// listen returns the listener for a request; if it is not open yet, on port before
// if that is free. The caller holds p.mu.
func (p *publisher) listen(ctx context.Context, r transport.PublishRequest, before uint16) (*portalloc.Lease, error) {
	role, opts, err := p.role(r)
	if err != nil {
		return nil, err
	}
	if p.shut {
		return nil, ErrClosed
	}
	if l := p.open[role]; l != nil {
		return l, nil
	}
	if p.ports == nil {
		policies := p.policies
		if policy := p.policy(role); before != 0 && !slices.Contains(policy.Prefer, before) {
			policies = map[portalloc.Role]portalloc.Policy{}
			maps.Copy(policies, p.policies)
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
		serve := p.depot.Serve
		if role == portalloc.SSLPort {
			serve = func(ln net.Listener) error { return p.depot.ServeTLS(ln, p.serverConfig()) }
		}
		if err := serve(l); err != nil {
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
