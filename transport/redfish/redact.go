package redfish

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// redacted stands for what is nobody's business.
const redacted = "REDACTED"

// redactor replaces what tells secrets, or whose machine it is. The same value is always
// replaced by the same one. It learns first, and replaces then.
type redactor struct {
	given map[string]string // by kind and value, in lower case
	count map[string]int    // by kind
	found map[string]string // what is replaced wherever it stands
	known *strings.Replacer
}

func newRedactor(cred transport.Credentials) *redactor {
	r := &redactor{given: map[string]string{}, count: map[string]int{}, found: map[string]string{}}
	if p := cred.Password.Reveal(); len(p) >= 6 {
		r.found[p] = redacted
	}
	r.instead(kindUser, cred.User)
	return r
}

// The kinds of what is replaced by something of its form.
const (
	kindSecret = "secret"
	kindSerial = "serial"
	kindUUID   = "uuid"
	kindHost   = "host"
	kindUser   = "user"
	kindMAC    = "mac"
	kindIPv4   = "ipv4"
	kindIPv6   = "ipv6"
)

// kindOf is what a property holds by its name, or "".
func kindOf(name string) string {
	n := strings.ToLower(name)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(n, w) })
	}
	ends := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(n, w) })
	}
	switch {
	case has("algorithm", "messageid"), names(name):
		return ""
	// To whom a service posts, and what was asked of it: addresses there are good for
	// whoever has them, and the Context of a subscription is what tells whose it is.
	case ends("uri"), n == "destination", n == "context", n == "jsonbody", n == "httpheaders", n == "authorization", has("cookie"):
		return kindSecret
	case has("password", "passwd", "passphrase", "secret", "token", "hash", "credential", "community", "certificatestring", "email", "phone", "contact", "street"),
		len(n) > len("key") && ends("key", "keys"): // "Key" alone is the class of a device
		return kindSecret
	case ends("serialnumber", "serial", "assettag", "servicetag", "wwn", "wwnn", "wwpn", "worldwidename", "durablename", "uniqueid", "thumbprint", "fingerprint"):
		return kindSerial
	case has("uuid"):
		return kindUUID
	case ends("hostname", "fqdn", "domainname", "servername", "commonname", "nameservers"):
		return kindHost
	case ends("username", "loginname", "createdby"):
		return kindUser
	}
	return ""
}

// names reports whether a property names a resource of the service, or a place of it to
// send to.
func names(name string) bool {
	switch strings.ToLower(name) {
	case "@odata.id", "href", "target", "targeturi", "httppushuri", "multiparthttppushuri", "pushupdateuri", "serversenteventuri":
		return true
	}
	return false
}

// numbered reports whether a property holds a version, which may look like an address.
func numbered(name string) bool {
	n := strings.ToLower(name)
	return strings.Contains(n, "version") || strings.Contains(n, "revision") || strings.Contains(n, "firmware") || strings.Contains(n, "build") || n == "@odata.type" || n == "name" || n == "id"
}

var (
	// A URL in a text; what writes JSON may write its slashes so that they are no end.
	urlForm  = regexp.MustCompile(`\b([A-Za-z][A-Za-z0-9+.-]*):\\?/\\?/[^\s"'<>]+`)
	macForm  = regexp.MustCompile(`\b[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}[:-]){4}[0-9A-Fa-f]{2}\b`)
	ipv4Form = regexp.MustCompile(`\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b`)
	ipv6Form = regexp.MustCompile(`[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*`)
)

// learn finds the values that are to be replaced wherever they stand.
func (r *redactor) learn(name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for n, e := range v {
			r.learn(n, e)
		}
	case []any:
		for _, e := range v {
			r.learn(name, e)
		}
	case string:
		v = strings.TrimSpace(v)
		switch kind := kindOf(name); kind {
		case kindSerial, kindUUID:
			// What is short, or a word, stands for something else elsewhere.
			if len(v) >= 5 && strings.ContainsAny(v, "0123456789") {
				r.everywhere(v, r.instead(kind, v))
			}
		case kindHost:
			if len(v) >= 5 && strings.ContainsAny(v, "0123456789-.") {
				r.everywhere(v, r.instead(kind, v))
			}
		}
		for _, m := range urlForm.FindAllString(v, -1) {
			at, err := url.Parse(m)
			if err != nil {
				continue
			}
			if host := at.Hostname(); len(host) >= 5 && strings.ContainsAny(host, ".-") && !isAddress(host) {
				r.everywhere(host, r.instead(kindHost, host))
			}
		}
		for _, m := range macForm.FindAllString(v, -1) {
			plain := strings.NewReplacer(":", "", "-", "")
			r.everywhere(plain.Replace(m), plain.Replace(r.instead(kindMAC, m)))
		}
	}
}

