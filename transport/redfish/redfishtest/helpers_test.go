package redfishtest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer(t testing.TB, cfg redfishtest.Config) *redfishtest.Server {
	t.Helper()
	s, err := redfishtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// client is a client of one server.
type client struct {
	t     testing.TB
	s     *redfishtest.Server
	http  *http.Client
	token string
	basic bool
}

func newClient(t testing.TB, s *redfishtest.Server) *client {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, s: s, http: &http.Client{
		Transport: tr, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

// id is the last segment of the first MessageId of an error.
func (a answer) id() string {
	e, _ := a.json["error"].(map[string]any)
	infos, _ := e["@Message.ExtendedInfo"].([]any)
	if len(infos) == 0 {
		return ""
	}
	s, _ := infos[0].(map[string]any)["MessageId"].(string)
	return s[strings.LastIndexByte(s, '.')+1:]
}

// at follows a path of names through objects.
func at(o map[string]any, names ...string) any {
	var v any = o
	for _, n := range names {
		m, _ := v.(map[string]any)
		v = m[n]
	}
	return v
}

func (c *client) try(method, path string, body io.Reader, header http.Header) (answer, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.s.URL()+path, body)
	require.NoError(c.t, err)
	for k, v := range header {
		req.Header[k] = v
	}
	if c.basic {
		req.SetBasicAuth(c.s.User(), c.s.Password())
	} else if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	_ = json.Unmarshal(b, &a.json)
	return a, nil
}

func (c *client) do(method, path string, body any) answer {
	c.t.Helper()
	var r io.Reader
	h := http.Header{}
	if body != nil {
		b, err := json.Marshal(body)
		require.NoError(c.t, err)
		r = bytes.NewReader(b)
		h.Set("Content-Type", "application/json")
	}
	a, err := c.try(method, path, r, h)
	require.NoError(c.t, err)
	return a
}

func (c *client) get(path string) answer { c.t.Helper(); return c.do("GET", path, nil) }

func (c *client) login() *client {
	c.t.Helper()
	c.token = ""
	a := c.do("POST", "/redfish/v1/SessionService/Sessions", map[string]any{"UserName": c.s.User(), "Password": c.s.Password()})
	require.Equal(c.t, http.StatusCreated, a.status, a.body)
	c.token = a.header.Get("X-Auth-Token")
	require.NotEmpty(c.t, c.token)
	return c
}

func loggedIn(t testing.TB, s *redfishtest.Server) *client {
	t.Helper()
	return newClient(t, s).login()
}

// serveFile offers a file on loopback.
func serveFile(t testing.TB, f transport.File) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rd, err := f.Open(r.Context())
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer rd.Close()
		http.ServeContent(w, r, "", time.Time{}, rd)
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/" + f.Name
}

// serveOnly offers a file under its own name alone, and tells of each request.
func serveOnly(t testing.TB, f transport.File, asked func(path string)) string {
	t.Helper()
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked(r.URL.Path)
		mu.Unlock()
		if r.URL.Path != "/"+f.Name {
			http.NotFound(w, r)
			return
		}
		rd, err := f.Open(r.Context())
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer rd.Close()
		http.ServeContent(w, r, "", time.Time{}, rd)
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/" + f.Name
}

// happened waits until a fault has.
func happened(t testing.TB, s *redfishtest.Server, f *redfishtest.Injected) {
	t.Helper()
	require.NoError(t, s.Await(t.Context(), func() bool { return f.Hits() > 0 }))
}

func idle(t testing.TB, s *redfishtest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Idle(ctx))
}
