package sum

import (
	"cmp"
	"context"
	"crypto/tls"
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

// publisher is the server of a session: it gives drivers URLs for payloads, and
// callers inboxes for posts. It opens a port when the first target needs it and
// not before.
type publisher struct {
	cfg   Config
	log   *slog.Logger
	ports *portalloc.Allocator
	walls *walls
	depot *depot.Depot
	turn  turn // to open a port or to make a certificate, which takes time
	wg    sync.WaitGroup

	mu     sync.Mutex
	open   []*portalloc.Lease                       // in the order of opening
	offers map[string]*depot.Offer                  // by token
	rules  map[string][]func(context.Context) error // of the firewall, by token
	certs  []*tls.Certificate                       // of the session's own
	told   map[audience]int                         // which of them
	shut   bool
}

func newPublisher(cfg Config) (*publisher, error) {
	ports, err := portalloc.New(portalloc.Config{Generation: cfg.Generation.ports(), Policies: cfg.Ports})
	if err != nil {
		return nil, fmt.Errorf("%w: Config.Ports: %w", ErrInvalid, err)
	}
	if cfg.HTTPRole, err = httpRole(cfg.HTTPRole, cfg.Generation); err != nil {
		return nil, fmt.Errorf("%w: Config.HTTPRole is %w", ErrInvalid, err)
	}
	if cfg.Depot.Logger == nil {
		cfg.Depot.Logger = cfg.Logger
	}
	return &publisher{
		cfg: cfg, log: cfg.Logger, ports: ports, depot: depot.New(cfg.Depot), turn: make(turn, 1),
		offers: map[string]*depot.Offer{}, rules: map[string][]func(context.Context) error{}, told: map[audience]int{},
	}, nil
}

// httpRole is the role by which targets get a port over plain http.
func httpRole(r portalloc.Role, g Generation) (portalloc.Role, error) {
	switch {
	case r == 0 && g == Classic, r == portalloc.HTTP:
		return portalloc.HTTP, nil
	case r == 0, r == portalloc.Port:
		return portalloc.Port, nil
	}
	return 0, fmt.Errorf("%v, and must be %v or %v", r, portalloc.Port, portalloc.HTTP)
}

// treeName is the last part of the path of a directory on offer.
const treeName = "files"

// offer makes a payload file available to the target behind path: where old says
// if that is known, so that a target that is still fetching goes on finding it.
func (p *publisher) offer(ctx context.Context, t Target, path transport.Path, r transport.PublishRequest, old offerRecord) (transport.Published, offerRecord, error) {
	fail := func(err error) (transport.Published, offerRecord, error) {
		return transport.Published{}, offerRecord{}, &Error{Step: "publish", Err: err}
	}
	s, err := p.serve(ctx, t, path, r.TLS, cmp.Or(r.FixedPort, onlyPort(t.Kind)), old.Port)
	if err != nil {
		return fail(err)
	}
	token := old.Token
	if token == "" {
		token = depot.NewToken()
	}
	closeRule, err := p.walls.allow(ctx, s.port, s.allow)
	if err != nil {
		return fail(err)
	}
	o, err := p.put(token, r, s.allow, closeRule)
	if err != nil {
		cctx, cancel := cleanup(ctx)
		defer cancel()
		return fail(errors.Join(err, closeRule(cctx)))
	}
	return transport.Published{
		URL: s.base + o.Path, Certificate: s.certificate, Await: o.Await,
		Release: func(ctx context.Context) (int64, error) {
			p.mu.Lock()
			var rules []func(context.Context) error
			if p.offers[token] == o {
				rules = p.rules[token]
				delete(p.offers, token)
				delete(p.rules, token)
			}
			p.mu.Unlock()
			err := released(ctx, rules)
			fetched, rerr := o.Release(ctx)
			return fetched, errors.Join(rerr, err)
		},
	}, offerRecord{token, s.port}, nil
}

// put puts the files of a request on offer. Those that are already are offered to
// more addresses: a target that is dialled again may be one of two families, or
// behind another NAT, and what it has begun to fetch goes on. closeRule is called when
// the offer is taken back.
func (p *publisher) put(token string, r transport.PublishRequest, allow []netip.Prefix, closeRule func(context.Context) error) (o *depot.Offer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		if err == nil {
			p.rules[token] = append(p.rules[token], closeRule)
		}
	}()
	if o := p.offers[token]; o != nil {
		files := r.Tree
		if len(files) == 0 {
			files = []transport.File{r.File}
		}
		return o, o.Renew(allow, files...)
	}
	if len(r.Tree) > 0 {
		o, err = p.depot.OfferTree(depot.Tree{Name: treeName, Files: r.Tree, Token: token, Allow: allow})
	} else {
		o, err = p.depot.Offer(depot.File{File: r.File, Token: token, Allow: allow})
	}
	if err == nil {
		p.offers[token] = o
	}
	return o, err
}

// withdraw takes back what a driver did not release.
func (p *publisher) withdraw(ctx context.Context, offers map[string]offerRecord) {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	var rules []func(context.Context) error
	p.mu.Lock()
	for _, r := range offers {
		if o := p.offers[r.Token]; o != nil {
			rules = append(rules, p.rules[r.Token]...)
			delete(p.offers, r.Token)
			delete(p.rules, r.Token)
			_, _ = o.Release(ctx) // it does not block
		}
	}
	p.mu.Unlock()
	if err := released(ctx, rules); err != nil {
		p.log.ErrorContext(ctx, "closing the firewall; the end of the session tries again", "err", err)
	}
}

// wayBack completes what a connection knows of the way from a target to the manager.
func wayBack(cfg Config, t Target, path transport.Path) (transport.Path, error) {
	if !path.SeenAs.IsValid() {
		path.SeenAs = path.Local.Addr()
	}
	if len(path.CallbackFrom) == 0 && path.Remote.IsValid() {
		a := path.Remote.Addr().Unmap().WithZone("")
		path.CallbackFrom = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	if cfg.Way != nil {
		path = cfg.Way(t, path)
	}
	if !path.SeenAs.IsValid() || len(path.CallbackFrom) == 0 {
		return path, fmt.Errorf("%w: the connection does not tell under which address the target sees the manager, and from where it comes: set Config.Way", ErrInvalid)
	}
	return path, nil
}

// service is where one target finds the server.
type service struct {
	base        string         // of URLs
	certificate []byte         // of the session's own, for https
	allow       []netip.Prefix // who may come
	port        uint16
}

// serve makes sure that the server listens for the target behind path: on the port
// fixed if that is not 0, else on the port before if that can be had.
// Those from more may come, too.
func (p *publisher) serve(ctx context.Context, t Target, path transport.Path, secure bool, fixed, before uint16, more ...netip.Prefix) (service, error) {
	path, err := wayBack(p.cfg, t, path)
	if err != nil {
		return service{}, err
	}
	host := path.SeenAs.Unmap().WithZone("") // a zone means something on this host only
	s := service{base: "http://", allow: slices.Concat(path.CallbackFrom, more)}
	if secure {
		s.base = "https://"
		if p.cfg.TLS == nil {
			cert, err := p.certificate(ctx, host, s.allow)
			if err != nil {
				return service{}, err
			}
			s.certificate = cert.Certificate[0]
		}
	}
	lease, err := p.listen(ctx, secure, fixed, before)
	if err != nil {
		return service{}, err
	}
	s.port = lease.Port()
	s.base += net.JoinHostPort(host.String(), strconv.Itoa(int(s.port)))
	return s, nil
}
