package redfishtest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Request is a request that a client sent. A request that still runs has no
// Status.
type Request struct {
	Method string
	Path   string // with the query
	User   string // "" if it was not authenticated
	Basic  bool   // authenticated by Basic
	Status int
	Header http.Header // without what is secret
	Length int64       // Content-Length, -1 if there was none
	Bytes  int64       // of the body that were read
	JSON   string      // the body, if it is JSON of at most 64 KiB, without what is secret
}

// Requests returns the requests that came in so far, in order: the newest
// Config.RequestLog of them.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.requests[max(0, len(s.requests)-s.cfg.RequestLog):]
	out := make([]Request, len(kept))
	for i, r := range kept {
		out[i] = *r
	}
	return out
}

// Total returns how many requests came in so far.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped + len(s.requests)
}

// Count returns how many of Requests of a method ("" for any) had a path that begins
// with the given one, without regard to case.
func (s *Server) Count(method, path string) int {
	n := 0
	for _, r := range s.Requests() {
		if (method == "" || r.Method == method) && len(r.Path) >= len(path) && strings.EqualFold(r.Path[:len(path)], path) {
			n++
		}
	}
	return n
}

// exchange is a request at work.
type exchange struct {
	http.ResponseWriter
	s      *Server
	record *Request // guarded by s.mu
	wrote  bool
	mute   bool // nothing is answered: see ResetAnswered
	noLoc  bool
	// instead is what is answered instead of what the handler answers.
	instead *Injected
}

func (x *exchange) WriteHeader(status int) {
	if x.wrote {
		return
	}
	f := x.instead
	if f != nil {
		status = f.or(http.StatusBadGateway)
	}
	x.wrote = true
	x.s.mu.Lock()
	x.record.Status = status
	x.s.mu.Unlock()
	if x.noLoc {
		x.Header().Del("Location")
	}
	switch {
	case x.mute:
	case f != nil:
		x.Header().Del("Location")
		if f.Location != "" {
			x.Header().Set("Location", f.Location)
		}
		f.say(x.ResponseWriter, status)
	default:
		x.ResponseWriter.WriteHeader(status)
	}
}

func (x *exchange) Write(p []byte) (int, error) {
	x.WriteHeader(http.StatusOK)
	if x.mute || x.instead != nil {
		return len(p), nil
	}
	return x.ResponseWriter.Write(p)
}

func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// body counts what is read of a body, and breaks off where a fault says so.
type body struct {
	io.ReadCloser
	n       atomic.Int64
	at      int64        // where it happens; -1: nowhere
	happens func() error // what happens there
	err     error        // what has happened
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.at >= 0 {
		if left := b.at - b.n.Load(); left <= 0 {
			if b.err = b.happens(); b.err != nil {
				return 0, b.err
			}
			b.at = -1
		} else if int64(len(p)) > left {
			p = p[:left]
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// newRequest begins the record of a request.
func (s *Server) newRequest(r *http.Request) *Request {
	h := r.Header.Clone()
	for _, secret := range []string{"Authorization", "Cookie", "X-Auth-Token"} {
		if h.Get(secret) != "" {
			h.Set(secret, "(secret)")
		}
	}
	rec := &Request{Method: r.Method, Path: r.URL.RequestURI(), Header: h, Length: r.ContentLength}
	s.mu.Lock()
	if len(s.requests) >= s.cfg.RequestLog+s.cfg.RequestLog/4 { // not for each
		n := len(s.requests) - s.cfg.RequestLog + 1
		s.requests = append([]*Request(nil), s.requests[n:]...)
		s.dropped += n
	}
	s.requests = append(s.requests, rec)
	s.mu.Unlock()
	return rec
}

// redacted is JSON without the values of passwords.
func redacted(b []byte) string {
	var o map[string]any
	if len(b) > 64<<10 || json.Unmarshal(b, &o) != nil {
		return ""
	}
	changed := false
	for k := range o {
		if slices.Contains([]string{"password", "sessionkey"}, strings.ToLower(k)) {
			o[k], changed = "(secret)", true
		}
	}
	if changed {
		b, _ = json.Marshal(o)
	}
	return string(b)
}
