package sum

import (
	"errors"
	"io/fs"
	"net"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// hungUp reports whether there was a connection, which the other end has ended, as by
// resetting it: who speaks the protocol answers a login, even one that he refuses.
func hungUp(err error) bool {
	var op *net.OpError
	return errors.Is(err, transport.ErrConnLost) && (!errors.As(err, &op) || op.Op != "dial")
}

// ConnectCode returns the code of the Finding that Preflight would make of err, with which
// a connection to a target of that kind did not come about. So a program can call one cause
// by one name, whichever step meets it. Preflight, which tries the port as well, may know
// more: that nothing answers (FindFiltered) of what is FindTimeout here, and that something
// else does (FindService) of what is FindUnreachable.
func ConnectCode(err error, kind Kind) FindingCode {
	var dns *net.DNSError
	var op *net.OpError
	how := agent.HowReached(err)
	switch {
	case errors.Is(err, ErrNoPassword):
		return FindNoPassword
	case errors.Is(err, transport.ErrUnknownIdentity) && kind != Windows:
		return FindUnknown
	case errors.Is(err, transport.ErrTrust):
		return FindIdentity
	case errors.Is(err, transport.ErrElevation):
		return FindRights
	case errors.Is(err, transport.ErrAuth):
		return FindLogin
	case errors.Is(err, ErrInvalid), errors.Is(err, transport.ErrInvalid):
		return FindInvalid
	case errors.Is(err, transport.ErrBusy):
		return FindBusy
	case errors.Is(err, transport.ErrProtocol), errors.Is(err, transport.ErrRejected):
		return FindService
	case errors.Is(err, errors.ErrUnsupported):
		return FindUnsupported
	case errors.As(err, &dns) && dns.IsNotFound:
		return FindNoName
	case errors.As(err, &dns):
		return FindFailed
	case how == agent.ReachedRefused && kind == Windows && hungUp(err):
		return FindService
	case how == agent.ReachedRefused:
		return FindRefused
	case how == agent.ReachedNoRoute:
		return FindNoRoute
	case how == agent.ReachedForbids:
		return FindFirewall
	case how == agent.ReachedNothing && errors.As(err, &op) && op.Op == "dial":
		return FindFiltered
	case how == agent.ReachedNothing, errors.Is(err, transport.ErrTimeout):
		return FindTimeout
	case kind == Windows && errors.Is(err, fs.ErrPermission):
		return FindRights
	case errors.Is(err, transport.ErrConnLost):
		return FindConnLost
	case errors.Is(err, transport.ErrUnreachable):
		return FindUnreachable
	}
	return FindFailed
}
