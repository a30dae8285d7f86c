package transport

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

// An Endpoint says where a target is, who the caller is, and how the target
// proves who it is. It is built at each dial and never stored: it holds secrets.
type Endpoint struct {
	// Address is a host name or IP literal, with or without a port; an IPv6
	// literal with a port stands in brackets and may carry a zone:
	// "db1", "10.0.0.7:2222", "[fe80::1%eth0]:22".
	Address string
	// Object names a part behind Address: a host behind a vCenter, a bay of an
	// enclosure, a partition. Empty means the addressed target itself.
	Object string
	// Credentials authenticate the manager.
	Credentials Credentials
	// Trust authenticates the target. Its zero value trusts nobody.
	Trust Trust
	// Options is the driver's own options struct, such as ssh.Options; nil means
	// its zero value. A driver refuses options of another driver.
	Options any
}

// HostPort splits Address and fills in the port where Address has none.
func (ep Endpoint) HostPort(defaultPort uint16) (host string, port uint16, err error) {
	bad := func(cause error) error {
		return &Error{Op: "dial", Target: ep.Address, Kind: ErrInvalid, Err: cause,
			Hint: `want "host", "host:port", "ipv6" or "[ipv6]:port"`}
	}
	a := ep.Address
	if a == "" || a == "[]" {
		return "", 0, bad(fmt.Errorf("empty address"))
	}
	if strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]") {
		return a[1 : len(a)-1], defaultPort, nil
	}
	if !strings.HasPrefix(a, "[") && strings.Count(a, ":") != 1 {
		return a, defaultPort, nil // no port, or an IPv6 literal without brackets
	}
	h, p, err := net.SplitHostPort(a)
	if err != nil {
		return "", 0, bad(err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 || h == "" {
		return "", 0, bad(fmt.Errorf("bad host or port in %q", a))
	}
	return h, uint16(n), nil
}

// Credentials are what most protocols take. Keys, tickets and agents are in the
// driver's options.
type Credentials struct {
	User     string
	Domain   string // Windows domain or realm, if any
	Password Secret
}

// Trust says what a target must show. The zero value trusts nobody: a driver
// that authenticates targets then fails with ErrTrust.
type Trust struct {
	// HostKeys are SSH public keys in authorized_keys form, any of which the
	// target may show.
	HostKeys []string
	// KnownHosts are OpenSSH known_hosts files.
	KnownHosts []string
	// SPKI are SHA-256 digests of the SubjectPublicKeyInfo of TLS leaf
	// certificates, any of which the target may show (RFC 7469, section 2.4).
	SPKI [][sha256.Size]byte
	// Roots are certificate authorities for TLS.
	Roots *x509.CertPool
	// FirstUse, if set, decides about an identity that none of the above knows.
	// A target whose recorded identity changed is never put to it.
	FirstUse FirstUse
}

// IsZero reports whether nothing at all is trusted.
func (t Trust) IsZero() bool {
	return len(t.HostKeys) == 0 && len(t.KnownHosts) == 0 && len(t.SPKI) == 0 && t.Roots == nil && t.FirstUse == nil
}

// FirstUse accepts or refuses an identity that is seen for the first time, and
// records what it accepted: a nil error means trusted. It is called before any
// credentials are sent. Implementations are safe for concurrent use.
type FirstUse func(ctx context.Context, seen SeenIdentity) error

// SeenIdentity is what a target showed.
type SeenIdentity struct {
	Address     string // as dialled, with port
	Type        string // key type, such as "ssh-ed25519", or "x509"
	Key         []byte // SSH wire encoding of the key, or DER SubjectPublicKeyInfo
	Fingerprint string // "SHA256:" and base64 without padding, as OpenSSH prints it
}

// Fingerprint returns the SHA-256 fingerprint of an encoded public key in the
// form that OpenSSH prints.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Secret holds a password or token. It shows itself to nobody: formatting,
// logging and JSON print "[redacted]"; only Reveal returns it. Two Secrets are not
// comparable with ==: compare what Reveal returns.
type Secret struct {
	_ [0]func() // not comparable
	// A pointer: of a Secret in an unexported field package fmt prints the fields
	// without asking its methods, and then prints an address.
	value *string
}

const redacted = "[redacted]"

// NewSecret wraps a secret value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the value. Callers pass it to the protocol and keep no copy.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no value.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb gets at the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
