package sum_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// TestReceive: a target posts status and logs while it is updated, over HTTP and
// HTTPS; nobody else can.
func TestReceive(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "http", true: "https"}[secure], func(t *testing.T) {
			l := newLab(t, pull)
			l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: sum.TestPorts, portalloc.SSLPort: sum.TestPorts}
			offered := newOffers(l)
			s := l.open()
			n := l.nodes(s)[0]
			var logs bytes.Buffer
			in, err := sum.Receive(t.Context(), n, depot.Inbox{
				Name: "status", Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")},
				Handle: func(_ context.Context, p depot.Post) error {
					_, _ = io.WriteString(&logs, p.Path+": ")
					_, err := io.Copy(&logs, p.Body)
					return err
				},
			}, sum.ReceiveOptions{TLS: secure})
			require.NoError(t, err)
			require.Equal(t, secure, len(in.Certificate) > 0)
			require.True(t, strings.HasPrefix(in.URL, map[bool]string{false: "http://", true: "https://"}[secure]), in.URL)

			post := func(from, path, content string) int {
				t.Helper()
				roots := x509.NewCertPool()
				if secure {
					cert, err := x509.ParseCertificate(in.Certificate)
					require.NoError(t, err)
					roots.AddCert(cert)
				}
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
					DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}}}
				res, err := client.Post(in.URL+path, "text/plain", strings.NewReader(content))
				require.NoError(t, err)
				res.Body.Close()
				return res.StatusCode
			}
			offered.before = func(context.Context, func(context.Context, transport.PublishRequest) (transport.Published, error)) error {
				if status := post("127.0.0.1", "/logs/ilo.txt", "flashing"); status != http.StatusNoContent {
					return errors.New(http.StatusText(status))
				}
				return nil
			}
			o := deploy(t, n, l.component("7.0", 100))
			require.Equal(t, sum.Updated, o.Kind, "%+v", o)
			require.Equal(t, "logs/ilo.txt: flashing", logs.String())
			require.EqualValues(t, 1, in.Posts())
			require.Equal(t, http.StatusNoContent, post("127.0.0.9", "", "from the proxy"))
			require.Equal(t, http.StatusNotFound, post("127.0.0.8", "", "from a stranger"))
			require.NoError(t, in.Release(t.Context()))
			require.Equal(t, http.StatusNotFound, post("127.0.0.1", "", "late"))

			_, err = sum.Receive(t.Context(), n, depot.Inbox{}, sum.ReceiveOptions{})
			require.ErrorIs(t, err, transport.ErrInvalid)
			_, err = sum.Receive(t.Context(), n, depot.Inbox{}, sum.ReceiveOptions{FixedPort: 1})
			require.ErrorIs(t, err, errors.ErrUnsupported)
			l.clean(s)
			_, err = sum.Receive(t.Context(), n, depot.Inbox{}, sum.ReceiveOptions{})
			require.ErrorIs(t, err, sum.ErrClosed)
		})
	}
}

// TestWayOfDevice: a device fetches from the address that the caller names.
func TestWayOfDevice(t *testing.T) {
	l := newLab(t, pull)
	l.way = func(target sum.Target, p transport.Path) transport.Path {
		require.Equal(t, l.targets[0], target)
		p.SeenAs = netip.MustParseAddr("127.0.0.2")
		return p
	}
	offered := newOffers(l)
	s := l.open()
	o := deploy(t, l.nodes(s)[0], l.component("7.0", 100))
	require.Equal(t, sum.Updated, o.Kind, "%+v", o)
	require.Contains(t, offered.wait(1)[0], "http://127.0.0.2:")
	l.clean(s)
}
