package sum

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"

	"github.com/roundsman-go/roundsman/sum/depot"
)

// certificate returns one of the session's own for targets that see the manager as
// host and come from allow. The first is good for all addresses of this machine. A
// target that sees another address gets one more, and never instead: who was told
// a certificate is shown that one until the session ends.
func (p *publisher) certificate(ctx context.Context, host netip.Addr, allow []netip.Prefix) (*tls.Certificate, error) {
	if cert := p.tell(host, allow, nil); cert != nil {
		return cert, nil
	}
	if err := p.turn.take(ctx); err != nil {
		return nil, err
	}
	defer p.turn.give()
	if cert := p.tell(host, allow, nil); cert != nil { // of whoever had the turn
		return cert, nil
	}
	hosts := []string{host.String()}
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
	return p.tell(host, allow, &cert), nil
}

// audience are targets that were told a certificate.
type audience struct {
	from netip.Prefix
	host netip.Addr // the manager, as they see it
}

// tell returns the first certificate that is good for host, of which made may be a
// new one, and notes that those who come from allow are told it.
func (p *publisher) tell(host netip.Addr, allow []netip.Prefix, made *tls.Certificate) *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if made != nil {
		p.certs = append(p.certs, made)
	}
	for i, c := range p.certs {
		if c.Leaf.VerifyHostname(host.String()) == nil {
			for _, from := range allow {
				if a := from.Addr(); a.Is4In6() && from.Bits() >= 96 {
					from = netip.PrefixFrom(a.Unmap(), from.Bits()-96)
				}
				p.told[audience{from, host}] = i
			}
			return c
		}
	}
	return nil
}

// shown returns the certificate that a client was told. Who dials an address says
// nothing in his hello about which one. So of those that were told to addresses
// like the client's it is the one for the address that he has reached; behind NAT,
// which hides that, the one for the narrowest prefix, or the newest.
func (p *publisher) shown(conn net.Conn) *tls.Certificate {
	plain := func(a net.Addr) netip.Addr {
		ap, _ := netip.ParseAddrPort(a.String())
		return ap.Addr().Unmap().WithZone("")
	}
	client, here := plain(conn.RemoteAddr()), plain(conn.LocalAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	best, found := []int{-1, -1, 0}, []int{0, 0, 0}
	for a, i := range p.told {
		if !a.from.Contains(client) {
			continue
		}
		found[0], found[1], found[2] = 0, a.from.Bits(), i
		if a.host == here {
			found[0] = 1
		}
		if slices.Compare(found, best) > 0 {
			copy(best, found)
		}
	}
	return p.certs[best[2]]
}

// serverConfig is the TLS configuration of the depot.
func (p *publisher) serverConfig() *tls.Config {
	if p.cfg.TLS != nil {
		return p.cfg.TLS
	}
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return p.shown(hello.Conn), nil
	}}
}
