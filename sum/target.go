package sum

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/transport"
)

// A Target is one thing to update. It is plain data without secrets, fit for
// journals, plans and logs; Config.Resolve turns it into a connection.
type Target struct {
	// Name identifies the target within a fleet. Empty means String().
	Name string `json:"name,omitempty"`
	Kind Kind   `json:"kind"`
	// User is the login name, if the address alone does not settle it.
	User string `json:"user,omitempty"`
	// Address is host, host:port, an IPv6 literal, or [ipv6]:port.
	Address string `json:"address,omitempty"`
	// Object names a part behind the address: a host behind a vCenter, a bay.
	Object string `json:"object,omitempty"`
	// Parent is the Name of the target that this one is a part of.
	Parent string            `json:"parent,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// String returns the target as a URL, such as "linux://root@db1:2222" or
// "vmware://vcenter/host-17".
func (t Target) String() string {
	if t.Kind == Local {
		return "local:"
	}
	u := url.URL{Scheme: string(t.Kind), Host: urlHost(t.Address)}
	if t.User != "" {
		u.User = url.User(t.User)
	}
	if t.Object != "" {
		u.Path = "/" + t.Object
	}
	return u.String()
}

// urlHost puts a bare IPv6 literal in brackets.
func urlHost(a string) string {
	if strings.Count(a, ":") > 1 && !strings.HasPrefix(a, "[") {
		return "[" + a + "]"
	}
	return a
}

// id is what tells one target from another in a session and in journals: where it
// is, not what it is called. Names of hosts have no case (RFC 4343), and the port of
// the kind need not be said.
func (t Target) id() string {
	t.User = ""
	usual := dialled(t.Kind)
	if host, port, err := (transport.Endpoint{Address: t.Address}).HostPort(usual); err == nil && t.Address != "" {
		if !strings.Contains(host, "%") { // the name of an interface has
			host = strings.ToLower(host)
		}
		if t.Address = host; port != usual {
			t.Address = net.JoinHostPort(host, strconv.Itoa(int(port)))
		}
	}
	return t.String()
}

// same reports whether two targets are reached in the same way.
func (t Target) same(o Target) bool {
	return t.Kind == o.Kind && t.User == o.User && t.Address == o.Address && t.Object == o.Object
}

// key is the name under which messages and reports know the target.
func (t Target) key() string {
	if t.Name != "" {
		return t.Name
	}
	return t.String()
}

// ParseTarget reads a target URL: kind://[user@]host[:port][/object], or
// "local:". A password in it is refused: it would end in process lists and
// shell histories.
func ParseTarget(s string) (Target, error) {
	bad := func(format string, args ...any) (Target, error) {
		return Target{}, &Error{Target: redactURL(s), Step: "parse",
			Err: fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))}
	}
	if s == "local:" || s == "local" {
		return Target{Kind: Local}, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad("want kind://[user@]host[:port], such as linux://root@db1")
	}
	kind, err := ParseKind(scheme)
	if err != nil {
		return Target{}, err
	}
	t := Target{Kind: kind}
	rest, t.Object, _ = strings.Cut(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
		if t.User, err = url.PathUnescape(t.User); err != nil {
			return bad("user: malformed percent-encoding")
		}
		if strings.Contains(t.User, ":") {
			return bad("a password does not belong in a target; give it in a file, the environment or at the prompt")
		}
	}
	if t.Object, err = url.PathUnescape(t.Object); err != nil {
		return bad("object: %v", err)
	}
	if strings.Count(rest, ":") > 1 && !strings.HasPrefix(rest, "[") {
		return bad("an IPv6 address stands in brackets, before the port: linux://root@[2001:db8::7]:2222")
	}
	if rest == "" || strings.Trim(rest, hostChars) != "" {
		return bad("host missing or malformed; names in other scripts go in their ASCII form")
	}
	for _, text := range []string{t.User, t.Object} {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return bad("control characters, or no UTF-8")
		}
	}
	// A zone is written %25 in URLs (RFC 6874); the plain form is understood too.
	t.Address = strings.ReplaceAll(rest, "%25", "%")
	if _, _, err := (transport.Endpoint{Address: t.Address}).HostPort(1); err != nil {
		return bad("host or port malformed")
	}
	if strings.HasPrefix(t.Address, "[") && strings.HasSuffix(t.Address, "]") {
		t.Address = t.Address[1 : len(t.Address)-1]
	}
	return t, nil
}

// hostChars are what a host, zone and port may be made of.
const hostChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%~"

// redactURL hides what may be a password in a malformed target.
func redactURL(s string) string {
	i, j := strings.Index(s, "://"), strings.LastIndexByte(s, '@')
	if i < 0 || j < i {
		return s
	}
	user := s[i+3 : j]
	if k := strings.IndexAny(user, ":%"); k >= 0 { // %3A is a colon too
		return s[:i+3] + user[:k] + ":[redacted]" + s[j:]
	}
	return s
}
