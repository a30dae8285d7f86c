package fleet

import (
	"context"
	"errors"
	"runtime"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
)

// smbRoute is the key of the route over SMB: no chain of jump hosts, which are named by
// host and port, is it.
const smbRoute = "smb"

// windows reaches a Windows server over SMB, with a password: OpenSSH's configuration and
// keys mean nothing there. Without a name and a password a manager on Windows logs in as
// who runs it.
func (r *Resolver) windows(t sum.Target) (transport.Transport, transport.Endpoint, error) {
	reach := r.reachTime(settings{})
	ep := transport.Endpoint{
		Address: t.Address, Options: smb.Options{ConnectTimeout: reach, WMI: r.cfg.WMI},
		Credentials: transport.Credentials{User: t.User, Password: r.password(t)},
	}
	if t.User == "" {
		if runtime.GOOS != "windows" || !ep.Credentials.Password.IsZero() {
			return nil, transport.Endpoint{}, &transport.Error{Op: "resolve", Target: t.Address, Kind: transport.ErrInvalid,
				Err: errors.New("no user is named; is " + t.Address + " the host, or a domain, where a shell took the ; behind it for the end of the command?"),
				Hint: "name an administrator of the target, such as windows://Administrator@" + t.Address +
					` or, of a domain and in quotes, "windows://DOMAIN;user@` + t.Address + `"`}
		}
	} else if ep.Credentials.Password.IsZero() {
		if ep.Credentials.Password = r.asked.get(loginSecret(t.User)); ep.Credentials.Password.IsZero() && r.cfg.Ask == nil {
			return nil, transport.Endpoint{}, noPassword("resolve", t.Address, t.User, nil)
		}
	}
	tr := r.decorated(smbRoute, func() transport.Transport { return &smb.Transport{DialContext: r.dialNetwork} })
	return &windowsLogin{&patient{tr, reach}, r, t.User}, ep, nil
}

// windowsLogin asks for the password that is missing, before it dials: there is no login
// without one, and a wrong one counts against the account.
type windowsLogin struct {
	t    transport.Transport
	r    *Resolver
	user string
}

// Dial implements transport.Transport.
func (w *windowsLogin) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	if w.user != "" && ep.Credentials.Password.IsZero() {
		var err error
		if ep.Credentials.Password, err = w.r.asked.need(ctx, loginSecret(w.user)); err != nil {
			if ctx.Err() != nil {
				return nil, transport.ContextError(ctx, "dial", ep.Address, err)
			}
			return nil, noPassword("dial", ep.Address, w.user, err)
		}
		if ep.Credentials.Password.IsZero() {
			w.r.asked.forget(loginSecret(w.user))
			return nil, noPassword("dial", ep.Address, w.user, errors.New("the answer was empty"))
		}
	}
	return w.t.Dial(ctx, ep)
}

// noPassword is the error where the password of a user is missing, and so nothing was
// dialled.
func noPassword(op, address, user string, err error) error {
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		err = errors.New("nobody is there to ask")
	}
	return &transport.Error{Op: op, Target: address, Kind: sum.ErrNoPassword, Err: err,
		Hint: "a Windows server wants the password of " + user}
}
