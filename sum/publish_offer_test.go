package sum

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// TestPorts is a range, so that tests do not compete for 63001. The tests of package
// portalloc have what is below it.
var TestPorts = portalloc.Policy{First: 20480, Last: 29999, Random: true}

// fromLoopback is a target on this machine that sees the manager as an address.
func fromLoopback(seenAs string) transport.Path {
	return transport.Path{SeenAs: netip.MustParseAddr(seenAs), CallbackFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

// testPublisher has random ports where the configuration has none.
func testPublisher(t *testing.T, cfg Config) *publisher {
	t.Helper()
	if cfg.Ports == nil {
		cfg.Ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: TestPorts, portalloc.SSLPort: TestPorts}
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	p, err := newPublisher(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.close(context.Background())) })
	return p
}

// offered is offer for a new payload, which must succeed.
func (p *publisher) offered(t *testing.T, path transport.Path, r transport.PublishRequest) (transport.Published, offerRecord) {
	t.Helper()
	if len(r.Tree) == 0 {
		r.File = transport.BytesFile("fw.bin", []byte("firmware"))
	}
	pub, where, err := p.offer(t.Context(), Target{}, path, r, offerRecord{})
	require.NoError(t, err)
	return pub, where
}

// client is one at a loopback address that trusts certificates.
func client(t *testing.T, from string, trusted ...[]byte) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	for _, der := range trusted {
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		roots.AddCert(cert)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
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

func TestPublishTree(t *testing.T) {
	p := testPublisher(t, Config{})
	tree := []transport.File{transport.BytesFile("index.xml", []byte("<x/>")), transport.BytesFile("vib20/a b.vib", []byte("vib"))}
	pub, where := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{Tree: tree})
	c := client(t, "127.0.0.1")
	status, body := fetchBy(t, c, pub.URL+"index.xml")
	require.Equal(t, 200, status)
	require.Equal(t, "<x/>", body)
	again, _, err := p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{Tree: tree}, where)
	require.NoError(t, err)
	require.Equal(t, pub.URL, again.URL)
	status, body = fetchBy(t, c, pub.URL+"vib20/a%20b.vib")
	require.Equal(t, 200, status)
	require.Equal(t, "vib", body)
	status, _ = fetchBy(t, c, pub.URL)
	require.Equal(t, 404, status)
	n, err := pub.Release(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
}

// TestPublishOtherFamily: a target that is dialled again by its other address finds
// the payload there, and still where it began to fetch it.
func TestPublishOtherFamily(t *testing.T) {
	p := testPublisher(t, Config{})
	v4 := transport.Path{Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:22")}
	v6 := transport.Path{Local: netip.MustParseAddrPort("[::1]:1"), Remote: netip.MustParseAddrPort("[::1]:22")}
	first, where := p.offered(t, v4, transport.PublishRequest{Key: "k"})
	r := transport.PublishRequest{File: transport.BytesFile("fw.bin", []byte("firmware")), Key: "k"}
	second, again, err := p.offer(t.Context(), Target{}, v6, r, where)
	require.NoError(t, err)
	require.Equal(t, where, again)
	require.Contains(t, second.URL, "http://[::1]:")
	for _, url := range []string{first.URL, second.URL} {
		status, body := fetchBy(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, url)
		require.Equal(t, 200, status, url)
		require.Equal(t, "firmware", body)
	}
	r.File = transport.BytesFile("fw.bin", []byte("another"))
	_, _, err = p.offer(t.Context(), Target{}, v6, r, where)
	require.ErrorIs(t, err, depot.ErrChanged)
}

// TestPublishWay: what the caller knows about the way back counts.
func TestPublishWay(t *testing.T) {
	var seen transport.Path
	p := testPublisher(t, Config{
		Listen: []netip.Addr{netip.MustParseAddr("127.0.0.2")},
		Way: func(target Target, path transport.Path) transport.Path {
			if target.Name != "behind NAT" {
				return path
			}
			seen = path
			path.SeenAs = netip.MustParseAddr("127.0.0.2")
			path.CallbackFrom = append(path.CallbackFrom, netip.MustParsePrefix("127.0.0.9/32"))
			return path
		},
	})
	path := transport.Path{Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.8:22")}
	r := transport.PublishRequest{File: transport.BytesFile("fw.bin", []byte("firmware"))}
	pub, _, err := p.offer(t.Context(), Target{Name: "behind NAT"}, path, r, offerRecord{})
	require.NoError(t, err)
	require.Equal(t, transport.Path{Local: path.Local, Remote: path.Remote, SeenAs: path.Local.Addr(),
		CallbackFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.8/32")}}, seen, "it is told what is known")
	require.Contains(t, pub.URL, "http://127.0.0.2:")
	for from, want := range map[string]int{"127.0.0.8": 200, "127.0.0.9": 200, "127.0.0.7": 404} {
		status, _ := fetchBy(t, client(t, from), pub.URL)
		require.Equal(t, want, status, from)
	}
	direct, where, err := p.offer(t.Context(), Target{Name: "direct"}, path, r, offerRecord{})
	require.NoError(t, err)
	require.Contains(t, direct.URL, "http://127.0.0.1:")
	_, err = client(t, "127.0.0.8").Get(direct.URL)
	require.Error(t, err, "the manager listens on 127.0.0.2 only")
	require.NotZero(t, where.Port)

	// The server has the options of the caller.
	hasty := testPublisher(t, Config{Depot: depot.Options{Stall: time.Nanosecond}})
	cut, _ := hasty.offered(t, path, transport.PublishRequest{})
	_, err = client(t, "127.0.0.8").Get(cut.URL)
	require.Error(t, err, "who is not ready at once is cut off")
}
