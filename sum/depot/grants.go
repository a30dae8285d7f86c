package depot

import (
	"fmt"
	"math/bits"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// allowList says whose requests an offer or an inbox takes.
type allowList []netip.Prefix

// newAllowList is addAllowList of a list that must not be empty: a path that nobody
// may use is a mistake, which the target would only see as a refusal.
func newAllowList(in []netip.Prefix) (allowList, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("%w: Allow lists nobody: name the addresses that may come; 0.0.0.0/0 and ::/0 are everybody", transport.ErrInvalid)
	}
	return addAllowList(in)
}

// addAllowList returns prefixes in the form in which clients are compared with
// them: IPv4 is never mapped to IPv6.
func addAllowList(in []netip.Prefix) (allowList, error) {
	out := make(allowList, 0, len(in))
	for _, p := range in {
		if !p.IsValid() {
			// It would match nobody, and the target would be refused without a reason.
			return nil, fmt.Errorf("%w: %v in Allow", transport.ErrInvalid, p)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p)
	}
	return out, nil
}

func (l allowList) allows(from netip.Addr) bool {
	return slices.ContainsFunc(l, func(p netip.Prefix) bool { return p.Contains(from) })
}

// plainAddr returns the address of an "address:port" in the form that allow-lists
// have; it is in no prefix if there is none.
func plainAddr(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func remoteAddr(r *http.Request) netip.Addr { return plainAddr(r.RemoteAddr) }

// grants are the allow-lists of all offers and inboxes in one, so that a new
// connection need not be compared with each of them.
type grants struct {
	mu       sync.Mutex
	byPrefix map[netip.Prefix]*grant
	lengths  [2]lengths // of the prefixes, for IPv4 and IPv6
}

// grant is one prefix in the allow-lists.
type grant struct {
	prefix netip.Prefix
	n      int          // how many lists have it
	conns  atomic.Int64 // connections that came from it
}

// lengths counts prefixes by their length in bits.
type lengths struct {
	n    [129]int
	used [3]uint64 // which n are not 0
}

func (l *lengths) add(length, by int) {
	l.n[length] += by
	if l.n[length] == 0 {
		l.used[length/64] &^= 1 << (length % 64)
	} else {
		l.used[length/64] |= 1 << (length % 64)
	}
}

func newGrants() *grants { return &grants{byPrefix: map[netip.Prefix]*grant{}} }

func (g *grants) lengthsFor(a netip.Addr) *lengths {
	if a.Is4() {
		return &g.lengths[0]
	}
	return &g.lengths[1]
}

// add takes the prefixes of an offer or inbox in.
func (g *grants) add(list allowList) []*grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*grant, len(list))
	for i, p := range list {
		p = p.Masked()
		gr := g.byPrefix[p]
		if gr == nil {
			gr = &grant{prefix: p}
			g.byPrefix[p] = gr
			g.lengthsFor(p.Addr()).add(p.Bits(), 1)
		}
		gr.n++
		out[i] = gr
	}
	return out
}

// remove takes back what add returned.
func (g *grants) remove(list []*grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gr := range list {
		if gr.n--; gr.n == 0 {
			delete(g.byPrefix, gr.prefix)
			g.lengthsFor(gr.prefix.Addr()).add(gr.prefix.Bits(), -1)
		}
	}
}

// connected notes a connection from an address and returns how many offers and
// inboxes allow it.
func (g *grants) connected(from netip.Addr) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := 0
	for i, word := range g.lengthsFor(from).used {
		for ; word != 0; word &= word - 1 {
			p, _ := from.Prefix(i*64 + bits.TrailingZeros64(word)) // in no list if from is no address
			if gr := g.byPrefix[p]; gr != nil {
				gr.conns.Add(1)
				sum += gr.n
			}
		}
	}
	return sum
}
