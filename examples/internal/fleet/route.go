package fleet

import "github.com/roundsman-go/roundsman/sum"

// Route says how a target is dialled, by OpenSSH's configuration: HostName, Port and
// ProxyJump. It dials nothing and reads no key. A target of a kind that is not dialled
// by SSH has the zero Route.
func (r *Resolver) Route(t sum.Target) (sum.Route, error) {
	if t.Kind != sum.Linux {
		return sum.Route{}, nil
	}
	s, err := r.lookup(t.Address, t.User)
	if err != nil {
		return sum.Route{}, err
	}
	hops, err := r.chain(s.jumps)
	if err != nil {
		return sum.Route{}, err
	}
	route := sum.Route{Address: joinPort(s.host, s.port)}
	for _, h := range hops {
		route.Via = append(route.Via, joinPort(h.host, h.port))
	}
	return route, nil
}
