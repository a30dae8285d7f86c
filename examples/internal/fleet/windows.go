package fleet

import (
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
	return &passwordLogin{&patient{tr, reach}, r, t.User}, ep, nil
}
