package firewall

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// heard hears a signal.
func (z *zones) heard(s *dbus.Signal) {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch s.Name {
	case firewalldZone + "RichRuleAdded":
		return
	case firewalldZone + "RichRuleRemoved":
		var t zoneText
		if dbus.Store(s.Body, &t.zone, &t.text) == nil && !z.ours[t] {
			return
		}
	}
	z.check = true
	z.retry = time.Time{}
	z.pulse()
}

// repair renews, and puts back what somebody took away.
func (z *zones) repair(ctx context.Context, active bool) error {
	if !active {
		z.forget()
		return nil
	}
	links, err := interfaces()
	if err != nil {
		z.again()
		return err
	}
	due := z.next()
	z.mu.Lock()
	settle := z.check && !time.Now().Before(z.retry) || z.links != fmt.Sprint(links)
	z.mu.Unlock()
	renew := !due.IsZero() && !time.Now().Before(due)
	if !settle && !renew {
		return nil
	}
	if err := z.settle(ctx); err != nil {
		return err
	}
	target := make(map[placed]bool, len(z.rules)) // now they are the same
	for p := range z.rules {
		target[p] = true
	}
	// Those that are nearly due are renewed along with the others.
	return z.renew(ctx, target, func(r *zoneRule) time.Time { return r.due.Add(-z.ttl / 20) })
}

// next is when there is something to do, or the zero time.
func (z *zones) next() time.Time {
	z.mu.Lock()
	defer z.mu.Unlock()
	var next time.Time
	for _, r := range z.rules {
		if next.IsZero() || r.due.Before(next) {
			next = r.due
		}
	}
	if z.check && (next.IsZero() || z.retry.Before(next)) {
		return z.retry
	}
	if !next.IsZero() && next.Before(z.retry) {
		return z.retry
	}
	return next
}

// wait returns when there is something to do, or with the context.
func (z *zones) wait(ctx context.Context) {
	for ctx.Err() == nil {
		z.mu.Lock()
		now := z.check && z.retry.IsZero()
		var lost <-chan struct{}
		if z.bus != nil && !z.lost {
			lost = z.bus.conn.Context().Done()
		}
		z.mu.Unlock()
		if now {
			return
		}
		var due <-chan time.Time
		var timer *time.Timer
		if next := z.next(); !next.IsZero() {
			timer = time.NewTimer(time.Until(next))
			due = timer.C
		}
		over := false
		select {
		case <-ctx.Done():
		case <-due:
			over = true
		case <-lost:
			z.mu.Lock()
			z.lost, z.check, z.retry = true, true, time.Time{}
			z.mu.Unlock()
		case <-z.wake:
		}
		if timer != nil {
			timer.Stop()
		}
		if over {
			return
		}
	}
}

// again has what failed done again, after a while.
func (z *zones) again() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.check = true
	z.retry = time.Now().Add(min(5*time.Second, z.ttl/6))
}

// pulse makes wait look again.
func (z *zones) pulse() {
	select {
	case z.wake <- struct{}{}:
	default:
	}
}
