package channel

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// clientTLS is the side that connects: the manager, or for a callback the agent,
// which calls the manager by name. Resumption is off on both sides, because a
// resumed session has been let past a changed set of roots (CVE-2025-68121).
func (c *credentials) clientTLS(name string) *tls.Config {
	cfg := c.commonTLS()
	cfg.ServerName = name
	if c.ca != nil {
		cfg.RootCAs = c.pool()
	} else {
		// Nothing but a fingerprint is known of the peer: verify does it all.
		cfg.InsecureSkipVerify = true
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.verify(cs, x509.ExtKeyUsageServerAuth) }
	// Always send it: by default Go silently sends nothing to a server that
	// does not list our authority, and the refusal would then mislead.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.cert, nil }
	return cfg
}

// serverTLS is the side that is connected to.
func (c *credentials) serverTLS() *tls.Config {
	cfg := c.commonTLS()
	cfg.Certificates = []tls.Certificate{c.cert}
	if c.ca != nil {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = c.pool()
	} else {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.verify(cs, x509.ExtKeyUsageClientAuth) }
	return cfg
}

func (c *credentials) commonTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		Time:                   func() time.Time { return verifyTime },
	}
}

func (c *credentials) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.ca)
	return pool
}

// verify accepts exactly one peer: the pinned key, in a certificate that is
// valid for this use under the authority, or under itself for an own key.
func (c *credentials) verify(cs tls.ConnectionState, usage x509.ExtKeyUsage) error {
	if cs.Version != tls.VersionTLS13 || cs.DidResume || len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: no fresh TLS 1.3 handshake with a certificate", ErrTrust)
	}
	leaf := cs.PeerCertificates[0]
	want := c.pinned()
	if want == (Fingerprint{}) {
		return fmt.Errorf("%w: which key is the agent's is not known yet", ErrTrust)
	}
	if got := fingerprintOf(leaf); got != want {
		return fmt.Errorf("%w: its key is %s, expected %s", ErrTrust, got, want)
	}
	roots := x509.NewCertPool()
	if c.ca != nil {
		roots.AddCert(c.ca)
	} else {
		roots.AddCert(leaf)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		DNSName:     c.peerName,
		Roots:       roots,
		CurrentTime: verifyTime,
		KeyUsages:   []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTrust, err)
	}
	return nil
}
