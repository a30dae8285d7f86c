package redfishtest

import (
	"context"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Reset resets the service as its own action does: connections break, nobody
// listens, sessions end, and firmware that waited for it is active afterwards. It
// returns when the service is back, or when ctx ends: the reset goes on.
func (s *Server) Reset(ctx context.Context) error {
	done := make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return context.Canceled
	}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		defer close(done)
		s.reset(s.ctx)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resetSoon resets the service once it has answered. The caller is a handler.
func (s *Server) resetSoon() {
	s.mu.Lock()
	s.pending++
	s.mu.Unlock()
	s.wg.Go(func() {
		if s.pause(s.ctx, 1) == nil {
			s.reset(s.ctx)
		}
		s.mu.Lock()
		s.pending--
		s.notify()
		s.mu.Unlock()
	})
}

// reset is gone for a while. What it was writing then is not written.
func (s *Server) reset(ctx context.Context) {
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return
	}
	s.down = true
	s.resets++
	if s.flash.stop != nil {
		s.flash.stop()
	}
	clear(s.sessions)
	s.dropSubscribers()
	s.notify()
	s.mu.Unlock()
	_ = s.adjust()
	s.CloseConnections()
	s.log("reset")

	d := 4 * s.cfg.Pace
	if f := s.fault(SlowReset, nil); f != nil {
		d = f.Delay
	}
	if s.sleep(ctx, d) != nil {
		return
	}
	if f := s.fault(NeverReturns, nil); f != nil {
		if !f.lasts(ctx, never) {
			return
		}
	}
	if s.fault(ReturnsWithNewCert, nil) != nil {
		_ = s.NewCertificate()
	}
	s.applyLater(ctx)
	s.mu.Lock()
	s.activate(transport.ActivationReset)
	s.flash.state, s.flash.percent, s.flash.message, s.flash.etag = "Idle", 0, "", ""
	s.flash.needs, s.lag = "", nil
	if s.faultLocked(TaskNumbersReused, nil) != nil {
		s.tasks, s.taskNo = nil, 0
	} else if s.cfg.Profile.ilo() > 0 {
		s.tasks = nil
	}
	if s.booted = s.booted.Add(time.Second); s.booted.Before(s.now()) {
		s.booted = s.now().Truncate(time.Second)
	}
	s.repo.dropPartial()
	s.down = false
	s.notify()
	s.mu.Unlock()
	if err := s.adjust(); err != nil {
		s.log("the service cannot listen again", "err", err)
	}
	s.mu.Lock()
	s.notify()
	s.mu.Unlock()
	s.log("back")
}
