// Package stall ends a call during which no byte has moved for too long. Drivers share it:
// what a driver waits for differs, how it waits does not.
package stall

import (
	"sync"
	"time"
)

// Watch calls a function when nothing was heard of for too long. It is made at rest, and
// runs from the first Touch on. A nil Watch never calls anything. It is safe for concurrent
// use.
type Watch struct {
	mu      sync.Mutex
	limit   time.Duration
	timer   *time.Timer
	stopped bool
}

// New returns nil where there is no limit, which is one of 0 or below.
func New(limit time.Duration, end func()) *Watch {
	if limit <= 0 {
		return nil
	}
	w := &Watch{limit: limit, timer: time.AfterFunc(limit, end)}
	w.timer.Stop()
	return w
}

// Touch says that a wait begins, or that a byte moved.
func (w *Watch) Touch() { w.Reset(0) }

// Reset begins the wait anew, from now on with another limit if that is not 0.
func (w *Watch) Reset(limit time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	if limit > 0 {
		w.limit = limit
	}
	w.timer.Reset(w.limit)
}

// Pause says that nobody waits.
func (w *Watch) Pause() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

// Stop ends the watch for good.
func (w *Watch) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
