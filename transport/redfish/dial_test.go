package redfish_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoginAndLogout(t *testing.T) {
	s := newService(t, nil)
	conn, err := (&redfish.Transport{}).Dial(t.Context(), s.endpoint())
	require.NoError(t, err)
	for range 3 {
		_, err = conn.Identify(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 1, s.logins)
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, conn.Close(dead), "it logs out although the context has ended")
	require.Equal(t, 0, s.open())
	require.Equal(t, 1, s.logouts)
}

func TestLoginRefused(t *testing.T) {
	s := newService(t, nil)
	ep := s.endpoint()
	ep.Credentials.Password = transport.NewSecret("battery staple")
	require.Equal(t, transport.Code{Space: "redfish", Value: "Base.1.4.UnauthorizedLoginAttempt"}, refused(t, ep, transport.ErrAuth).Code)
	s.limit = 1
	conn := dial(t, s.endpoint())
	require.Contains(t, refused(t, s.endpoint(), transport.ErrBusy).Hint, "sessions")
	require.NoError(t, conn.Close(t.Context()))
	dial(t, s.endpoint())
}

func TestTrust(t *testing.T) {
	s := newService(t, nil)
	other := [sha256.Size]byte{1}
	ep := s.endpoint()
	ep.Trust = transport.Trust{SPKI: [][sha256.Size]byte{other, s.pin()}}
	dial(t, ep)
	ep.Trust = transport.Trust{SPKI: [][sha256.Size]byte{other}}
	err := refused(t, ep, transport.ErrTrust)
	require.NotErrorIs(t, err, transport.ErrUnknownIdentity)
	require.Contains(t, err.Hint, transport.Fingerprint(s.Certificate().RawSubjectPublicKeyInfo))
	ep.Trust = transport.Trust{}
	require.ErrorIs(t, refused(t, ep, transport.ErrTrust), transport.ErrUnknownIdentity)
	require.Equal(t, 1, s.logins, "nobody else was sent a password")

	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	ep.Trust = transport.Trust{Roots: roots}
	dial(t, ep)
	_, port, splitErr := net.SplitHostPort(ep.Address)
	require.NoError(t, splitErr)
	ep.Address = "localhost:" + port
	require.ErrorIs(t, refused(t, ep, transport.ErrTrust), transport.ErrUnknownIdentity, "the certificate is for another name")
	ep.Trust.SPKI = [][sha256.Size]byte{other}
	require.NotErrorIs(t, refused(t, ep, transport.ErrTrust), transport.ErrUnknownIdentity)
}

func TestAcceptNew(t *testing.T) {
	s := newService(t, nil)
	file := filepath.Join(t.TempDir(), "pins")
	ep := s.endpoint()
	ep.Trust = transport.Trust{FirstUse: redfish.AcceptNew(file)}
	for range 2 {
		conn := dial(t, ep)
		_, err := conn.Identify(t.Context())
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
	// Another one at the same address.
	addr := s.Listener.Addr().String()
	s.Close()
	other := newService(t, func(srv *httptest.Server) {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
		_ = srv.Listener.Close()
		var err error
		srv.Listener, err = net.Listen("tcp", addr)
		require.NoError(t, err)
	})
	err := refused(t, ep, transport.ErrTrust)
	require.NotErrorIs(t, err, transport.ErrUnknownIdentity)
	require.Contains(t, err.Error(), "another key is recorded")
	require.Equal(t, 0, other.logins)
}

// A key that was accepted on first use is held to for the whole connection.
func TestKeyChangesDuringTheConnection(t *testing.T) {
	cfg := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	second := selfSigned(t)
	swap := make(chan struct{})
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		select {
		case <-swap:
			return &tls.Config{Certificates: []tls.Certificate{second}}, nil
		default:
			return nil, nil
		}
	}
	s := newService(t, func(srv *httptest.Server) { srv.TLS = cfg })
	asked := 0
	ep := s.endpoint()
	ep.Trust = transport.Trust{FirstUse: func(context.Context, transport.SeenIdentity) error { asked++; return nil }}
	conn := dial(t, ep)
	close(swap)
	s.CloseClientConnections()
	require.Eventually(t, func() bool {
		_, err := conn.Identify(t.Context())
		return errors.Is(err, transport.ErrTrust) && !errors.Is(err, transport.ErrUnknownIdentity)
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, asked)
}

func TestLegacyTLS(t *testing.T) {
	s := newService(t, func(srv *httptest.Server) {
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, Certificates: []tls.Certificate{selfSigned(t)}}
	})
	ep := s.endpoint()
	require.Contains(t, refused(t, ep, transport.ErrProtocol).Hint, "LegacyTLS")
	opts := quick()
	opts.LegacyTLS = true
	ep.Options = opts
	dial(t, ep)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	ep.Trust = transport.Trust{Roots: roots}
	refused(t, ep, transport.ErrInvalid)
}

func TestNoRedfish(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	ep := transport.Endpoint{Address: srv.Listener.Addr().String(), Credentials: transport.Credentials{User: user, Password: transport.NewSecret(password)},
		Trust: transport.Trust{SPKI: [][sha256.Size]byte{sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)}}}
	refused(t, ep, errors.ErrUnsupported)
	page := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer page.Close()
	ep.Address, ep.Trust.SPKI[0] = page.Listener.Addr().String(), sha256.Sum256(page.Certificate().RawSubjectPublicKeyInfo)
	refused(t, ep, errors.ErrUnsupported)
}

