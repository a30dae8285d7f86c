package fleet

import (
	"context"
	"errors"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// passwordLogin asks for the password that is missing, before it dials: where there is no
// login without one, and a wrong one counts against the account.
type passwordLogin struct {
	t    transport.Transport
	r    *Resolver
	user string // "" where this program's own login counts
}

// Dial implements transport.Transport.
func (p *passwordLogin) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	if p.user != "" {
		if err := p.r.needPassword(ctx, &ep); err != nil {
			return nil, err
		}
	}
	return p.t.Dial(ctx, ep)
}

// needPassword asks for the password of an endpoint, if it has none.
func (r *Resolver) needPassword(ctx context.Context, ep *transport.Endpoint) error {
	if !ep.Credentials.Password.IsZero() {
		return nil
	}
	user := ep.Credentials.User
	var err error
	if ep.Credentials.Password, err = r.asked.need(ctx, loginSecret(user)); err != nil {
		if ctx.Err() != nil {
			return transport.ContextError(ctx, "dial", ep.Address, err)
		}
		return noPassword("dial", ep.Address, user, err)
	}
	if ep.Credentials.Password.IsZero() {
		r.asked.forget(loginSecret(user))
		return noPassword("dial", ep.Address, user, errors.New("the answer was empty"))
	}
	return nil
}

// noPassword is the error where the password of a user is missing, and so nothing was
// dialled.
func noPassword(op, address, user string, err error) error {
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		err = errors.New("nobody is there to ask")
	}
	return &transport.Error{Op: op, Target: address, Kind: sum.ErrNoPassword, Err: err,
		Hint: "it wants the password of " + user + ", and takes no keys"}
}
