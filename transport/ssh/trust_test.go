package ssh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestTrustBeforeDialling: what can be told without the target is told without it.
func TestTrustBeforeDialling(t *testing.T) {
	good, _ := newKey(t, "")
	line := authorized(good.PublicKey())
	dir := t.TempDir()
	missing, empty := filepath.Join(dir, "missing"), writeFile(t, filepath.Join(dir, "empty"), "", 0o600)
	rubbish := writeFile(t, filepath.Join(dir, "rubbish"), "This is prose.\n", 0o600)
	// A key of a type that a host does not show, without which it would be asked for
	// whatever it likes.
	user := strings.Replace(line, "ssh-ed25519 ", "", 1)
	wire, err := base64.StdEncoding.DecodeString(user)
	require.NoError(t, err)
	sk := xssh.Marshal(struct {
		Type, Key, Application string
	}{"sk-ssh-ed25519@openssh.com", string(wire[len(wire)-32:]), "ssh:"})
	dsa := xssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).Lsh(big.NewInt(1), 1023), new(big.Int).Lsh(big.NewInt(1), 159), big.NewInt(2), big.NewInt(3)})
	accept := func(context.Context, transport.SeenIdentity) error { return nil }
	for name, tt := range map[string]struct {
		trust transport.Trust
		want  error // nil: it dials
		says  string
	}{
		"missing":             {transport.Trust{KnownHosts: []string{missing, missing + "2"}}, transport.ErrTrust, missing + "2"},
		"missing, first use":  {transport.Trust{KnownHosts: []string{missing}, FirstUse: accept}, nil, ""},
		"missing and a pin":   {transport.Trust{KnownHosts: []string{missing}, HostKeys: []string{line}}, nil, ""},
		"missing and another": {transport.Trust{KnownHosts: []string{missing, empty}}, nil, ""},
		"directory":           {transport.Trust{KnownHosts: []string{empty, dir}, FirstUse: accept}, transport.ErrInvalid, dir},
		"rubbish":             {transport.Trust{KnownHosts: []string{rubbish}, FirstUse: accept}, transport.ErrInvalid, rubbish},
		"bad pin":             {transport.Trust{HostKeys: []string{"rubbish"}}, transport.ErrInvalid, "Trust.HostKeys"},
		"pin of a user": {transport.Trust{HostKeys: []string{"sk-ssh-ed25519@openssh.com " + base64.StdEncoding.EncodeToString(sk)}},
			transport.ErrTrust, "no host key"},
		"pin of an old type": {transport.Trust{HostKeys: []string{"ssh-dss " + base64.StdEncoding.EncodeToString(dsa)}},
			transport.ErrRejected, "LegacyAlgorithms"},
	} {
		t.Run(name, func(t *testing.T) {
			dialled := false
			tr := &ssh.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				dialled = true
				return nil, net.ErrClosed
			}}
			_, err := tr.Dial(t.Context(), transport.Endpoint{Address: "host", Credentials: transport.Credentials{User: "u"}, Trust: tt.trust})
			require.Equal(t, tt.want == nil, dialled)
			if tt.want == nil {
				tt.want = transport.ErrUnreachable
			}
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.says)
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, strings.HasPrefix(name, "missing") && !dialled, errors.Is(err, os.ErrNotExist))
		})
	}
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

// TestKnownHostsChange: a Transport that has read a file before notices a change,
// whichever way it was made.
func TestKnownHostsChange(t *testing.T) {
	srv := server(t, sshtest.Config{})
	other, _ := newKey(t, "")
	file := filepath.Join(t.TempDir(), "known_hosts")
	tr := &ssh.Transport{}
	ep := endpointOf(srv)
	ep.Trust = transport.Trust{KnownHosts: []string{file}}
	write := func(key xssh.PublicKey, ago time.Duration) {
		t.Helper()
		writeFile(t, file+".new", knownhosts.Line([]string{srv.Addr()}, key)+"\n", 0o600)
		at := time.Now().Add(-ago)
		require.NoError(t, os.Chtimes(file+".new", at, at))
		require.NoError(t, os.Rename(file+".new", file))
	}
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i, key := range []xssh.PublicKey{srv.HostKey(), other.PublicKey(), srv.HostKey(), other.PublicKey(), srv.HostKey()} {
		write(key, time.Duration(i)*time.Hour/2) // the first has changed just now
		for n := range errs {
			wg.Go(func() {
				conn, err := tr.Dial(t.Context(), ep)
				if err == nil {
					err = conn.Close(t.Context())
				}
				errs[n] = err
			})
		}
		wg.Wait()
		for _, err := range errs {
			if i%2 == 0 {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, transport.ErrTrust)
			}
		}
	}
}
