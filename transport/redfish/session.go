package redfish

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
)

// Causes with which the contexts of calls end, beside those of the caller.
var (
	errClosed  = errors.New("closed by the caller")
	errStalled = errors.New("no byte moved")
	errConnect = errors.New("no answer in time")
)

// lostError is the cause with which the connection broke.
type lostError struct{ cause error }

func (e *lostError) Error() string { return fmt.Sprintf("line broke: %v", e.cause) }
func (e *lostError) Unwrap() error { return e.cause }

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

	login         sync.Mutex // one at a time
	mu            sync.Mutex
	closing       bool
	token         string
	logins        int    // how many there were
	own           string // the session's resource
	where         string // the collection of sessions
	local, remote netip.AddrPort
}

func newSession(t *Transport, ep transport.Endpoint, opts Options, host string, port uint16) *session {
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	s := &session{target: ep.Address, addr: addr, opts: opts, cred: ep.Credentials, dial: t.dialer(),
		turn: make(chan struct{}, opts.Connections), where: "/redfish/v1/SessionService/Sessions"}
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

// connect opens one verified connection.
func (s *session) connect(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.ConnectTimeout, errConnect)
	defer cancel()
	if !s.leaving.Load() {
		stop := context.AfterFunc(s.ctx, cancel)
		defer stop()
	}
	raw, err := s.reach(ctx)
	if err != nil {
		var te *transport.Error
		if errors.As(err, &te) {
			return nil, te
		}
		return nil, s.connectError(ctx, transport.ErrUnreachable, err)
	}
	c := tls.Client(raw, s.trust.config())
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		var te *transport.Error
		var unknown *unknownKey
		var cert *tls.CertificateVerificationError
		var op *net.OpError
		var record tls.RecordHeaderError
		switch {
		case errors.As(err, &te):
			return nil, te
		case errors.As(err, &unknown):
			return nil, unknown
		case errors.As(err, &cert):
			return nil, s.trust.refuse(err, "its certificate cannot be used")
		case errors.As(err, &op) && op.Op == "remote error": // an alert
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: err,
				Hint: "the two sides have no version of TLS or no cipher suite in common; Options.LegacyTLS allows old ones"}
		case errors.As(err, &record):
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: err, Hint: "what answers on this port is not HTTPS"}
		}
		return nil, s.connectError(ctx, transport.ErrConnLost, err)
	}
	l := &line{Conn: c, broke: s.broke}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.Proxy == nil {
		s.local, s.remote = addrPort(raw.LocalAddr()), addrPort(raw.RemoteAddr())
	}
	return l, nil
}

func (s *session) connectError(ctx context.Context, kind, err error) error {
	e := &transport.Error{Kind: kind, Err: err}
	if errors.Is(context.Cause(ctx), errConnect) {
		e.Kind, e.Err = transport.ErrTimeout, errConnect
		e.Hint = "the target does not answer, or something on the way swallows what is sent"
	}
	return e
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// broke is told that a line ended unasked. For an update that is no news: targets start
// anew in the middle of it.
func (s *session) broke(err error) {
	if s.patient.Load() == 0 {
		s.lose(err)
	}
}

func (s *session) lose(err error) { s.cancel(&lostError{err}) }

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
		token, logins := s.token, s.logins
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
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: errors.New("redirected too often")}
		case r.stream, r.method != http.MethodGet && rep.status < http.StatusTemporaryRedirect:
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: fmt.Errorf("redirected to %s", clip(next, 200))}
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
		return "", &transport.Error{Kind: transport.ErrProtocol, Err: errors.New("redirected to what is no URL")}
	}
	host := at.Host
	if at.Port() == "" {
		host = net.JoinHostPort(at.Hostname(), strconv.Itoa(Port))
	}
	if at.Scheme != "https" || !strings.EqualFold(host, s.host) {
		return "", &transport.Error{Kind: transport.ErrProtocol, Err: fmt.Errorf("redirected to another host, %s://%s", clip(at.Scheme, 20), clip(at.Host, 200)),
			Hint: "credentials go to nobody else; give that address, if it is the right one"}
	}
	return pathOf(at.String())
}

