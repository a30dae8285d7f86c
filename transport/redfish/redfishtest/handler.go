package redfishtest

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
)

// serve answers one request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed || s.down {
		s.mu.Unlock()
		s.abort(r)
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()

	x := &exchange{ResponseWriter: w, s: s, record: s.newRequest(r)}
	b := s.newBody(r)
	r.Body = b
	defer func() {
		s.mu.Lock()
		x.record.Bytes = b.n.Load()
		status := x.record.Status
		s.notify()
		s.mu.Unlock()
		s.log("request", "method", r.Method, "path", r.URL.Path, "status", status, "bytes", b.n.Load())
		if x.mute {
			s.abort(r)
		}
	}()
	if s.disturb(x, r) {
		return
	}
	if s.fault(ResetAnswered, r) != nil {
		x.mute = true
	}
	x.noLoc = s.fault(ForgetsLocation, r) != nil
	x.instead = s.fault(AnswersOtherwise, r)
	s.route(x, r)
}

// newBody puts the faults of bodies into the body of a request.
func (s *Server) newBody(r *http.Request) *body {
	b := &body{ReadCloser: r.Body, at: -1}
	if r.ContentLength == 0 {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.faults {
		if (i.Kind != ResetAt && i.Kind != StallAt) || !i.fits(r) || i.Times > 0 && i.hits >= i.Times {
			continue
		}
		b.at = i.Bytes
		b.happens = func() error {
			f := s.fault(i.Kind, r)
			switch {
			case f == nil:
				return nil
			case f.Kind == ResetAt:
				s.abort(r)
				return io.ErrUnexpectedEOF
			}
			d := f.Delay
			if d == 0 {
				d = never
			}
			ctx, stop := s.during(r)
			defer stop()
			f.lasts(ctx, d)
			return ctx.Err()
		}
		break
	}
	return b
}

// abort resets the connection of a request.
func (s *Server) abort(r *http.Request) {
	if t, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		if c, ok := t.NetConn().(*conn); ok {
			c.abort()
		}
	}
}

// during is a context that ends with a request and with the server.
func (s *Server) during(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(r.Context())
	end := context.AfterFunc(s.ctx, stop)
	return ctx, func() { end(); stop() }
}

// disturb answers a request with a fault, if there is one.
func (s *Server) disturb(x *exchange, r *http.Request) bool {
	if f := s.fault(Slow, r); f != nil {
		ctx, stop := s.during(r)
		f.lasts(ctx, f.Delay)
		stop()
	}
	for _, k := range answerFaults {
		if s.peek(k, r) {
			drain(r)
			break
		}
	}
	switch {
	case s.fault(Unauthorized, r) != nil:
		s.mu.Lock()
		delete(s.sessions, r.Header.Get("X-Auth-Token"))
		s.mu.Unlock()
		s.refuse(x, http.StatusUnauthorized, "NoValidSession")
	case s.fault(Transient401, r) != nil:
		s.refuse(x, http.StatusUnauthorized, "NoValidSession")
	case s.disturbUnavailable(x, r), s.disturbRefuses(x, r), s.disturbEarly(x, r):
	case s.fault(NotJSON, r) != nil:
		x.Header().Set("Content-Type", "text/html")
		x.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(x, "<html><head><title>400</title></head><body>Bad Request\n")
	case s.fault(EmptyError, r) != nil:
		x.WriteHeader(http.StatusBadRequest)
	case s.disturbRedirect(x, r), s.disturbAway(x, r), s.disturbHuge(x, r):
	default:
		return false
	}
	return true
}

// drain reads what is left of the body: a client that still sends may not see an
// answer before a reset.
func drain(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

// route finds out who asks for what.
func (s *Server) route(x *exchange, r *http.Request) {
	path := s.clean(r.URL.Path)
	if path == s.clean(s.sessionsPath()) && r.Method == http.MethodPost {
		s.login(x, r)
		return
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		switch path {
		case "/redfish":
			writeJSON(x, http.StatusOK, object{"v1": "/redfish/v1/"})
			return
		case "/redfish/v1", "/redfish/v1/odata":
			s.get(x, r, path)
			return
		case "/redfish/v1/$metadata":
			x.Header().Set("Content-Type", "application/xml")
			_, _ = io.WriteString(x, `<?xml version="1.0"?><edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0"/>`)
			return
		}
	}
	a, basic, ok := s.who(r)
	if path == s.clean(pushPath) && s.cfg.Profile.ilo() >= 5 && s.cfg.Capture == nil && r.Method == http.MethodPost {
		s.mu.Lock()
		x.record.User, x.record.Basic = a.User, basic
		s.mu.Unlock()
		s.push(x, r, a, ok && !basic)
		return
	}
	if !ok {
		if !s.cfg.NoBasic {
			x.Header().Set("WWW-Authenticate", `Basic realm="redfishtest"`)
		}
		s.refuse(x, http.StatusUnauthorized, "NoValidSession")
		return
	}
	s.mu.Lock()
	x.record.User, x.record.Basic = a.User, basic
	s.mu.Unlock()
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		s.get(x, r, path)
		return
	}
	if rest, ok := strings.CutPrefix(path, s.clean(s.sessionsPath())+"/"); ok && r.Method == http.MethodDelete {
		if !s.logout(x, a, rest) {
			s.refuse(x, http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
		}
		return
	}
	if a.Role != Administrator && a.Role != NoRecovery {
		s.refuse(x, http.StatusForbidden, "InsufficientPrivilege")
		return
	}
	if err := s.change(x, r, path, a); err != nil {
		drain(r)
		s.fail(x, err)
	}
}

// clean is the form in which paths are compared. iLO does not mind case.
func (s *Server) clean(path string) string {
	path = strings.TrimRight(path, "/")
	if s.cfg.Profile.ilo() > 0 {
		path = strings.ToLower(path)
	}
	return path
}

// slash is what @odata.id ends in.
func (p Profile) slash() string {
	if p.ilo() > 0 {
		return "/"
	}
	return ""
}