func TestUnreachable(t *testing.T) {
	s := newService(t, nil)
	ep := s.endpoint()
	s.Close()
	refused(t, ep, transport.ErrUnreachable)
}

func TestLoginAgain(t *testing.T) {
	s := newService(t, nil)
	conn := dial(t, s.endpoint())
	s.forget()
	_, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, s.logins)
	// Whose account is gone is told so, after one attempt.
	s.forget()
	s.handle("POST /redfish/v1/SessionService/Sessions", func(w http.ResponseWriter, _ *http.Request) {
		fault(w, http.StatusUnauthorized, "Base.1.4.UnauthorizedLoginAttempt")
	})
	before := s.seen("POST /redfish/v1/SessionService/Sessions")
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Equal(t, before+1, s.seen("POST /redfish/v1/SessionService/Sessions"))
}

func TestRedirects(t *testing.T) {
	var stolen http.Header
	thief := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = r.Header }))
	defer thief.Close()
	s := newService(t, nil)
	conn := dial(t, s.endpoint())
	to := "/redfish/v1/Systems/1"
	s.collection("/redfish/v1/Systems", "/redfish/v1/Systems/moved")
	s.handle("GET /redfish/v1/Systems/moved", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusPermanentRedirect)
	})
	id, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, "db1", id.Name)
	to = thief.URL + "/redfish/v1/Systems/1"
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Contains(t, inv.Problems[0].Text, "another host")
	to = "/redfish/v1/Systems/moved"
	inv, err = transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Contains(t, inv.Problems[0].Text, "too often")
	// A reference that a second look takes for the name of a host.
	s.collection("/redfish/v1/Systems", "https://here//"+thief.Listener.Addr().String()+"/redfish/v1/Systems/1")
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrProtocol)
	require.Nil(t, stolen)
}

// An answer that does not end, and one that nests without end.
func TestLimits(t *testing.T) {
	s := newService(t, nil)
	conn := dial(t, s.endpoint())
	s.handle("GET /redfish/v1/Systems", func(w http.ResponseWriter, _ *http.Request) {
		block := []byte(strings.Repeat(" ", 1<<20))
		for range 20 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	_, err := conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrProtocol)
	s.handle("GET /redfish/v1/Systems", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"Members":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`))
	})
	_, err = conn.Identify(t.Context())
	require.ErrorContains(t, err, "deeper")
}

func TestStalled(t *testing.T) {
	s := newService(t, nil)
	opts := quick()
	opts.StallTimeout = time.Second
	ep := s.endpoint()
	ep.Options = opts
	conn := dial(t, ep)
	release := make(chan struct{})
	defer close(release)
	s.handle("GET /redfish/v1/Systems", func(http.ResponseWriter, *http.Request) { <-release })
	_, err := conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrTimeout)
}

func TestOneConnection(t *testing.T) {
	s := newService(t, nil)
	conn := dial(t, s.endpoint())
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			_, err := transport.ReadInventory(t.Context(), conn)
			done <- err
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, 1, s.most)
}

// The environment names a proxy, and is not asked; the caller is.
func TestProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s := newService(t, nil)
	dial(t, s.endpoint())
	tunnels := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		tunnels++
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = from.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go func() { _, _ = copyAndClose(to, from) }()
		_, _ = copyAndClose(from, to)
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	opts := quick()
	opts.Proxy = http.ProxyURL(u)
	ep := s.endpoint()
	ep.Options = opts
	require.Equal(t, transport.Code{Space: "http", Value: "407"}, transport.CodeOf(refused(t, ep, transport.ErrUnreachable)))
	u.User = url.UserPassword("p", "q")
	conn := dial(t, ep)
	_, err = conn.Identify(t.Context())
	require.NoError(t, err)
	require.False(t, conn.Path().Local.IsValid())
	require.Equal(t, 1, tunnels)
	require.NoError(t, conn.Close(t.Context()))
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 loopback")
	}
	s := newService(t, func(srv *httptest.Server) {
		_ = srv.Listener.Close()
		srv.Listener = l
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	dialled := ""
	tr := &redfish.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled = addr
		return (&net.Dialer{}).DialContext(ctx, network, "[::1]:"+port)
	}}
	hosts := make(chan string, 1)
	s.handle("GET /redfish/v1", func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		_, _ = w.Write([]byte(`{"RedfishVersion":"1.6.0","Managers":{"@odata.id":"/redfish/v1/Managers"},"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
	})
	ep := s.endpoint()
	ep.Address = "[fe80::1%eth7]:" + port
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	require.Equal(t, "[fe80::1%eth7]:"+port, dialled)
	require.Equal(t, "[fe80::1]:"+port, <-hosts)
	require.NoError(t, conn.Close(t.Context()))
	ep.Address = l.Addr().String()
	conn = dial(t, ep)
	<-hosts
	require.Equal(t, "::1", conn.Path().Remote.Addr().String())
	require.Equal(t, "::1/128", conn.Path().CallbackFrom[0].String())
}
