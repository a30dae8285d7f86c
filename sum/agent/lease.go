package agent

import (
	"context"
	"os"
	"sync"
	"time"
)

// lease is the time that an agent stays without hearing from its manager. The
// clock is the monotonic one of package time.
type lease struct {
	mu     sync.Mutex
	length time.Duration
	heard  time.Time
}

func newLease(length time.Duration) *lease {
	return &lease{length: length, heard: time.Now()}
}

// renew begins the lease anew.
func (l *lease) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
}

// setLength changes the length; 0 leaves it. It returns what is in force.
func (l *lease) setLength(d time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d > 0 {
		l.length = d
	}
	return l.length
}

// left is how long the lease still runs.
func (l *lease) left() (left, length time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.heard.Add(l.length)), l.length
}

func (l *lease) lastHeard() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// noteEvery is how often it is noted that a lease of this length is renewed.
func noteEvery(length time.Duration) time.Duration { return max(length/4, 10*time.Second) }

// pollOf is how often to look whether something keeps a lease of this length.
func pollOf(length time.Duration) time.Duration {
	return min(max(length/10, 50*time.Millisecond), 2*time.Second)
}

// wait returns nil when the lease has run out, and the context's error when that
// ends before. While keep is true the lease does not run. changed, if not nil, is
// called when the lease has got another length, and every now and then while it is
// renewed: see noteEvery.
func (l *lease) wait(ctx context.Context, keep func() bool, changed func(length time.Duration)) error {
	_, last := l.left()
	noted := l.lastHeard()
	for {
		if keep() {
			l.renew()
		}
		left, length := l.left()
		if left <= 0 {
			return nil
		}
		if heard := l.lastHeard(); changed != nil && (length != last || heard.Sub(noted) >= noteEvery(length)) {
			changed(length)
			noted = heard
		}
		last = length
		t := time.NewTimer(min(left, pollOf(length)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// leaseNote is the file by which the shims of a dead agent know how long to wait:
// that long from the end of their job, as the agent itself would have. When it was last
// written tells others when the lease was last renewed: see home.reconcile.
type leaseNote struct {
	Seconds float64 `json:"seconds"`
}

func (h home) noteLease(length time.Duration) error {
	return writeJSON(h.leasePath(), leaseNote{Seconds: length.Seconds()})
}

// touchLease notes that the lease was renewed. It needs no room on the disk.
func (h home) touchLease() {
	now := time.Now()
	_ = os.Chtimes(h.leasePath(), now, now)
}

// noteInForce is the length of a dead agent's lease.
func (h home) noteInForce() time.Duration {
	var n leaseNote
	if err := readJSON(h.leasePath(), &n); err != nil || n.Seconds <= 0 {
		return DefaultLease
	}
	return time.Duration(n.Seconds * float64(time.Second))
}
