package redfishtest

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// FaultKind is something that goes wrong.
type FaultKind string

// Faults of connections.
const (
	RefuseConnections FaultKind = "refuse connections" // nobody listens; does not count
	ResetConnections  FaultKind = "reset connections"  // new ones are reset before a byte
	SingleConnection  FaultKind = "single connection"  // new ones are reset while another is open
	ResetAt           FaultKind = "reset at"           // the connection is reset when Bytes of a body have come in
	StallAt           FaultKind = "stall at"           // from Bytes of a body on nothing is read, for Delay or until the connection ends
	Slow              FaultKind = "slow"               // answers take Delay longer
)

// Faults of answers. The request has no other effect.
const (
	Unauthorized  FaultKind = "unauthorized"   // 401, and the session is gone
	Unavailable   FaultKind = "unavailable"    // 503 with Retry-After: Delay, in whole seconds and at least 0
	NotJSON       FaultKind = "not JSON"       // 400 with a page in HTML
	EmptyError    FaultKind = "empty error"    // 400 without a body
	Redirect      FaultKind = "redirect"       // 308 to the same resource, with a slash at its end or without one
	RedirectAway  FaultKind = "redirect away"  // 308 to Location, on another host
	Oversized     FaultKind = "oversized"      // 200 with valid JSON of Bytes, or 64 MiB
	Deep          FaultKind = "deep"           // 200 with JSON of Bytes levels, or 100000
	SessionLimit  FaultKind = "session limit"  // logins end in SessionLimitExceeded
	ResetAnswered FaultKind = "reset answered" // the request is carried out, and the connection reset instead of an answer
)

// Faults of updates.
const (
	Busy                FaultKind = "busy"                   // a flash is in progress, whatever is asked
	BadSignature        FaultKind = "bad signature"          // UpdateSignatureValidationFailed
	FlashFails          FaultKind = "flash fails"            // MessageID, or FirmwareFlashFailed, when it writes
	PullFails           FaultKind = "pull fails"             // the service cannot reach the image
	NeverPulls          FaultKind = "never pulls"            // the service never asks for the image; for Delay, or for good
	Complete            FaultKind = "complete, unchanged"    // success, but the version stays
	TaskWarning         FaultKind = "task warning"           // the task ends as Completed with Warning and MessageID
	TaskLost            FaultKind = "task lost"              // tasks and monitors are 404
	SlowReset           FaultKind = "slow reset"             // a reset takes Delay
	NeverReturns        FaultKind = "never returns"          // a reset does not end until the fault is removed
	ReturnsWithNewCert  FaultKind = "new certificate"        // after a reset the service shows another certificate
	QueueItemFails      FaultKind = "queue item fails"       // a queue item ends in Exception
	QueueItemStaysStuck FaultKind = "queue item stays"       // a queue item that succeeded stays Pending, as [field] on iLO 7
	FirmwareVerifying   FaultKind = "verification scan"      // uploads and flashes are refused while firmware is being verified
	RepositoryAway      FaultKind = "repository away"        // UpdateRepositoryUnavailableDueToBMCReset
	QueueFull           FaultKind = "queue full"             // UpdateTaskQueueFull
	ForgetsStaged       FaultKind = "forgets what is staged" // an activation activates nothing
)

// Conditions hold while they are injected. They count how often they mattered.
const (
	TPM              FaultKind = "TPM"                // an update without the override flag is FWFlashTPMOverrideFlagRequired
	OneViewManaged   FaultKind = "managed by OneView" // there is the account _HPOneViewAdmin, which HPE OneView makes itself
	NoUpdateable     FaultKind = "no Updateable"      // inventory entries do not have the property
	PagedMembers     FaultKind = "paged members"      // collections come in pages of Bytes members, or 2, with Members@odata.nextLink
	StubMembers      FaultKind = "stub members"       // members of collections are links alone, whatever $expand says
	DuplicateMembers FaultKind = "duplicate members"  // collections name their first member twice
	BrokenMember     FaultKind = "broken member"      // the last member of each collection is 500
	ForgetsLocation  FaultKind = "no Location"        // answers have no Location header
)

// FaultKinds returns every kind of fault.
func FaultKinds() []FaultKind {
	return []FaultKind{
		RefuseConnections, ResetConnections, SingleConnection, ResetAt, StallAt, Slow,
		Unauthorized, Unavailable, NotJSON, EmptyError, Redirect, RedirectAway, Oversized, Deep, SessionLimit, ResetAnswered,
		Busy, BadSignature, FlashFails, PullFails, NeverPulls, Complete, TaskWarning, TaskLost, SlowReset, NeverReturns,
		ReturnsWithNewCert, QueueItemFails, QueueItemStaysStuck, FirmwareVerifying, RepositoryAway, QueueFull, ForgetsStaged,
		TPM, OneViewManaged, NoUpdateable, PagedMembers, StubMembers, DuplicateMembers, BrokenMember, ForgetsLocation,
	}
}

// Fault is a fault to inject.
type Fault struct {
	Kind FaultKind
	// Method and Path are of the requests that are meant, for faults of bodies and
	// answers: Path begins the path of the request, without regard to case. ""
	// means every one.
	Method, Path string
	Skip         int // how often all goes well before
	Times        int // how often it goes wrong; 0 means until Remove

	Bytes     int64
	Delay     time.Duration
	MessageID string // its last segment, as "FirmwareUpdateConflictError"
	Location  string
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
	})
}

// fits reports whether the fault is for a request, nil being none in particular.
func (i *Injected) fits(r *http.Request) bool {
	if r == nil {
		return true
	}
	if i.Method != "" && i.Method != r.Method {
		return false
	}
	return len(r.URL.Path) >= len(i.Path) && strings.EqualFold(r.URL.Path[:len(i.Path)], i.Path)
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
		return i
	}
	return nil
}

// answerFaults are those of disturb.
var answerFaults = []FaultKind{Unauthorized, Unavailable, NotJSON, EmptyError, Redirect, RedirectAway, Oversized, Deep}

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
