package ssh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// TestKnownHosts: only a line with the right key for the right name lets
// credentials out, and a recorded key is never put to FirstUse.
func TestKnownHosts(t *testing.T) {
	srv := server(t, sshtest.Config{})
	other, _ := newKey(t, "")
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ec, err := xssh.NewSignerFromSigner(ecKey)
	require.NoError(t, err)
	name := knownhosts.Normalize(srv.Addr())
	for _, tt := range []struct {
		what    string
		content string
		ok      bool
		asked   bool // with FirstUse
	}{
		{"right", knownhosts.Line([]string{name}, srv.HostKey()), true, false},
		{"hashed", knownhosts.Line([]string{knownhosts.HashHostname(name)}, srv.HostKey()), true, false},
		{"one of two", knownhosts.Line([]string{name}, other.PublicKey()) + "\n" + knownhosts.Line([]string{name}, srv.HostKey()), true, false},
		{"changed", knownhosts.Line([]string{name}, other.PublicKey()), false, false},
		{"changed type", knownhosts.Line([]string{name}, ec.PublicKey()), false, false},
		{"revoked", "@revoked * " + authorized(srv.HostKey()), false, false},
		{"other host", knownhosts.Line([]string{"elsewhere"}, srv.HostKey()), false, true},
		{"empty", "", false, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), tt.content+"\n", 0o600)
			ep := endpointOf(srv)
			ep.Trust = transport.Trust{KnownHosts: []string{file, file + "-missing"}}
			before := srv.Attempts()
			conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			if tt.ok {
				require.NoError(t, err)
				require.NoError(t, conn.Close(t.Context()))
			} else {
				require.ErrorIs(t, err, transport.ErrTrust)
				require.Equal(t, before, srv.Attempts(), "credentials were sent")
			}
			asked := false
			ep.Trust.FirstUse = func(_ context.Context, seen transport.SeenIdentity) error {
				asked = true
				require.Equal(t, xssh.FingerprintSHA256(srv.HostKey()), seen.Fingerprint)
				require.Equal(t, srv.Addr(), seen.Address)
				return nil
			}
			conn, err = (&ssh.Transport{}).Dial(t.Context(), ep)
			require.Equal(t, tt.asked, asked)
			if tt.ok || tt.asked {
				require.NoError(t, err)
				require.NoError(t, conn.Close(t.Context()))
			} else {
				require.ErrorIs(t, err, transport.ErrTrust)
			}
		})
	}
}

func TestEmptyTrustSendsNothing(t *testing.T) {
	srv := server(t, sshtest.Config{})
	ep := endpointOf(srv)
	ep.Trust = transport.Trust{}
	_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrTrust)
	require.Contains(t, err.Error(), xssh.FingerprintSHA256(srv.HostKey()), "the operator can compare it")
	require.Zero(t, srv.Attempts())

	no := errors.New("no")
	ep.Trust.FirstUse = func(context.Context, transport.SeenIdentity) error { return no }
	_, err = (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrTrust)
	require.ErrorIs(t, err, no)
	require.Zero(t, srv.Attempts())
}

// TestHostCertificate: a certificate counts if its authority is known for the name.
func TestHostCertificate(t *testing.T) {
	authority, _ := newKey(t, "")
	host, _ := newKey(t, "")
	cert := &xssh.Certificate{Key: host.PublicKey(), CertType: xssh.HostCert, ValidPrincipals: []string{"127.0.0.1"},
		ValidBefore: xssh.CertTimeInfinity}
	require.NoError(t, cert.SignCert(rand.Reader, authority))
	signer, err := xssh.NewCertSigner(cert, host)
	require.NoError(t, err)
	srv := server(t, sshtest.Config{HostKey: signer})
	file := filepath.Join(t.TempDir(), "known_hosts")
	ep := endpointOf(srv)
	ep.Trust = transport.Trust{KnownHosts: []string{file}}

	writeFile(t, file, "@cert-authority "+knownhosts.Line([]string{srv.Addr()}, authority.PublicKey()), 0o600)
	dial(t, ep)
	require.NoError(t, os.Remove(file))
	writeFile(t, file, "@cert-authority "+knownhosts.Line([]string{srv.Addr()}, host.PublicKey()), 0o600)
	_, err = (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrTrust)
}
