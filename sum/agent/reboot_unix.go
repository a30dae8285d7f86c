//go:build !windows

package agent

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// restartDelay is shutdownDelay.
func restartDelay(delay time.Duration) time.Duration { return shutdownDelay(delay) }

// canRestart returns why this host cannot be restarted, or nil.
func (s *service) canRestart() error {
	if _, err := lookPath("shutdown", s.search); err != nil {
		return fault(channel.CodeUnsupported, "there is no program shutdown on this host")
	}
	return nil
}

// restartHost asks shutdown(8) to restart the host. taken is false where it surely did
// not take it.
func (s *service) restartHost(ctx context.Context, message string, delay time.Duration) (taken bool, err error) {
	prog, err := lookPath("shutdown", s.search)
	if err != nil {
		return false, fault(channel.CodeUnsupported, "there is no program shutdown on this host")
	}
	out, exit, err := runLimited(ctx, prog, ShutdownArgs(message, delay), shutdownTimeout, shutdownMaxOutput)
	switch {
	case err != nil:
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled), err
	case exit != 0 && os.Geteuid() != 0:
		return false, fault(channel.CodeRefused, "user id %d may not restart this host; shutdown ended with status %d: %s", os.Geteuid(), exit, tail(out.head, 512))
	case exit != 0:
		return false, fault(channel.CodeInternal, "shutdown ended with status %d: %s", exit, tail(out.head, 512))
	}
	return true, nil
}
