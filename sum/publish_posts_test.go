package sum_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// posted is a device that posts while it is updated. Its driver gives nothing back.
type posted struct {
	transport.Transport
	during func(ctx context.Context, opts transport.UpdateOptions) error
}

func (p posted) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := p.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return &postedConn{transport.Forward{Conn: conn}, p}, nil
}

type postedConn struct {
	transport.Forward
	p posted
}

func (c *postedConn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (transport.Result, error) {
	if err := c.p.during(ctx, opts); err != nil {
		return transport.Result{}, err
	}
	return c.Forward.Update(ctx, p, opts)
}

// trusting is the configuration of a client that trusts certificates.
func trusting(t *testing.T, certs ...[]byte) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	for _, der := range certs {
		if len(der) > 0 {
			cert, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			roots.AddCert(cert)
		}
	}
	return &tls.Config{RootCAs: roots}
}

// TestUpdateReceives: a driver gets an address to which its target can post while it is
// updated, and nobody else; through the firewall; and none of it outlasts the update.
func TestUpdateReceives(t *testing.T) {
	post := func(url, from, text string, cert ...[]byte) int {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext, TLSClientConfig: trusting(t, cert...)}}
		res, err := c.Post(url, "application/json", strings.NewReader(text))
		require.NoError(t, err)
		res.Body.Close()
		return res.StatusCode
	}
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "http", true: "https"}[secure], func(t *testing.T) {
			l := newLab(t, pull)
			l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: sum.TestPorts, portalloc.SSLPort: sum.TestPorts}
			host := walled(t, l)
			var mu sync.Mutex
			var got []string
			var at transport.Receiving
			device := posted{during: func(ctx context.Context, opts transport.UpdateOptions) error {
				if _, err := opts.Receive(ctx, transport.ReceiveRequest{}); !errors.Is(err, transport.ErrInvalid) {
					return fmt.Errorf("without somebody who takes the posts: %v", err)
				}
				var err error
				at, err = opts.Receive(ctx, transport.ReceiveRequest{TLS: secure, MaxBytes: 10, Handle: func(_ context.Context, body io.Reader) error {
					b, err := io.ReadAll(body)
					mu.Lock()
					defer mu.Unlock()
					got = append(got, string(b))
					return err
				}})
				if err != nil {
					return err
				}
				port := urlPort(t, at.URL)
				require.True(t, host.Reachable("tcp", port, home), "open before anybody is told")
				require.False(t, host.Reachable("tcp", port, outsider))
				require.Equal(t, http.StatusNoContent, post(at.URL, "127.0.0.1", "flashing", at.Certificate))
				require.Equal(t, http.StatusNotFound, post(at.URL, "127.0.0.8", "a stranger", at.Certificate))
				require.Equal(t, http.StatusNotFound, post(at.URL[:len(at.URL)-1]+"!", "127.0.0.1", "guessed", at.Certificate))
				require.Equal(t, http.StatusRequestEntityTooLarge, post(at.URL, "127.0.0.1", "much too long", at.Certificate))
				if secure { // the session tries again what the driver hears of
					host.Fail("Apply", firewall.ErrPermission)
					require.ErrorIs(t, at.Release(ctx), firewall.ErrPermission)
				}
				return nil
			}}
			l.decorate = func(tr transport.Transport) transport.Transport {
				device.Transport = tr
				return device
			}
			s := l.open()
			o := deploy(t, l.nodes(s)[0], l.component("7.0", 100))
			require.Equal(t, sum.Updated, o.Kind, "%+v", o)
			require.Equal(t, secure, strings.HasPrefix(at.URL, "https://"), at.URL)
			require.Equal(t, "flashing", got[0])
			require.False(t, host.Reachable("tcp", urlPort(t, at.URL), home))
			require.Equal(t, http.StatusNotFound, post(at.URL, "127.0.0.1", "late", at.Certificate))
			require.NoError(t, at.Release(t.Context()))
			require.NotContains(t, got, "late")
			l.clean(s)
		})
	}
}

// TestFetchesFromPort80: an Integrity server, and an OA, fetch from port 80 or not at all,
// whatever their driver knows of that: taken, it is an error before anything changes.
func TestFetchesFromPort80(t *testing.T) {
	const addr = "127.0.0.78" // others use port 80 elsewhere
	ln, err := net.Listen("tcp", addr+":80")
	if err != nil {
		realtest.Missing(t, fmt.Sprintf("the right to port 80, or the port itself: %v", err))
	}
	for i, kind := range []sum.Kind{sum.Integrity, sum.OA, sum.Integrity, sum.OA, sum.ILO} {
		free := i > 1
		if i == 2 {
			require.NoError(t, ln.Close())
		}
		l := newLab(t, pull)
		l.targets[0].Kind = kind
		l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: sum.TestPorts}
		l.way = func(_ sum.Target, p transport.Path) transport.Path {
			p.SeenAs = netip.MustParseAddr(addr)
			return p
		}
		l.config = func(c *sum.Config) { c.Listen = []netip.Addr{netip.MustParseAddr(addr)} }
		offered := newOffers(l)
		s := l.open()
		n := l.nodes(s)[0]
		c := l.component("7.0", 1000)
		o := deploy(t, n, c)
		if free {
			require.Equal(t, sum.Updated, o.Kind, "%+v", o)
			require.Equal(t, kind != sum.ILO, strings.HasPrefix(offered.wait(1)[0], "http://"+addr+":80/"))
			l.clean(s)
			continue
		}
		require.Equal(t, sum.Failed, o.Kind, "%+v", o)
		require.Contains(t, o.Text, "80")
		require.Zero(t, l.applied(n.Target().Name))
		require.Empty(t, offered.wait(0), "no other port serves in its place")
		l.clean(s)
	}
}
