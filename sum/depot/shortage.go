package depot

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// scarce reports a lack of something that others will give back, such as file
// descriptors.
func scarce(err error) bool {
	return err != nil && slices.ContainsFunc(shortages(), func(s error) bool { return errors.Is(err, s) })
}

// shortage is such an error of Accept: to net/http, which knows some of them only
// on some systems, a reason to wait, and not to end.
type shortage struct{ error }

func (s shortage) Unwrap() error { return s.error }
func (shortage) Timeout() bool   { return false }
func (shortage) Temporary() bool { return true }

// A request waits so long for a file descriptor, and looks so often.
const (
	openTime = 10 * time.Second
	openTick = 20 * time.Millisecond
)

// starved counts the requests that wait for a file descriptor, and the payloads
// that are open.
type starved struct{ waiting, open atomic.Int32 }

// wait keeps new connections from taking what requests wait for, which would only
// make them more.
func (s *starved) wait(ctx context.Context) {
	for s.waiting.Load() > 0 && pause(ctx) {
	}
}

// pause waits for a tick, or for the end of ctx.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(openTick)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// open opens a payload; the caller counts it out of d.starved.open. Where a shortage
// prevents that it closes idle connections and goes on trying for a while.
func (d *Depot) open(ctx context.Context, f openFunc) (io.ReadSeekCloser, error) {
	body, err := f(ctx)
	if scarce(err) {
		body, err = d.openLater(ctx, f, err)
	}
	if err == nil {
		d.starved.open.Add(1)
	}
	return body, err
}

func (d *Depot) openLater(ctx context.Context, f openFunc, err error) (body io.ReadSeekCloser, _ error) {
	// Where no transfer is under way whose end the requests could wait for, they
	// have the descriptors themselves: every second one gives its own up.
	yields := d.starved.waiting.Add(1)%2 == 0
	defer d.starved.waiting.Add(-1)
	for begun := time.Now(); scarce(err) && time.Since(begun) < openTime; {
		d.conns.makeRoom()
		if !pause(ctx) {
			break
		}
		body, err = f(ctx)
		if yields && d.starved.open.Load() == 0 {
			break
		}
	}
	return body, err
}
