package sum

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// place is where a target is, and how it sees the manager.
type place struct{ target, manager Peer }

// place finds a host and the manager as it sees it. Each has only addresses of
// families that the other has, where that is known.
func (m *matrix) place(kind Kind, host string) (place, error) {
	target := Peer{Party: PartyTarget, Host: host}
	addrs, err := m.addrs(host)
	if err != nil {
		return place{}, err
	}
	if kind == FCSwitch || kind == SASSwitch {
		v4 := slices.DeleteFunc(slices.Clone(addrs), netip.Addr.Is6)
		if len(v4) == 0 && len(addrs) > 0 {
			return place{}, fmt.Errorf("%w: %s has IPv6 addresses only, which switches of kind %s do not speak: give it an IPv4 address", ErrInvalid, host, kind)
		}
		addrs = v4
	}
	var manager []netip.Addr
	for _, a := range addrs {
		if m.SeenAs != nil {
			manager = append(manager, m.SeenAs(a)...)
		}
	}
	if len(manager) == 0 {
		manager = m.Manager
	}
	target.Addresses = prefixes(addrs)
	seen := Peer{Party: PartyManager, Addresses: prefixes(manager)}
	p := place{narrow(target, seen), narrow(seen, target)}
	if len(target.Addresses) > 0 && len(p.target.Addresses) == 0 {
		return place{}, fmt.Errorf("%w: %s and the manager have no address of the same family: %v and %v", ErrInvalid, host, addrs, manager)
	}
	return p, nil
}

// inDNS reports whether the name of a part is one for the network: an address or a full
// domain name. "host-17" may be a vCenter's own, and DNS may know another host by it.
func inDNS(object string) bool {
	_, err := netip.ParseAddr(object)
	return err == nil || strings.Contains(object, ".")
}

// part is the place of a part behind a target's address.
func (m *matrix) part(kind Kind, object string) (place, error) {
	if !inDNS(object) {
		return place{
			Peer{Party: PartyTarget, Host: object, Addresses: prefixes(nil)},
			Peer{Party: PartyManager, Addresses: prefixes(m.Manager)},
		}, nil
	}
	return m.place(kind, object)
}

// addrs returns the addresses of a host, none if they are unknown.
func (m *matrix) addrs(host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if !usable(a) {
			return nil, fmt.Errorf("%w: %s is no address of a host", ErrInvalid, host)
		}
		return []netip.Addr{a.Unmap()}, nil
	}
	if m.Lookup == nil {
		return nil, nil
	}
	var out []netip.Addr
	for _, a := range m.Lookup(host) {
		if usable(a) {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}

// hops returns the flows of the way through jump hosts, up to the last of them.
func (m *matrix) hops(via []string) ([]Flow, error) {
	var out []Flow
	for i, v := range via {
		host, port, err := hostPortOf(v, 22)
		if err != nil {
			return nil, fmt.Errorf("jump host: %w", err)
		}
		p, err := m.place(Linux, host)
		if err != nil {
			return nil, err
		}
		p.target.Party = PartyJumpHost
		from, to := p.manager, p.target
		if i > 0 {
			before := out[i-1].To
			from, to = narrow(before, p.target), narrow(p.target, before)
		}
		out = append(out, Flow{Port: transitRow(port), From: from, To: to})
	}
	return out, nil
}

func transitRow(port uint16) Port { return to(port, Required, "SSH to a jump host on the way") }

// prefixes returns each address once, as a prefix, sorted.
func prefixes(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return sorted(out)
}

// narrow returns p without the addresses of families in which o has none. Where
// either is unknown nothing is known of that.
func narrow(p, o Peer) Peer {
	if len(o.Addresses) == 0 {
		return p
	}
	p.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), func(a netip.Prefix) bool {
		return !slices.ContainsFunc(o.Addresses, func(b netip.Prefix) bool { return a.Addr().Is4() == b.Addr().Is4() })
	})
	return p
}
