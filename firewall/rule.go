package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Rule is one port of this host that peers may reach.
type Rule struct {
	Network string // "tcp" or "udp"
	Port    uint16
	// From are the peers: IPv4 and IPv6 prefixes without host bits. One address is
	// a prefix of its full length, for example netip.PrefixFrom(a, a.BitLen()).
	// Prefixes have no zone: a link-local address is let in on every link of the host.
	From []netip.Prefix
	// Anyone opens the port to every address of both families. From must then be
	// empty; without Anyone, an empty From is an error.
	Anyone bool
}

// String returns for example "63001/tcp from 192.0.2.7/32, 2001:db8::/64".
func (r Rule) String() string {
	if r.Anyone {
		return fmt.Sprintf("%d/%s from anyone", r.Port, r.Network)
	}
	from := make([]string, len(r.From))
	for i, p := range r.From {
		from[i] = p.String()
	}
	return fmt.Sprintf("%d/%s from %s", r.Port, r.Network, strings.Join(from, ", "))
}

// Validate returns an [Error] of kind [ErrInvalid] for a rule that is
// incomplete, contradicts itself, or says more than was perhaps meant.
func (r Rule) Validate() error {
	_, err := r.openings()
	return err
}

func (r Rule) openings() ([]Opening, error) {
	invalid := func(format string, args ...any) ([]Opening, error) {
		return nil, &Error{Op: "check", Rules: []Rule{r}, Kind: ErrInvalid, Detail: fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Network != "tcp" && r.Network != "udp":
		return invalid("network %q is neither tcp nor udp", r.Network)
	case r.Port == 0:
		return invalid("no port")
	case r.Anyone && len(r.From) > 0:
		return invalid("both Anyone and From are set")
	case !r.Anyone && len(r.From) == 0:
		return invalid("no source prefix: name the peers in From, or set Anyone")
	}
	from := r.From
	if r.Anyone {
		from = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	var all []Opening
	for _, p := range from {
		switch {
		case !p.IsValid():
			return invalid("a source prefix is not valid")
		case p.Addr().Is4In6():
			return invalid("source %s is an IPv4 address in IPv6 form: write the IPv4 prefix", p)
		case p != p.Masked():
			return invalid("source %s has bits beyond its length: write %s, or the one address", p, p.Masked())
		case p.Bits() == 0 && !r.Anyone:
			return invalid("source %s is every address: set Anyone if that is meant", p)
		}
		all = append(all, Opening{Network: r.Network, Port: r.Port, From: p})
	}
	return all, nil
}

// An Opening is the smallest thing that a [Driver] opens: one port for one source
// prefix. It is comparable.
type Opening struct {
	Network string // "tcp" or "udp"
	Port    uint16
	From    netip.Prefix
}

// String returns for example "63001/tcp from 192.0.2.7/32".
func (o Opening) String() string { return fmt.Sprintf("%d/%s from %s", o.Port, o.Network, o.From) }

func (o Opening) covers(p Opening) bool {
	return o.Network == p.Network && o.Port == p.Port && o.From.Bits() <= p.From.Bits() && o.From.Contains(p.From.Addr())
}

// ledger counts who wants what. What a driver is told is the smallest set of
// openings: none lies within another.
type ledger map[port]map[Opening]int

type port struct {
	network string
	number  uint16
}

// change adds or takes away one count of each opening, and returns how the
// smallest set changes.
func (l ledger) change(openings []Opening, by int) (add, remove []Opening) {
	before, after := map[Opening]bool{}, map[Opening]bool{}
	touched := map[port]bool{}
	for _, o := range openings {
		p := port{o.Network, o.Port}
		if !touched[p] {
			touched[p] = true
			for _, o := range l.smallest(p) {
				before[o] = true
			}
		}
		if l[p] == nil {
			l[p] = map[Opening]int{}
		}
		if l[p][o] += by; l[p][o] == 0 {
			delete(l[p], o)
		}
		if len(l[p]) == 0 {
			delete(l, p)
		}
	}
	for p := range touched {
		for _, o := range l.smallest(p) {
			after[o] = true
			if !before[o] {
				add = append(add, o)
			}
		}
	}
	for o := range before {
		if !after[o] {
			remove = append(remove, o)
		}
	}
	slices.SortFunc(add, compareOpenings)
	slices.SortFunc(remove, compareOpenings)
	return add, remove
}

func (l ledger) smallest(p port) []Opening {
	all := make([]Opening, 0, len(l[p]))
	for o := range l[p] {
		all = append(all, o)
	}
	slices.SortFunc(all, compareOpenings)
	kept := all[:0]
	for _, o := range all { // a prefix sorts right before what lies within it
		if len(kept) == 0 || !kept[len(kept)-1].covers(o) {
			kept = append(kept, o)
		}
	}
	return kept
}

func compareOpenings(a, b Opening) int {
	if c := strings.Compare(a.Network, b.Network); c != 0 {
		return c
	}
	if a.Port != b.Port {
		return int(a.Port) - int(b.Port)
	}
	if c := a.From.Addr().Compare(b.From.Addr()); c != 0 {
		return c
	}
	return a.From.Bits() - b.From.Bits()
}
