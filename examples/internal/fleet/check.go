package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
)

// Check refuses a target that makes no sense as it is given, whatever there is at its
// address: an object where its kind has none, half of a user, or an address that means
// nothing without the interface to its link. The error is a
// *sum.Error that matches sum.ErrInvalid.
func Check(t sum.Target) error {
	err := senseless(t)
	if err == nil {
		return nil
	}
	return &sum.Error{Target: cmp.Or(t.Name, t.String()), Step: "parse", Err: invalid("%w", err)}
}

// senseless says what makes no sense about a target, if anything.
func senseless(t sum.Target) error {
	if t.Object != "" && (t.Kind == sum.Linux || t.Kind == sum.Windows || SpeaksRedfish(t.Kind)) {
		return fmt.Errorf("a target of kind %q has no object, such as %q: leave out what follows the address", t.Kind, t.Object)
	}
	if err := badZone(t); err != nil {
		return err
	}
	if t.Kind != sum.Windows {
		return nil
	}
	domain, user, inDomain := strings.Cut(strings.Replace(t.User, `\`, ";", 1), ";")
	name, realm, inRealm := strings.Cut(t.User, "@")
	switch {
	case inDomain && domain == "" && user == "":
		return halfUser(t, "neither a domain nor a user", "DOMAIN;user")
	case inDomain && domain == "":
		return halfUser(t, "no domain before the ;", "DOMAIN;"+user)
	case inDomain && user == "":
		return halfUser(t, "no user behind the domain", domain+";user")
	case inRealm && (name == "" || realm == ""):
		return halfUser(t, "half of a user@realm", cmp.Or(name, "user")+"@"+cmp.Or(realm, "realm"))
	}
	return nil
}

// halfUser says what is right instead of half a user of a Windows server.
func halfUser(t sum.Target, missing, want string) error {
	given := t.User
	t.User = want
	err := fmt.Sprintf("%s in the user %q: want %q", missing, given, t)
	if t.User = strings.TrimPrefix(want, "DOMAIN;"); t.User != want && t.User != "user" {
		err += fmt.Sprintf(", or %q for one of the server itself", t)
	}
	return errors.New(err)
}

// Check is the function Check, and refuses as well what cannot be logged in to as this
// Resolver is set up: a Windows server without a user, unless this program's own login
// counts, or a target that speaks Redfish without one, and the manager's own host under a sudo that is not there. It dials nothing.
// The error matches transport.ErrInvalid.
func (r *Resolver) Check(t sum.Target) error {
	e := &transport.Error{Op: "resolve", Target: t.Address, Kind: transport.ErrInvalid, Err: senseless(t)}
	switch {
	case e.Err != nil:
	case t.Kind == sum.Windows && t.User == "" && (runtime.GOOS != "windows" || !r.password(t).IsZero()):
		own, domain := t, t
		own.User, domain.User = "Administrator", "DOMAIN;user"
		e.Err = errors.New("no user is named" + LostUser(t))
		e.Hint = fmt.Sprintf("name an administrator of the target, such as %s or, of a domain and in quotes, %q", own, domain)
	case SpeaksRedfish(t.Kind) && t.User == "":
		e.Err = errors.New("no user is named")
		e.Hint = fmt.Sprintf("name an account of the target, such as %s", sum.Target{Kind: t.Kind, User: "Administrator", Address: t.Address})
	case t.Kind == sum.Local && r.cfg.Sudo && !mayDoAll():
		e.Target = local.Address
		e.Hint = "there is no sudo on the way to the manager's own host: run the program itself under sudo"
	default:
		return nil
	}
	return e
}

// LostUser says, in words that end a clause, that a target may be what a shell has left of
// "windows://DOMAIN;user@host"; else it returns "".
func LostUser(t sum.Target) string {
	if t.Kind != sum.Windows || t.User != "" || strings.ContainsAny(t.Address, ".:") {
		return ""
	}
	return fmt.Sprintf(", or %s is a domain, and a shell took the ; behind it for the end of the command", t.Address)
}

// badZone says what is wrong with the zone of an IPv6 address (RFC 4007, section 11), which
// is the interface by which this host reaches it. Only addresses of a link have one, and
// are nowhere without it.
func badZone(t sum.Target) error {
	host, _, err := (transport.Endpoint{Address: t.Address}).HostPort(1)
	if err != nil {
		return nil // others tell it
	}
	name, zone, zoned := strings.Cut(host, "%")
	addr, err := netip.ParseAddr(name)
	if err != nil || !addr.Is6() {
		return nil
	}
	right := sum.Target{Kind: t.Kind, User: t.User, Address: name + "%eth0"}
	switch {
	case zoned && zone == "":
		return fmt.Errorf("the zone of the address is empty: give the interface, as in %q", right)
	case !zoned && addr.IsLinkLocalUnicast():
		return fmt.Errorf("%s is an address of a link, and of none in particular without its zone: give the interface, as in %q", name, right)
	}
	return nil
}
