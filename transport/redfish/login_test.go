package redfish_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// A management processor has few sessions. One that was given up for another is ended, and
// so is that of a line that broke.
func TestSessionsAreNotLeft(t *testing.T) {
	srv := simulator(t, redfishtest.Config{})
	conn, err := (&redfish.Transport{}).Dial(t.Context(), endpointOf(srv, redfish.Options{}))
	require.NoError(t, err)
	f := srv.Inject(redfishtest.Fault{Kind: redfishtest.Transient401, Path: "/redfish/v1/Systems", Times: 1})
	_, err = conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, f.Hits())
	require.Equal(t, 1, srv.Sessions(), "the first one was still there")
	srv.CloseConnections()
	require.Eventually(t, func() bool {
		_, err := conn.Identify(t.Context())
		if err == nil {
			srv.CloseConnections() // it had begun a new line, and that is one that breaks, too
		}
		return err != nil
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, conn.Close(t.Context()))
	require.Zero(t, srv.Sessions())
}

// After a reset the name of a session may be another's: that one is left alone.
func TestSessionsOfOthersAreLeft(t *testing.T) {
	s := newService(t, nil)
	conn := dial(t, s.endpoint())
	for i, other := range []obj{
		{"UserName": "somebody else", "CreatedTime": "2026-01-01T00:00:00Z"},
		{"UserName": user},
		{"UserName": user, "CreatedTime": "2026-01-01T00:00:00Z"},
	} {
		s.set(fmt.Sprint("/redfish/v1/SessionService/Sessions/token-", i+1), other)
		s.forget()
		_, err := conn.Identify(t.Context())
		require.NoError(t, err)
		require.Equal(t, i+1, s.seen("GET /redfish/v1/SessionService/Sessions/token-"), "it has looked")
		require.Zero(t, s.seen("DELETE"))
	}
}

// A session whose name nobody else gets is ended, unless it is somebody else's.
func TestSessionsWithLongNames(t *testing.T) {
	for who, ended := range map[string]int{user: 1, "somebody else": 0} {
		s := newService(t, nil)
		s.long = true
		conn := dial(t, s.endpoint())
		s.set("/redfish/v1/SessionService/Sessions/the-only-token-1", obj{"UserName": who})
		s.forget()
		_, err := conn.Identify(t.Context())
		require.NoError(t, err)
		require.Equal(t, ended, s.seen("DELETE"), who)
	}
}

// What a failed dial had logged in to it gives back.
func TestDialThatFailsLogsOut(t *testing.T) {
	s := newService(t, nil)
	broken := true
	s.handle("GET /redfish/v1/Managers", func(w http.ResponseWriter, r *http.Request) {
		if broken {
			panic(http.ErrAbortHandler)
		}
	})
	refused(t, s.endpoint(), transport.ErrConnLost)
	require.Equal(t, 1, s.logins)
	require.Zero(t, s.open())
	s.handle("GET /redfish/v1/UpdateService", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	broken = false
	refused(t, s.endpoint(), transport.ErrConnLost)
	require.Equal(t, 2, s.logins)
	require.Zero(t, s.open())
}

// Whoever is not let in asks a few times, far apart: services let nobody in while they
// start, and accounts are locked.
func TestLoginsAreSpaced(t *testing.T) {
	s := newService(t, nil)
	taken := s.pusher(0)
	opts := quick()
	opts.ResetTimeout = time.Second
	ep := s.endpoint()
	ep.Options = opts
	conn := dial(t, ep)
	refusals := 0
	s.handle("POST /push", func(_ http.ResponseWriter, r *http.Request) {
		drain(r.Body)
		*taken++
		s.handle("POST /redfish/v1/SessionService/Sessions", func(w http.ResponseWriter, _ *http.Request) {
			refusals++
			fault(w, http.StatusUnauthorized, "Base.1.4.UnauthorizedLoginAttempt")
		})
		s.forget()
	})
	began := time.Now()
	_, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{})
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Equal(t, 4, refusals)
	require.GreaterOrEqual(t, time.Since(began), 3*opts.ResetTimeout/5, "and between them it waits")
}

// Over TLS of old a pin proves the target, and no authority does.
func TestLegacyTLSTakesThePin(t *testing.T) {
	s := newService(t, func(srv *httptest.Server) {
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, Certificates: []tls.Certificate{selfSigned(t)}}
	})
	opts := quick()
	opts.LegacyTLS = true
	ep := s.endpoint()
	ep.Options = opts
	ep.Trust.Roots = x509.NewCertPool()
	ep.Trust.Roots.AddCert(s.Certificate())
	dial(t, ep)
	ep.Trust.SPKI = [][sha256.Size]byte{{1}}
	refused(t, ep, transport.ErrTrust)
}

// A call whose turn to log in has not come returns when its context ends.
func TestWaitForLogin(t *testing.T) {
	s := newService(t, nil)
	opts := quick()
	opts.Connections = 4
	ep := s.endpoint()
	ep.Options = opts
	conn := dial(t, ep)
	waiting, release := make(chan struct{}), make(chan struct{})
	s.handle("POST /redfish/v1/SessionService/Sessions", func(w http.ResponseWriter, r *http.Request) {
		close(waiting)
		<-release
		s.logIn(w, r)
	})
	s.forget()
	first := make(chan error, 1)
	go func() { _, err := conn.Identify(t.Context()); first <- err }()
	<-waiting
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { _, err := conn.Identify(ctx); second <- err }()
	require.Eventually(t, func() bool { return s.seen("GET /redfish/v1/Systems") == 2 }, 20*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	close(release)
	require.NoError(t, <-first)
}
