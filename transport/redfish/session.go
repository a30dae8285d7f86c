package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/internal/stall"
)

// session is one login to one service, and the connections under it.
type session struct {
	target string // as the caller wrote it
	addr   string // host:port to dial
	host   string // host:port for URLs
	opts   Options
	cred   transport.Credentials
	dial   transport.DialFunc
	trust  *verifier
	tr     *http.Transport
	client *http.Client
	turn   chan struct{} // as many requests as there may be connections
	calls  sync.WaitGroup

	ctx     context.Context // ends when the session is closed or lost; its cause says which
	cancel  context.CancelCauseFunc
	patient atomic.Int32 // updates that outlast a line that breaks
	leaving atomic.Bool  // only the farewell is left

	loggingIn     chan struct{} // holds the right to log in
	mu            sync.Mutex
	closing       bool
	login         login
	logins        int    // how many there were
	where         string // the collection of sessions
	local, remote netip.AddrPort
}

func newSession(t *Transport, ep transport.Endpoint, opts Options, host string, port uint16) *session {
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	s := &session{target: ep.Address, addr: addr, opts: opts, cred: ep.Credentials, dial: t.dialer(),
		turn: make(chan struct{}, opts.Connections), loggingIn: make(chan struct{}, 1), where: "/redfish/v1/SessionService/Sessions"}
	s.host = net.JoinHostPort(withoutZone(host), strconv.Itoa(int(port)))
	s.trust = &verifier{target: ep.Address, addr: addr, host: withoutZone(host), trust: ep.Trust, legacy: opts.LegacyTLS}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.tr = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l, err := s.connect(ctx)
			if err != nil {
				return nil, err // and not a nil *line
			}
			return l, nil
		},
		MaxConnsPerHost: opts.Connections,
		// Before most services end it: then what ends unasked is a line that broke.
		IdleConnTimeout:        10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	s.client = &http.Client{Transport: s.tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// request is one request.
type request struct {
	op     string // for errors
	method string
	path   string // with the query
	header http.Header
	ctype  string
	// body opens the body anew for each attempt, and says how long it is; nil: none.
	body   func(token string) (io.ReadCloser, int64, error)
	stream bool // sent once: what was sent is not repeated, and redirects are not followed
	slow   bool // it is worked on before it is answered: the answer may take Options.UpdateStall
	// sign adds what the session proves itself by, beside its token.
	sign func(h http.Header, token string)
	bare bool // without a session
}

// reply is the whole answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// ok reports whether the status is one of success.
func (r *reply) ok() bool { return r.status >= 200 && r.status < 300 }

// jsonRequest is a request with a body of JSON.
func jsonRequest(op, method, path string, v any) (request, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return request{}, err
	}
	return request{op: op, method: method, path: path, ctype: "application/json",
		body: func(string) (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(data)), int64(len(data)), nil
		}}, nil
}

// do sends a request when it is its turn, and logs in again, once, where the session has
// ended. An answer that is none of success is no error.
func (s *session) do(ctx context.Context, r request) (_ *reply, err error) {
	if !s.enter() {
		return nil, s.fail(s.ctx, r, errClosed)
	}
	defer s.calls.Done()
	if err := ctx.Err(); err != nil {
		return nil, s.fail(ctx, r, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	if s.ctx.Err() != nil {
		cancel(context.Cause(s.ctx))
		return nil, s.fail(ctx, r, context.Cause(ctx))
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, s.fail(ctx, r, context.Cause(ctx))
	}
	for try := 0; ; try++ {
		s.mu.Lock()
		token, logins := s.login.token, s.logins
		s.mu.Unlock()
		rep, err := s.send(ctx, cancel, r, token)
		if err != nil {
			return nil, s.fail(ctx, r, err)
		}
		if rep.status != http.StatusUnauthorized || r.bare || try > 0 {
			return rep, nil
		}
		if err := s.logIn(ctx, cancel, logins); err != nil {
			return nil, s.fail(ctx, r, err)
		}
	}
}

// enter counts a call in, unless the session is closed.
func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.calls.Add(1)
	return true
}

// send sends a request once and reads the answer.
func (s *session) send(ctx context.Context, cancel context.CancelCauseFunc, r request, token string) (*reply, error) {
	path := r.path
	for hops := 0; ; hops++ {
		rep, err := s.once(ctx, cancel, r, path, token)
		if err != nil {
			return nil, err
		}
		switch rep.status {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return rep, nil
		}
		to := rep.header.Get("Location")
		next, err := s.redirect(path, to)
		switch {
		case err != nil:
			return nil, err
		case hops == 3:
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: errors.Join(errTooOften, &redirectError{next})}
		case r.stream, r.method != http.MethodGet && rep.status < http.StatusTemporaryRedirect:
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: &redirectError{next},
				Hint: "what was sent there has no effect; the service wants it at the other address, and says so where it names the first"}
		}
		path = next
	}
}

// redirect returns where a redirection leads, on the same host: nothing is sent to
// another one, whoever asks for it.
func (s *session) redirect(from, to string) (string, error) {
	base := &url.URL{Scheme: "https", Host: s.host}
	at, err := base.Parse(from)
	if err == nil {
		at, err = at.Parse(to)
	}
	if err != nil || to == "" {
		return "", &transport.Error{Kind: transport.ErrProtocol, Err: &redirectError{to}, Hint: "that is no address"}
	}
	host := at.Host
	if at.Port() == "" {
		host = net.JoinHostPort(at.Hostname(), strconv.Itoa(Port))
	}
	if at.Scheme != "https" || !strings.EqualFold(host, s.host) {
		return "", &transport.Error{Kind: transport.ErrProtocol, Err: &redirectError{at.Scheme + "://" + at.Host + ", another host"},
			Hint: "credentials go to nobody else; give that address, if it is the right one"}
	}
	return pathOf(at.String())
}

// once makes one exchange.
func (s *session) once(ctx context.Context, cancel context.CancelCauseFunc, r request, path, token string) (*reply, error) {
	watch := stall.New(s.opts.StallTimeout, func() { cancel(errStalled) })
	watch.Touch()
	defer watch.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if l, ok := info.Conn.(*line); ok {
				l.busy.Store(watch)
				watch.Touch()
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) {
			if r.slow {
				watch.Reset(max(s.opts.UpdateStall, s.opts.StallTimeout))
			}
		},
	})
	u := &url.URL{Scheme: "https", Host: s.host}
	at, err := u.Parse(path)
	if err != nil || at.Host != s.host || at.Scheme != u.Scheme {
		return nil, &transport.Error{Kind: transport.ErrProtocol, Err: errors.New("the target names a resource by what is no URI")}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, at.String(), nil)
	if err != nil {
		return nil, &transport.Error{Kind: transport.ErrProtocol, Err: err}
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("User-Agent", "roundsman")
	if !r.bare && token != "" {
		req.Header.Set("X-Auth-Token", token)
		if r.sign != nil {
			r.sign(req.Header, token)
		}
	}
	if r.ctype != "" {
		req.Header.Set("Content-Type", r.ctype)
	}
	if r.body != nil {
		body, length, err := r.body(token)
		if err != nil {
			return nil, err
		}
		req.Body, req.ContentLength = body, length
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxBody {
		return nil, &transport.Error{Kind: transport.ErrProtocol, Err: fmt.Errorf("an answer of more than %d bytes", maxBody)}
	}
	return &reply{status: resp.StatusCode, header: resp.Header, body: data}, nil
}