// once makes one exchange.
func (s *session) once(ctx context.Context, cancel context.CancelCauseFunc, r request, path, token string) (*reply, error) {
	var watch *stall
	if s.opts.StallTimeout > 0 {
		watch = newStall(s.opts.StallTimeout, func() { cancel(errStalled) })
		defer watch.stop()
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if l, ok := info.Conn.(*line); ok {
				l.busy.Store(watch)
				watch.touch()
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) {
			if r.stream { // it is checked, and perhaps written, before it is answered
				watch.reset(max(s.opts.UpdateStall, s.opts.StallTimeout))
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

// logIn makes a session (DSP0266, "Session management"), unless another call has made
// one since there were so many. The caller holds a turn.
func (s *session) logIn(ctx context.Context, cancel context.CancelCauseFunc, logins int) error {
	s.login.Lock()
	defer s.login.Unlock()
	s.mu.Lock()
	done, where := s.logins != logins, s.where
	s.mu.Unlock()
	if done {
		return nil
	}
	user := s.cred.User
	if s.cred.Domain != "" {
		user = s.cred.Domain + `\` + user
	}
	r, err := jsonRequest("login", http.MethodPost, where, map[string]string{"UserName": user, "Password": s.cred.Password.Reveal()})
	if err != nil {
		return err
	}
	r.bare = true
	rep, err := s.send(ctx, cancel, r, "")
	if err != nil {
		return err
	}
	if !rep.ok() {
		e := refusal(rep)
		// Services differ in how they say no to a login.
		if errors.Is(e.Kind, fs.ErrPermission) || rep.status == http.StatusUnauthorized ||
			rep.status == http.StatusBadRequest && !errors.Is(e.Kind, transport.ErrBusy) {
			e.Kind = transport.ErrAuth
		}
		if errors.Is(e.Kind, transport.ErrAuth) {
			// What a service quotes of a login may be the password.
			e.Err = &statusError{status: rep.status}
			if e.Hint == "" {
				e.Hint = "check user and password"
			}
		}
		return e
	}
	token := rep.header.Get("X-Auth-Token")
	if token == "" {
		return &transport.Error{Kind: transport.ErrProtocol, Err: errors.New("the service made a session without a token")}
	}
	own := rep.header.Get("Location")
	if own == "" {
		var body struct {
			ID text `json:"@odata.id"`
		}
		if decode(rep.body, &body) == nil {
			own = string(body.ID)
		}
	}
	if own, err = pathOf(own); err != nil {
		own = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.own, s.logins = token, own, s.logins+1
	return nil
}

// close logs out, on a context of its own, and ends all connections.
func (s *session) close(ctx context.Context) error {
	s.cancel(errClosed)
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.calls.Wait() // they end with s.ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace/4)
	defer cancel()
	s.mu.Lock()
	own, token := s.own, s.token
	s.token, s.own = "", ""
	s.mu.Unlock()
	if own != "" && !s.gone() {
		s.leaving.Store(true)
		s.patient.Add(1)
		cctx, end := context.WithCancelCause(ctx)
		// That a session stays behind is not worth an error: it expires.
		_, _ = s.once(cctx, end, request{op: "logout", method: http.MethodDelete, path: own}, own, token)
		end(nil)
	}
	s.tr.CloseIdleConnections()
	return nil
}

// loggedIn reports whether there ever was a session.
func (s *session) loggedIn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins > 0
}

// gone reports whether the target cannot be asked to end the session.
func (s *session) gone() bool {
	var lost *lostError
	return errors.As(context.Cause(s.ctx), &lost)
}

// fail says why a call failed: because of what ended ctx, or else because of err.
func (s *session) fail(ctx context.Context, r request, err error) error {
	e := &transport.Error{Op: r.op, Target: s.target, Path: r.path}
	var lost *lostError
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.Cause(s.ctx) // ctx is about to hear of it
	}
	switch {
	case cause == nil:
	case errors.Is(cause, errClosed):
		e.Kind, e.Path = transport.ErrClosed, ""
		return e
	case errors.Is(cause, errStalled):
		e.Kind, e.Err, e.Hint = transport.ErrTimeout, cause, "the target accepts connections and does not answer"
		return e
	case errors.As(cause, &lost):
		e.Kind, e.Err = transport.ErrConnLost, lost.cause
		return e
	default:
		e.Kind = ctx.Err()
		if e.Kind == nil {
			e.Kind = cause
		} else if !errors.Is(cause, e.Kind) {
			e.Err = cause
		}
		return e
	}
	var te *transport.Error
	if errors.As(err, &te) {
		own := *te
		if own.Op == "" || own.Target == "" {
			own.Op, own.Target = r.op, s.target
		}
		network := errors.Is(own.Kind, transport.ErrUnreachable) || errors.Is(own.Kind, transport.ErrConnLost)
		if network && s.loggedIn() && s.patient.Load() == 0 {
			// There was a connection, and now there is none.
			s.lose(err)
			own.Kind = transport.ErrConnLost
		}
		return &own
	}
	var source *sourceError
	if errors.As(err, &source) {
		e.Err = source
		return e
	}
	e.Kind, e.Err = transport.ErrConnLost, err
	var ue *url.Error
	if errors.As(err, &ue) {
		e.Err = ue.Err
	}
	if s.patient.Load() == 0 {
		s.lose(e.Err)
	}
	return e
}

// sourceError is an error of the payload, on the manager.
type sourceError struct{ cause error }

func (e *sourceError) Error() string { return fmt.Sprintf("reading the payload: %v", e.cause) }
func (e *sourceError) Unwrap() error { return e.cause }
