package redfish

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// verifier decides about the certificates that one target shows during the life of one
// connection, at every handshake.
type verifier struct {
	target string // as the caller wrote it
	addr   string // host:port as dialled
	host   string // without the zone of an address
	trust  transport.Trust
	legacy bool

	mu       sync.Mutex
	accepted *[sha256.Size]byte // on first use
}

// unknownKey is the error for a key that only Trust.FirstUse can decide about. It is
// asked after the handshake: no target waits for people.
type unknownKey struct{ seen transport.SeenIdentity }

func (e *unknownKey) Error() string { return "the key is not known: " + e.seen.Fingerprint }

// refuse is the error for an identity that is not accepted.
func (v *verifier) refuse(cause error, hint string) error {
	return &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrTrust, Err: cause, Hint: hint}
}

// check finds out whether there is anything that a target could prove itself by.
func (v *verifier) check() error {
	if len(v.trust.SPKI) == 0 && v.trust.Roots == nil && v.trust.FirstUse == nil {
		return v.refuse(transport.ErrUnknownIdentity, "nothing is known that the target could prove itself with: "+
			"give the digest of its public key (Trust.SPKI), an authority (Trust.Roots), or decide on first use (Trust.FirstUse)")
	}
	return nil
}

// config is for one handshake.
func (v *verifier) config() *tls.Config {
	name := v.host
	cfg := &tls.Config{
		ServerName: name,
		// What the library would check is checked by verify, which knows pins, too.
		InsecureSkipVerify: true,
		VerifyConnection:   v.verify,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
	}
	if v.legacy {
		cfg.MinVersion = tls.VersionTLS10
		for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
			cfg.CipherSuites = append(cfg.CipherSuites, s.ID)
		}
	}
	return cfg
}

// verify is called with what the target showed, before anything is sent to it.
func (v *verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return v.refuse(errors.New("no certificate"), "the target shows none")
	}
	leaf := cs.PeerCertificates[0]
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	seen := transport.SeenIdentity{Address: v.addr, Type: "x509", Key: leaf.RawSubjectPublicKeyInfo,
		Fingerprint: transport.Fingerprint(leaf.RawSubjectPublicKeyInfo)}
	v.mu.Lock()
	accepted := v.accepted
	v.mu.Unlock()
	if slices.Contains(v.trust.SPKI, sum) || accepted != nil && *accepted == sum {
		return nil
	}
	if accepted != nil {
		return v.refuse(nil, fmt.Sprintf("it showed another key before, on this connection: it was replaced or has made itself a new certificate, "+
			"or somebody is in between; it now shows %s", seen.Fingerprint))
	}
	var chain error
	if v.trust.Roots != nil && !v.legacy { // no authority vouches for such a connection
		between := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			between.AddCert(c)
		}
		if _, chain = leaf.Verify(x509.VerifyOptions{Roots: v.trust.Roots, Intermediates: between, DNSName: v.host}); chain == nil {
			return nil
		}
	}
	switch {
	case len(v.trust.SPKI) > 0:
		return v.refuse(chain, fmt.Sprintf("its key is none of those expected (Trust.SPKI): it was replaced or has made itself a new certificate, "+
			"or somebody is in between; it showed %s", seen.Fingerprint))
	case v.trust.FirstUse != nil:
		return &unknownKey{seen}
	}
	return v.refuse(errors.Join(transport.ErrUnknownIdentity, chain), fmt.Sprintf("no authority that is trusted (Trust.Roots) has certified it for %s; it showed %s",
		v.host, seen.Fingerprint))
}

// ask has Trust.FirstUse decide about a key.
func (v *verifier) ask(ctx context.Context, seen transport.SeenIdentity) error {
	if err := v.trust.FirstUse(ctx, seen); err != nil {
		kind := error(transport.ErrUnknownIdentity)
		hint := "its key is not known, and was not accepted on first use (Trust.FirstUse)"
		if errors.Is(err, errOtherKey) {
			kind, hint = nil, "the target was replaced or has made itself a new certificate, or somebody is in between"
		}
		return v.refuse(errors.Join(kind, err), fmt.Sprintf("%s; it showed %s", hint, seen.Fingerprint))
	}
	sum := sha256.Sum256(seen.Key)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.accepted = &sum
	return nil
}

// withoutZone removes the zone of an IPv6 address, which means something on this host
// alone (RFC 6874, section 4).
func withoutZone(host string) string {
	addr, _, _ := strings.Cut(host, "%")
	return addr
}
