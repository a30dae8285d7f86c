package depot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// NewCertificate makes a certificate for ServeTLS, signed with its own new RSA key
// of 2048 bits, for the names and addresses under which targets know the manager;
// zones do not count. The certificate cannot sign others, so that a target that
// is told to trust it trusts nothing else.
//
// It is RSA because every client can use that, and there is no second one beside
// it for those that can do better: a target that is told to trust a certificate
// must be shown that one. An old Onboard Administrator or iLO knows no ECDSA.
//
// It is valid from 1970 to the end of 2049, the last time that every parser of
// X.509 understands (RFC 5280, section 4.1.2.5): the clocks of management
// processors are wrong by years, and one that lost its battery starts at zero.
func NewCertificate(hosts ...string) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) {
		return tls.Certificate{}, &Error{Op: "make certificate", Err: err}
	}
	template := &x509.Certificate{
		NotBefore:             time.Unix(0, 0),
		NotAfter:              time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, a.Unmap().WithZone("").AsSlice())
		} else if h == "" || strings.ContainsFunc(h, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' }) {
			return fail(fmt.Errorf("%w: %q is no host name", transport.ErrInvalid, h))
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if len(hosts) == 0 {
		return fail(fmt.Errorf("%w: no name and no address to make it for", transport.ErrInvalid))
	}
	// Clients that are too old for subjectAltName look here.
	if len(hosts[0]) <= 64 { // ub-common-name
		template.Subject = pkix.Name{CommonName: hosts[0]}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fail(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fail(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
