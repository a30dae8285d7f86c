package redfishtest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *Server) disturbUnavailable(x *exchange, r *http.Request) bool {
	f := s.fault(Unavailable, r)
	if f == nil {
		return false
	}
	x.Header().Set("Retry-After", strconv.FormatInt(int64(f.Delay/time.Second), 10))
	s.refuse(x, http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", strconv.FormatInt(int64(f.Delay/time.Second), 10))
	return true
}

func (s *Server) disturbAway(x *exchange, r *http.Request) bool {
	f := s.fault(RedirectAway, r)
	if f == nil {
		return false
	}
	x.Header().Set("Location", f.Location)
	x.WriteHeader(f.or(http.StatusPermanentRedirect))
	return true
}

func (s *Server) disturbRedirect(x *exchange, r *http.Request) bool {
	f := s.fault(Redirect, r)
	if f == nil {
		return false
	}
	u := *r.URL
	if strings.HasSuffix(u.Path, "/") {
		u.Path = strings.TrimSuffix(u.Path, "/")
	} else {
		u.Path += "/"
	}
	x.Header().Set("Location", u.RequestURI())
	x.WriteHeader(f.or(http.StatusPermanentRedirect))
	return true
}

// say answers with what a fault has to say.
func (f *Injected) say(w http.ResponseWriter, status int) {
	if f.Delay >= time.Second {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(f.Delay/time.Second), 10))
	}
	if f.MessageID == "" {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(f.or(status))
		return
	}
	f.s.refuse(w, f.or(status), f.MessageID)
}

func (s *Server) disturbRefuses(x *exchange, r *http.Request) bool {
	f := s.fault(Refuses, r)
	if f != nil {
		f.say(x, http.StatusBadGateway)
	}
	return f != nil
}

// disturbEarly answers in the middle of an upload. What comes after that is read,
// and forgotten, so that the answer arrives: a connection that is closed with bytes
// unread is reset.
func (s *Server) disturbEarly(x *exchange, r *http.Request) bool {
	f := s.fault(EarlyAnswer, r)
	if f == nil {
		return false
	}
	c := http.NewResponseController(x)
	_ = c.EnableFullDuplex() // HTTP/1.1 can do that
	_, _ = io.CopyN(io.Discard, r.Body, f.Bytes)
	x.Header().Set("Connection", "close")
	f.say(x, http.StatusRequestEntityTooLarge)
	_ = c.Flush()
	drain(r)
	return true
}

// disturbHuge answers with more than a client should read. It is valid JSON, and
// never in memory as a whole.
func (s *Server) disturbHuge(x *exchange, r *http.Request) bool {
	begin, unit, end := `{"@odata.id":"/redfish/v1","Name":"`, bytes.Repeat([]byte("x"), 4096), `"}`
	f := s.fault(Oversized, r)
	if f == nil {
		if f = s.fault(Deep, r); f == nil {
			return false
		}
		n := int(f.Bytes)
		if n == 0 {
			n = 100_000
		}
		x.Header().Set("Content-Type", "application/json")
		_, _ = x.Write(bytes.Repeat([]byte(`{"a":`), n))
		_, _ = io.WriteString(x, "0")
		_, _ = x.Write(bytes.Repeat([]byte("}"), n))
		return true
	}
	left := f.Bytes
	if left == 0 {
		left = 64 << 20
	}
	x.Header().Set("Content-Type", "application/json")
	_, err := io.WriteString(x, begin)
	left -= int64(len(begin) + len(end))
	for left > 0 && err == nil {
		_, err = x.Write(unit[:min(left, int64(len(unit)))])
		left -= int64(len(unit))
	}
	_, _ = io.WriteString(x, end)
	return true
}