func (r *redactor) everywhere(v, instead string) {
	for _, form := range []string{v, strings.ToLower(v), strings.ToUpper(v)} {
		r.found[form] = instead
	}
}

// ready ends the learning.
func (r *redactor) ready() {
	var pairs []string
	longest := slices.SortedFunc(func(yield func(string) bool) {
		for v := range r.found {
			if !yield(v) {
				return
			}
		}
	}, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, v := range longest {
		pairs = append(pairs, v, r.found[v])
	}
	r.known = strings.NewReplacer(pairs...)
}

// instead is what stands for a value of a kind.
func (r *redactor) instead(kind, v string) string {
	v = strings.TrimSpace(v)
	if v == "" || v == oneViewUser {
		return v
	}
	key := kind + " " + strings.ToLower(v)
	if is, ok := r.given[key]; ok {
		return is
	}
	r.count[kind]++
	n := r.count[kind]
	is := redacted
	switch kind {
	case kindSerial:
		is = fmt.Sprintf("SERIAL%06d", n)
	case kindUUID:
		is = fmt.Sprintf("00000000-0000-0000-0000-%012d", n)
	case kindHost:
		is = fmt.Sprintf("host%d.example", n)
	case kindUser:
		is = fmt.Sprintf("user%d", n)
	case kindMAC:
		is = fmt.Sprintf("02:52:4d:%02x:%02x:%02x", byte(n>>16), byte(n>>8), byte(n))
		if strings.Contains(v, "-") {
			is = strings.ReplaceAll(is, ":", "-")
		}
	case kindIPv4: // of the range for tests of devices (RFC 2544)
		is = netip.AddrFrom4([4]byte{198, 18 | byte(n>>16)&1, byte(n >> 8), byte(n)}).String()
	case kindIPv6: // of the range for documentation (RFC 3849)
		is = fmt.Sprintf("2001:db8::%x:%x", n>>16&0xffff, n&0xffff)
	}
	r.given[key] = is
	return is
}

// value is a value with everything replaced.
func (r *redactor) value(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for n, e := range v {
			in := n
			if strings.EqualFold(name, "HttpHeaders") { // whatever they are called
				in = name
			}
			out[r.text("", n)] = r.value(in, e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = r.value(name, e)
		}
		return out
	case string:
		return r.text(name, v)
	}
	return v
}

// text is the text of a property with everything replaced.
func (r *redactor) text(name, s string) string {
	if names(name) && !strings.HasPrefix(s, "/") { // by its path: the host is whose it is
		if p, err := pathOf(s); err == nil && (strings.HasPrefix(p, "/redfish/") || strings.HasPrefix(p, "/rest/") || strings.HasSuffix(strings.ToLower(name), "uri")) {
			_, at, has := strings.Cut(s, "#")
			if s = p; has {
				s += "#" + at
			}
		}
	}
	switch kind := kindOf(name); {
	case s == "" || strings.HasPrefix(s, "/"): // a reference, whatever its name
	case kind == kindSecret:
		return redacted
	case kind != "":
		if kind == kindHost && isAddress(s) {
			break
		}
		return r.instead(kind, s)
	}
	s = urlForm.ReplaceAllString(s, "$1://"+redacted)
	s = r.known.Replace(s)
	s = macForm.ReplaceAllStringFunc(s, func(m string) string { return r.instead(kindMAC, strings.ReplaceAll(m, "-", ":")) })
	if numbered(name) {
		return s
	}
	s = ipv4Form.ReplaceAllStringFunc(s, func(m string) string { return r.address(kindIPv4, m) })
	return ipv6Form.ReplaceAllStringFunc(s, func(m string) string {
		if strings.Contains(m, ".") {
			return m // its address of IPv4 is replaced
		}
		return r.address(kindIPv6, m)
	})
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// address is what stands for an address that is one of somebody.
func (r *redactor) address(kind, s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return s
	}
	if a.Is4() && (a.As4()[0] == 255 || a.As4()[0] == 198 && a.As4()[1]&^1 == 18) { // a mask, or one of ours
		return s
	}
	if strings.HasPrefix(a.String(), "2001:db8:") {
		return s
	}
	return r.instead(kind, s)
}
