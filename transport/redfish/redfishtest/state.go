package redfishtest

import (
	"time"
)

// State returns what the service is doing to firmware, whatever it tells clients:
// Idle, Uploading, Verifying, Writing (into the repository), Updating (flashing),
// Complete or Error. The last two stay until the next update or reset.
func (s *Server) State() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flash.state
}

// LeaveState makes the update service say what an earlier update left: a state as
// [Server.State] returns it, and the last segment of a MessageId, or "". It is
// without effect while an update is at work.
func (s *Server) LeaveState(state, messageID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.flash.busy {
		s.flash = flashState{state: state, message: messageID}
		s.notify()
	}
}

// lagging is what the update service says instead of what it does; see StateLags.
type lagging struct {
	fault *Injected
	flash flashState
	flags string
	until time.Time // zero: until the fault is removed
}

// shown is the state and the flags that clients see. s.mu is held.
func (s *Server) shown() (flashState, string) {
	l := s.lag
	if l != nil && (l.fault.gone() || !l.until.IsZero() && !s.now().Before(l.until)) {
		s.lag, l = nil, nil
	}
	if l != nil {
		return l.flash, l.flags
	}
	return s.flash, s.flags()
}

// mark is UploadCurrentEtag as clients see it, and whether they do. s.mu is held.
func (s *Server) mark(f flashState) (tag string, ok bool) {
	if s.faultLocked(MarkHidden, nil) != nil {
		return "", false
	}
	atWork := f.state != "Idle" && f.state != "Complete" && f.state != "Error"
	if !atWork && f.etag != "" && s.faultLocked(MarkCleared, nil) != nil {
		return "", true
	}
	return f.etag, true
}

// listed is the version of an entry that the inventory lists. s.mu is held.
func (s *Server) listed(f Firmware) string {
	if f.Staged != "" && s.faultLocked(ListsAtOnce, nil) != nil {
		return f.Staged
	}
	return f.Version
}

// install makes a version the one that runs. s.mu is held.
func (s *Server) install(f *Firmware, version string) {
	f.Version, f.Staged = version, ""
	if s.faultLocked(RenamesEntry, nil) != nil {
		f.ID += "-" + version
	}
}
