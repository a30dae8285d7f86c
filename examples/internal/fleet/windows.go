package fleet

import (
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
		Address: t.Address, Options: smb.Options{ConnectTimeout: reach, WMI: r.cfg.WMI, NetBIOS: r.cfg.NetBIOS},
		Credentials: transport.Credentials{User: t.User, Password: r.password(t)},
	}
	if t.User != "" && ep.Credentials.Password.IsZero() {
		if ep.Credentials.Password = r.asked.get(loginSecret(t.User)); ep.Credentials.Password.IsZero() && r.cfg.Ask == nil {
			return nil, transport.Endpoint{}, noPassword("resolve", t.Address, t.User, nil)
		}
	}
	tr := r.decorated(smbRoute, func() transport.Transport {
		if r.cfg.NetBIOS && r.cfg.DialContext == nil {
			return &smb.Transport{} // which looks names up itself, and has the time from its options
		}
		return &smb.Transport{DialContext: r.dialNetwork}
	})
	return &passwordLogin{&once{&patient{tr, reach}, &r.accounts}, r, t.User}, ep, nil
}
