package ssh

import (
	"context"
	"time"

	stalls "github.com/roundsman-go/roundsman/transport/internal/stall"
)

// stall ends a call when the target has moved no byte for too long. It runs only
// while a read from or a write to the target is waiting. A nil stall never ends
// anything. It is safe for concurrent use.
type stall stalls.Watch

// newStall returns nil where there is no limit.
func newStall(limit time.Duration, cancel context.CancelCauseFunc) *stall {
	return (*stall)(stalls.New(limit, func() { cancel(errStalled) }))
}

// touch says that a wait for the target begins, or that a byte moved.
func (s *stall) touch() { (*stalls.Watch)(s).Touch() }

// pause says that nobody waits for the target.
func (s *stall) pause() { (*stalls.Watch)(s).Pause() }

// stop ends the watch for good.
func (s *stall) stop() { (*stalls.Watch)(s).Stop() }
