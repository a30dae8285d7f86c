package fleet

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// defaultReach is how long a target may take to be reached.
const defaultReach = 30 * time.Second

// reachTime is how long the target, or jump host, of the settings may take.
func (r *Resolver) reachTime(s settings) time.Duration {
	switch {
	case r.cfg.ConnectTimeout > 0:
		return r.cfg.ConnectTimeout
	case s.timeout > 0:
		return s.timeout
	}
	return defaultReach
}

// dialKey is the key of the dialling of a target in a context.
type dialKey struct{}

// dialling is one Dial of a target, tries included.
type dialling struct {
	reach time.Duration // for the network connection alone, however long a login may take
	stop  context.CancelFunc
}

// patient dials targets that may take so long to be reached.
type patient struct {
	transport.Transport
	reach time.Duration
}

// Dial implements transport.Transport.
func (p *patient) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return p.Transport.Dial(context.WithValue(ctx, dialKey{}, dialling{p.reach, stop}), ep)
}

// lastTry ends a dialling with the first try that timed out: another would cost the
// same time again, and TCP has tried several times in it.
type lastTry struct{ transport.Transport }

// Dial implements transport.Transport.
func (l lastTry) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := l.Transport.Dial(ctx, ep)
	if d, ok := ctx.Value(dialKey{}).(dialling); ok && errors.Is(err, transport.ErrTimeout) {
		d.stop()
	}
	return conn, err
}

// dialNetwork opens the first network connection.
func (r *Resolver) dialNetwork(ctx context.Context, network, address string) (net.Conn, error) {
	dial := r.cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	d, ok := ctx.Value(dialKey{}).(dialling)
	if !ok {
		return dial(ctx, network, address)
	}
	short, cancel := context.WithTimeout(ctx, d.reach)
	defer cancel()
	conn, err := dial(short, network, address)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		err = &transport.Error{Op: "dial", Target: address, Kind: transport.ErrTimeout, Err: err,
			Hint: "no network connection came about within " + d.reach.String() + " (a firewall may drop what is sent)"}
	}
	return conn, err
}
