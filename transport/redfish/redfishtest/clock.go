package redfishtest

import (
	"context"
	"time"
)

// Advance moves the service's clock forward by d. Who waits for a time that has
// come then waits no longer: the steps of an update and of a reset (Config.Pace),
// the Delay of a fault, a queue item that may start now. Only those who wait
// already notice; [Hold] stops an update where a test can look at it.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	s.offset += d
	close(s.advanced)
	s.advanced = make(chan struct{})
	s.notify()
	s.mu.Unlock()
	s.kick()
}

// now is the time on the service's clock. s.mu is held.
func (s *Server) now() time.Time { return time.Now().Add(s.offset) }

// sleep waits until d has passed on the service's clock, or until the server
// closes.
func (s *Server) sleep(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	until := s.now().Add(d)
	s.mu.Unlock()
	return s.sleepUntil(ctx, until)
}

func (s *Server) sleepUntil(ctx context.Context, until time.Time) error {
	_, err := s.wait(ctx, until, nil)
	return err
}

// wait waits for a time, or for the end of end, and reports whether that came.
func (s *Server) wait(ctx context.Context, until time.Time, end <-chan struct{}) (ended bool, err error) {
	for {
		s.mu.Lock()
		left, advanced := until.Sub(s.now()), s.advanced
		s.mu.Unlock()
		t := time.NewTimer(left)
		select {
		case <-t.C:
			return false, ctx.Err()
		case <-advanced:
			t.Stop()
		case <-end:
			t.Stop()
			return true, nil
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		}
	}
}

// never is longer than any test.
const never = 100 * 365 * 24 * time.Hour

// lasts waits until the fault is removed, and reports whether that came before d
// had passed and ctx ended.
func (i *Injected) lasts(ctx context.Context, d time.Duration) bool {
	i.s.mu.Lock()
	until := i.s.now().Add(d)
	i.s.mu.Unlock()
	removed, _ := i.s.wait(ctx, until, i.removed)
	return removed
}

// pause waits for a number of steps, or until the server closes.
func (s *Server) pause(ctx context.Context, steps float64) error {
	return s.sleep(ctx, time.Duration(steps*float64(s.cfg.Pace)))
}

// step is a number of steps of an update, longer where a fault holds it.
func (s *Server) step(ctx context.Context, steps float64) error {
	if err := s.hold(ctx); err != nil {
		return err
	}
	return s.pause(ctx, steps)
}

// hold waits while a fault holds the state that the update is in.
func (s *Server) hold(ctx context.Context) error {
	for {
		s.mu.Lock()
		var f *Injected
		for _, i := range s.faults {
			if i.Kind == Hold && (i.State == "" || i.State == s.flash.state) && (i.Times == 0 || i.hits < i.Times) {
				if i.seen++; i.seen > i.Skip {
					i.hits++
					f = i
					break
				}
			}
		}
		s.notify()
		s.mu.Unlock()
		if f == nil {
			return ctx.Err()
		}
		select {
		case <-f.removed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
