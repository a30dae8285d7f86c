package transport_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

func TestHostPort(t *testing.T) {
	for _, tt := range []struct {
		address, host string
		port          uint16
		bad           bool
	}{
		{"db1", "db1", 22, false},
		{"db1:2222", "db1", 2222, false},
		{"10.0.0.7", "10.0.0.7", 22, false},
		{"10.0.0.7:1", "10.0.0.7", 1, false},
		{"fe80::1%eth0", "fe80::1%eth0", 22, false},
		{"[fe80::1%eth0]", "fe80::1%eth0", 22, false},
		{"[fe80::1%eth0]:2222", "fe80::1%eth0", 2222, false},
		{"::1", "::1", 22, false},
		{"", "", 0, true},
		{"[]", "", 0, true},
		{":22", "", 0, true},
		{"db1:", "", 0, true},
		{"db1:0", "", 0, true},
		{"db1:65536", "", 0, true},
		{"db1:ssh", "", 0, true},
		{"[::1", "", 0, true},
		{"[::1]x:1", "", 0, true},
	} {
		host, port, err := transport.Endpoint{Address: tt.address}.HostPort(22)
		if tt.bad {
			require.ErrorIs(t, err, transport.ErrInvalid, "%q", tt.address)
			continue
		}
		require.NoError(t, err, "%q", tt.address)
		require.Equal(t, tt.host, host)
		require.Equal(t, tt.port, port)
	}
}

func FuzzHostPort(f *testing.F) {
	for _, s := range []string{"db1", "db1:22", "[::1]:22", "fe80::1%eth0", "[", "]", ":", "a:b:c", "[a]:0", "[]", "[]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := transport.Endpoint{Address: s}.HostPort(22)
		if err == nil && (host == "" || port == 0) {
			t.Fatalf("%q gives host %q, port %d without an error", s, host, port)
		}
		if err == nil && !strings.Contains(s, host) {
			t.Fatalf("%q gives host %q", s, host)
		}
	})
}

func TestTrustIsZero(t *testing.T) {
	require.True(t, transport.Trust{}.IsZero())
	for _, tr := range []transport.Trust{
		{HostKeys: []string{"x"}}, {KnownHosts: []string{"x"}}, {SPKI: make([][32]byte, 1)}, {Roots: x509.NewCertPool()},
		{FirstUse: func(context.Context, transport.SeenIdentity) error { return nil }},
	} {
		require.False(t, tr.IsZero())
	}
}

func TestFingerprint(t *testing.T) {
	// As printed by: printf '' | openssl dgst -sha256 -binary | base64
	require.Equal(t, "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", transport.Fingerprint(nil))
}

func TestCapsString(t *testing.T) {
	require.Equal(t, "none", transport.Caps(0).String())
	require.Equal(t, "files+reboot", (transport.CapFiles | transport.CapReboot).String())
	require.Equal(t, 12, strings.Count(transport.AllCaps.String(), "+"), "every capability has a name")
	require.True(t, transport.AllCaps.Has(transport.CapUndo|transport.CapRun))
	require.False(t, transport.CapRun.Has(transport.CapUndo|transport.CapRun))
	require.True(t, transport.Caps(0).Has(0))
}
