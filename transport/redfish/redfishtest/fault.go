package redfishtest

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault is a fault to inject.
type Fault struct {
	Kind FaultKind
	// Method and Path are of the requests that are meant, for faults of bodies and
	// answers: Path begins the path of the request, without regard to case. ""
	// means every one. One with a question mark is compared with path and query.
	Method, Path string
	Skip         int // how often all goes well before
	Times        int // how often it goes wrong; 0 means until Remove

	// What the kind says of them; the zero value is what the kind says of that.
	Bytes     int64
	Delay     time.Duration // on the service's clock, see Server.Advance
	Status    int           // of HTTP
	MessageID string        // its last segment, as "FirmwareUpdateConflictError"
	Location  string
	State     string // as Server.State tells it
}

// Injected is a fault that was injected. It is safe for concurrent use.
type Injected struct {
	Fault
	s       *Server
	seen    int
	hits    int
	removed chan struct{}
	once    sync.Once
}

// Inject makes a fault happen from now on. Of several that fit the one that was
// injected first happens.
func (s *Server) Inject(f Fault) *Injected {
	i := &Injected{Fault: f, s: s, removed: make(chan struct{})}
	s.mu.Lock()
	s.faults = append(s.faults, i)
	s.mu.Unlock()
	if f.Kind == RefuseConnections {
		_ = s.adjust()
	}
	return i
}

// Hits returns how often the fault has happened.
func (i *Injected) Hits() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.hits
}

// Remove ends the fault.
func (i *Injected) Remove() {
	i.once.Do(func() {
		i.s.mu.Lock()
		for n, other := range i.s.faults {
			if other == i {
				i.s.faults = append(i.s.faults[:n:n], i.s.faults[n+1:]...)
				break
			}
		}
		i.s.mu.Unlock()
		close(i.removed)
		if i.Kind == RefuseConnections {
			_ = i.s.adjust()
		}
		i.s.mu.Lock()
		i.s.notify()
		i.s.mu.Unlock()
	})
}

// gone reports whether the fault was removed.
func (i *Injected) gone() bool {
	select {
	case <-i.removed:
		return true
	default:
		return false
	}
}

// or returns the status of a fault, or another one if it has none.
func (f Fault) or(status int) int {
	if f.Status == 0 {
		return status
	}
	return f.Status
}

// fits reports whether the fault is for a request, nil being none in particular.
func (i *Injected) fits(r *http.Request) bool {
	if r == nil {
		return true
	}
	if i.Method != "" && i.Method != r.Method {
		return false
	}
	path := r.URL.Path
	if strings.Contains(i.Path, "?") {
		path = r.URL.RequestURI()
	}
	return len(path) >= len(i.Path) && strings.EqualFold(path[:len(i.Path)], i.Path)
}

// fault returns the fault of a kind that happens now, or nil, and counts it.
func (s *Server) fault(kind FaultKind, r *http.Request) *Injected {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faultLocked(kind, r)
}

func (s *Server) faultLocked(kind FaultKind, r *http.Request) *Injected {
	for _, i := range s.faults {
		if i.Kind != kind || !i.fits(r) || i.Times > 0 && i.hits >= i.Times {
			continue
		}
		if i.seen++; i.seen <= i.Skip {
			continue
		}
		i.hits++
		s.notify()
		return i
	}
	return nil
}

// answerFaults are those of disturb that answer to the whole of a request.
var answerFaults = []FaultKind{Unauthorized, Transient401, Unavailable, NotJSON, EmptyError, Refuses, Redirect, RedirectAway, Oversized, Deep}

// peek reports whether a fault may happen to a request, without counting it.
func (s *Server) peek(kind FaultKind, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.faults {
		if i.Kind == kind && i.fits(r) && (i.Times == 0 || i.hits < i.Times) && i.seen >= i.Skip {
			return true
		}
	}
	return false
}

// active reports whether a fault of a kind is there, without counting it. s.mu is
// held.
func (s *Server) active(kind FaultKind) bool {
	for _, i := range s.faults {
		if i.Kind == kind && (i.Times == 0 || i.hits < i.Times) {
			return true
		}
	}
	return false
}
