package redfishtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// newCertificate makes a self-signed certificate for an address.
func newCertificate(ip netip.Addr, legacy bool) (*tls.Certificate, error) {
	var key crypto.Signer
	var err error
	if legacy {
		key, err = rsa.GenerateKey(rand.Reader, 2048) // key exchange without (EC)DHE needs RSA
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("redfishtest: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("redfishtest: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "redfishtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{ip.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("redfishtest: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("redfishtest: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Certificate returns the certificate that the service shows now. It is its own
// authority.
func (s *Server) Certificate() *x509.Certificate { return s.cert.Load().Leaf }

// TLSCertificate returns the certificate with its key, for Config.Certificate of a
// server that takes the place of this one.
func (s *Server) TLSCertificate() tls.Certificate { return *s.cert.Load() }

// SPKI returns the SHA-256 digest of the SubjectPublicKeyInfo of Certificate, as
// transport.Trust wants it.
func (s *Server) SPKI() [sha256.Size]byte {
	return sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
}

// NewCertificate gives the service another key and certificate, for connections
// from now on.
func (s *Server) NewCertificate() error {
	c, err := newCertificate(s.at.Addr(), s.cfg.LegacyTLS)
	if err != nil {
		return err
	}
	s.cert.Store(c)
	return nil
}

// useCertificate shows a certificate of the caller's.
func (s *Server) useCertificate(c tls.Certificate) error {
	if len(c.Certificate) == 0 || c.PrivateKey == nil {
		return errors.New("redfishtest: Config.Certificate has no certificate, or no key")
	}
	if c.Leaf == nil {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			return fmt.Errorf("redfishtest: Config.Certificate: %w", err)
		}
		c.Leaf = leaf
	}
	s.cert.Store(&c)
	return nil
}

func (s *Server) tlsConfig() *tls.Config {
	c := &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		// A resumed session would show the old certificate.
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		MinVersion:             tls.VersionTLS12,
	}
	if s.cfg.LegacyTLS {
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
		c.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	}
	return c
}
