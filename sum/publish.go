package sum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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

	mu    sync.Mutex
	ports *portalloc.Allocator
	depot *depot.Depot
	open  map[portalloc.Role]*portalloc.Lease
	wg    sync.WaitGroup
	shut  bool
}

func newPublisher(policies map[portalloc.Role]portalloc.Policy, log *slog.Logger) *publisher {
	return &publisher{policies: policies, log: log, open: map[portalloc.Role]*portalloc.Lease{}}
}

// offer makes a payload file available to the target behind path.
func (p *publisher) offer(ctx context.Context, path transport.Path, r transport.PublishRequest) (transport.Published, error) {
	fail := func(err error) (transport.Published, error) {
		return transport.Published{}, &Error{Step: "publish", Err: err}
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
	lease, err := p.listen(ctx, r.FixedPort)
	if err != nil {
		return fail(err)
	}
	o, err := p.depot.Offer(depot.File{File: r.File, Key: r.Key, Allow: allow})
	if err != nil {
		return fail(err)
	}
	hostport := net.JoinHostPort(host.Unmap().String(), strconv.Itoa(int(lease.Port())))
	return transport.Published{URL: "http://" + hostport + o.Path, Release: o.Release}, nil
}

// listen returns the listener for a target that takes its payload from port, or
// for any target if that is 0.
func (p *publisher) listen(ctx context.Context, port uint16) (*portalloc.Lease, error) {
	role, opts := portalloc.Port, portalloc.Options{}
	if port == 80 {
		role, opts.NoFallback = portalloc.HTTP, true
	} else if port != 0 {
		return nil, fmt.Errorf("%w: a target that fetches from port %d only", errors.ErrUnsupported, port)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return nil, ErrClosed
	}
	if l := p.open[role]; l != nil {
		return l, nil
	}
	if p.ports == nil {
		ports, err := portalloc.New(portalloc.Config{Policies: p.policies})
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
		}
	})
	return l, nil
}

func (p *publisher) close(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut || p.ports == nil {
		p.shut = true
		return nil
	}
	p.shut = true
	err := p.depot.Close(ctx)
	p.wg.Wait()
	return errors.Join(err, p.ports.Close(ctx))
}
