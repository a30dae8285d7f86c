package ssh

import (
	"context"
	"sync"
	"time"
)

// stall ends a call when the target has moved no byte for too long. It runs only
// while a read from or a write to the target is waiting. A nil stall never ends
// anything. It is safe for concurrent use.
type stall struct {
	mu      sync.Mutex
	limit   time.Duration
	timer   *time.Timer
	stopped bool
}

// newStall returns nil where there is no limit.
func newStall(limit time.Duration, cancel context.CancelCauseFunc) *stall {
	if limit <= 0 {
		return nil
	}
	s := &stall{limit: limit}
	s.timer = time.AfterFunc(limit, func() { cancel(errStalled) })
	s.timer.Stop()
	return s
}

// touch says that a wait for the target begins, or that a byte moved.
func (s *stall) touch() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.timer.Reset(s.limit)
	}
}

// pause says that nobody waits for the target.
func (s *stall) pause() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
}

// stop ends the watch for good.
func (s *stall) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.timer.Stop()
}
