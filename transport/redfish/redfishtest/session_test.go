package redfishtest_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestSessions: who is let in, how often, and for how long.
func TestSessions(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: p, Sessions: 2, Accounts: []redfishtest.Account{{User: "reader", Password: "r"}}})
			c := newClient(t, s)
			const systems = "/redfish/v1/Systems"
			require.Equal(t, http.StatusOK, c.get("/redfish/v1/").status, "the root is for all")
			require.Equal(t, http.StatusUnauthorized, c.get(systems).status)
			bad := c.do("POST", "/redfish/v1/SessionService/Sessions/", map[string]any{"UserName": s.User(), "Password": "x"})
			require.Equal(t, http.StatusUnauthorized, bad.status)
			c.login()
			require.Equal(t, http.StatusOK, c.get(systems).status)
			other := loggedIn(t, s)
			a := c.do("POST", "/redfish/v1/SessionService/Sessions", map[string]any{"UserName": s.User(), "Password": s.Password()})
			require.Equal(t, http.StatusServiceUnavailable, a.status)
			require.Equal(t, "SessionLimitExceeded", a.id())
			list := c.get("/redfish/v1/SessionService/Sessions").json["Members"].([]any)
			require.Len(t, list, 2)
			s.EndSessions()
			require.Equal(t, http.StatusUnauthorized, other.get(systems).status)
			require.Equal(t, "NoValidSession", other.get(systems).id())
			c.login()
			mine := c.get("/redfish/v1/SessionService/Sessions").json["Members"].([]any)[0].(map[string]any)["@odata.id"].(string)
			require.Less(t, c.do("DELETE", mine, nil).status, 300)
			require.Equal(t, http.StatusUnauthorized, c.get(systems).status)
			require.Zero(t, s.Sessions())
			require.Equal(t, redfishtest.SessionCounts{Opened: 3, Closed: 1, Lost: 2}, s.SessionCounts())

			reader := newClient(t, s)
			reader.token = reader.do("POST", "/redfish/v1/SessionService/Sessions", map[string]any{"UserName": "reader", "Password": "r"}).header.Get("X-Auth-Token")
			require.Equal(t, http.StatusOK, reader.get(systems).status)
			path, body := updateRequest(p, "http://127.0.0.1/x")
			require.Equal(t, "InsufficientPrivilege", reader.do("POST", path, body).id())

			basic := newClient(t, s)
			basic.basic = true
			require.Equal(t, http.StatusOK, basic.get(systems).status)
			for _, r := range s.Requests() {
				require.NotContains(t, r.JSON, s.Password())
				require.NotContains(t, r.Header.Get("Authorization"), "Basic")
			}
		})
	}
	s := newServer(t, redfishtest.Config{NoBasic: true})
	basic := newClient(t, s)
	basic.basic = true
	require.Equal(t, http.StatusUnauthorized, basic.get("/redfish/v1/Systems").status)
}

// TestRequestLog: it keeps the newest.
func TestRequestLog(t *testing.T) {
	for _, limit := range []int{1, 10} {
		s := newServer(t, redfishtest.Config{RequestLog: limit})
		c := newClient(t, s)
		for i := range 30 {
			c.get(fmt.Sprint("/redfish/v1/", i))
			kept := s.Requests()
			require.Len(t, kept, min(i+1, limit))
			require.Equal(t, fmt.Sprint("/redfish/v1/", i), kept[len(kept)-1].Path)
			require.Equal(t, i+1, s.Total())
		}
	}
}

// TestAddr: a server at an address and with a certificate of the caller's is the same
// when it is started again.
func TestAddr(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]", "127.0.0.7"} {
		first, err := redfishtest.NewServer(redfishtest.Config{Addr: host + ":0"})
		require.NoError(t, err)
		addr, certificate, pin := first.Addr(), first.TLSCertificate(), first.SPKI()
		require.True(t, strings.HasPrefix(addr, host+":"), addr)
		require.NoError(t, first.Close())
		s := newServer(t, redfishtest.Config{Addr: addr, Certificate: &certificate})
		require.Equal(t, addr, s.Addr())
		require.Equal(t, pin, s.SPKI())
		require.Equal(t, http.StatusOK, loggedIn(t, s).get("/redfish/v1/Systems").status)
		_, err = redfishtest.NewServer(redfishtest.Config{Addr: addr})
		require.ErrorContains(t, err, addr, "it is taken")
		require.NoError(t, s.NewCertificate())
		require.NotEqual(t, pin, s.SPKI())
	}
	for _, bad := range []redfishtest.Config{{Addr: "localhost:1"}, {Addr: "127.0.0.1"}, {Certificate: &tls.Certificate{}}, {Certificate: &tls.Certificate{Certificate: [][]byte{{1}}, PrivateKey: 1}}} {
		_, err := redfishtest.NewServer(bad)
		require.Error(t, err)
	}
}

// TestConfig: what cannot be is refused.
func TestConfig(t *testing.T) {
	_, err := redfishtest.NewServer(redfishtest.Config{Profile: "ilo3"})
	require.ErrorContains(t, err, "ilo3")
	_, err = redfishtest.NewServer(redfishtest.Config{Firmware: []redfishtest.Firmware{{ID: "a", Targets: []string{"x"}}, {ID: "a", Targets: []string{"x"}}}})
	require.Error(t, err)
}

// TestTLS: IPv6, and the TLS of old services, which Go's defaults refuse.
func TestTLS(t *testing.T) {
	s := newServer(t, redfishtest.Config{IPv6: true})
	require.Equal(t, http.StatusOK, loggedIn(t, s).get("/redfish/v1/Systems").status)
	require.Contains(t, s.URL(), "[::1]")

	old := newServer(t, redfishtest.Config{Profile: redfishtest.ILO4, LegacyTLS: true})
	c := newClient(t, old)
	_, err := c.try("GET", "/redfish/v1", nil, nil)
	require.Error(t, err)
	cfg := c.http.Transport.(*http.Transport).TLSClientConfig
	legacy := newClient(t, old)
	tr := legacy.http.Transport.(*http.Transport)
	tr.TLSClientConfig = &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	require.Equal(t, http.StatusOK, legacy.login().get("/redfish/v1/Systems").status)
}
