package sum

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// fromLoopback is a target on this machine that sees the manager as an address.
func fromLoopback(seenAs string) transport.Path {
	return transport.Path{SeenAs: netip.MustParseAddr(seenAs), CallbackFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

func testPublisher(t *testing.T, config *tls.Config) *publisher {
	p := newPublisher(map[portalloc.Role]portalloc.Policy{
		portalloc.Port:    {First: 20100, Last: 29999, Random: true},
		portalloc.SSLPort: {First: 20100, Last: 29999, Random: true},
	}, config, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { require.NoError(t, p.close(context.Background())) })
	return p
}

func fetchBy(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	res, err := client.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// TestPublishTLS: the certificate of the session is good for the address in the
// URL, and stays the same for further targets.
func TestPublishTLS(t *testing.T) {
	p := testPublisher(t, nil)
	f := transport.BytesFile("fw.bin", []byte("firmware"))
	pub, where, err := p.offer(t.Context(), fromLoopback("127.0.0.1"), transport.PublishRequest{File: f, TLS: true}, offerRecord{})
	require.NoError(t, err)
	require.Contains(t, pub.URL, "https://127.0.0.1:")
	again, _, err := p.offer(t.Context(), fromLoopback("127.0.0.1"), transport.PublishRequest{File: f, TLS: true}, where)
	require.NoError(t, err)
	require.Equal(t, pub.URL, again.URL)
	require.Equal(t, pub.Certificate, again.Certificate)
	other, _, err := p.offer(t.Context(), fromLoopback("192.0.2.77"), transport.PublishRequest{File: f, TLS: true}, offerRecord{})
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(other.Certificate)
	require.NoError(t, err)
	require.NoError(t, cert.VerifyHostname("192.0.2.77"), "an address that this machine does not have")
	require.NoError(t, cert.VerifyHostname("127.0.0.1"))

	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	status, body := fetchBy(t, client, pub.URL)
	require.Equal(t, 200, status)
	require.Equal(t, "firmware", body)
	require.NoError(t, pub.Await(t.Context(), time.Minute))
	n, err := pub.Release(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 8, n)

	plain, _, err := p.offer(t.Context(), fromLoopback("127.0.0.1"), transport.PublishRequest{File: f}, offerRecord{})
	require.NoError(t, err)
	require.Empty(t, plain.Certificate)
	status, _ = fetchBy(t, http.DefaultClient, plain.URL)
	require.Equal(t, 200, status)
}

func TestPublishOwnCertificate(t *testing.T) {
	cert, err := depot.NewCertificate("127.0.0.1")
	require.NoError(t, err)
	p := testPublisher(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	pub, _, err := p.offer(t.Context(), fromLoopback("127.0.0.1"),
		transport.PublishRequest{File: transport.BytesFile("a", nil), TLS: true}, offerRecord{})
	require.NoError(t, err)
	require.Empty(t, pub.Certificate, "the caller knows his own")
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	status, _ := fetchBy(t, client, pub.URL)
	require.Equal(t, 200, status)
	_, err = Open(t.Context(), Config{Resolve: func(context.Context, Target) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, nil
	}, TLS: &tls.Config{}, Journal: t.TempDir()})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestPublishTree(t *testing.T) {
	p := testPublisher(t, nil)
	pub, _, err := p.offer(t.Context(), fromLoopback("127.0.0.1"), transport.PublishRequest{Tree: []transport.File{
		transport.BytesFile("index.xml", []byte("<x/>")), transport.BytesFile("vib20/a b.vib", []byte("vib")),
	}}, offerRecord{})
	require.NoError(t, err)
	status, body := fetchBy(t, http.DefaultClient, pub.URL+"index.xml")
	require.Equal(t, 200, status)
	require.Equal(t, "<x/>", body)
	status, body = fetchBy(t, http.DefaultClient, pub.URL+"vib20/a%20b.vib")
	require.Equal(t, 200, status)
	require.Equal(t, "vib", body)
	status, _ = fetchBy(t, http.DefaultClient, pub.URL)
	require.Equal(t, 404, status)
	n, err := pub.Release(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
}

// TestPublishFixedPort: who fetches from one port gets that one or an error.
func TestPublishFixedPort(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policies map[portalloc.Role]portalloc.Policy
		r        transport.PublishRequest
		want     portalloc.Role // 0: unsupported
	}{
		{"any", nil, transport.PublishRequest{}, portalloc.Port},
		{"any, TLS", nil, transport.PublishRequest{TLS: true}, portalloc.SSLPort},
		{"the setting", nil, transport.PublishRequest{FixedPort: 63001}, portalloc.Port},
		{"the setting, TLS", nil, transport.PublishRequest{FixedPort: 63002, TLS: true}, portalloc.SSLPort},
		{"80", nil, transport.PublishRequest{FixedPort: 80}, portalloc.HTTP},
		{"80 is the setting", map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(80)}, transport.PublishRequest{FixedPort: 80}, portalloc.Port},
		{"443 is the setting", map[portalloc.Role]portalloc.Policy{portalloc.SSLPort: portalloc.Fixed(443)}, transport.PublishRequest{FixedPort: 443, TLS: true}, portalloc.SSLPort},
		{"443", nil, transport.PublishRequest{FixedPort: 443, TLS: true}, 0},
		{"80, TLS", nil, transport.PublishRequest{FixedPort: 80, TLS: true}, 0},
	} {
		role, opts, err := newPublisher(tt.policies, nil, nil).role(tt.r)
		if tt.want == 0 {
			require.Error(t, err, tt.name)
			continue
		}
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.want, role, tt.name)
		require.Equal(t, tt.r.FixedPort != 0, opts.NoFallback, tt.name)
	}
}
