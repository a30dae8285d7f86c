package sum

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// TestPublishTLS: each target is shown the certificate that it was told, which is
// good for the address in its URL, whatever others are told later.
func TestPublishTLS(t *testing.T) {
	p := testPublisher(t, Config{})
	r := transport.PublishRequest{TLS: true}
	pub, where := p.offered(t, fromLoopback("127.0.0.1"), r)
	require.Contains(t, pub.URL, "https://127.0.0.1:")
	plain, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
	require.Empty(t, plain.Certificate)

	behind := fromLoopback("192.0.2.77") // an address that this machine does not have
	other, _ := p.offered(t, behind, r)
	cert, err := x509.ParseCertificate(other.Certificate)
	require.NoError(t, err)
	require.NoError(t, cert.VerifyHostname("192.0.2.77"))
	behind.CallbackFrom = []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.3/128")}
	behind.SeenAs = netip.MustParseAddr("192.0.2.78")
	third, _ := p.offered(t, behind, r)
	require.NotEqual(t, other.Certificate, third.Certificate)

	get := func(from string, pub transport.Published, name string) {
		t.Helper()
		c, url := client(t, from, pub.Certificate), pub.URL
		if name != "" { // NAT brings it to an address that it does not know
			c.Transport.(*http.Transport).TLSClientConfig.ServerName = name
			url = "https://127.0.0.4" + url[len("https://")+len(name):]
		}
		status, body := fetchBy(t, c, url)
		require.Equal(t, 200, status)
		require.Equal(t, "firmware", body)
	}
	get("127.0.0.1", pub, "")
	get("127.0.0.1", other, "192.0.2.77")
	get("127.0.0.3", third, "192.0.2.78")
	get("127.0.0.1", pub, "")

	again, _, err := p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{File: transport.BytesFile("fw.bin", []byte("firmware")), TLS: true}, where)
	require.NoError(t, err)
	require.Equal(t, pub.URL, again.URL)
	require.Equal(t, pub.Certificate, again.Certificate, "also where it is resumed")
	require.NoError(t, pub.Await(t.Context(), time.Minute))
	n, err := pub.Release(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 16, n)
}

// TestPublishTLSAtOnce: targets that come at the same time are told one certificate.
func TestPublishTLSAtOnce(t *testing.T) {
	p := testPublisher(t, Config{})
	var wg sync.WaitGroup
	told := make([]transport.Published, 8)
	for i := range told {
		wg.Go(func() {
			var err error
			told[i], _, err = p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"),
				transport.PublishRequest{File: transport.BytesFile("fw.bin", []byte("firmware")), TLS: true}, offerRecord{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, pub := range told {
		require.Equal(t, told[0].Certificate, pub.Certificate)
		status, _ := fetchBy(t, client(t, "127.0.0.1", pub.Certificate), pub.URL)
		require.Equal(t, 200, status)
	}
	require.Len(t, p.open, 1)
}

func TestPublishOwnCertificate(t *testing.T) {
	cert, err := depot.NewCertificate("127.0.0.1")
	require.NoError(t, err)
	p := testPublisher(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	pub, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{TLS: true})
	require.Empty(t, pub.Certificate, "the caller knows his own")
	status, _ := fetchBy(t, client(t, "127.0.0.1", cert.Certificate[0]), pub.URL)
	require.Equal(t, 200, status)
	_, err = Open(t.Context(), Config{Resolve: func(context.Context, Target) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, nil
	}, TLS: &tls.Config{}, Journal: t.TempDir()})
	require.ErrorIs(t, err, ErrInvalid)
}
