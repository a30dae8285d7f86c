package transporttest

import (
	"context"
	"errors"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// An Effect is what a [Fault] does.
type Effect int

// The effects.
const (
	// Fail makes the call fail with Fault.Err and leaves the connection as it is.
	Fail Effect = iota
	// Cut breaks the connection: the request does not arrive.
	Cut
	// LoseReply lets the target do what it was asked to and breaks the connection
	// before the answer arrives.
	LoseReply
	// Stall makes the target silent until the fault is released.
	Stall
	// Reboot makes the target reboot, as RebootNow does.
	Reboot
)

// A Fault is something that goes wrong. To be refused is to Fail a "dial":
// with transport.ErrUnreachable (nobody there), ErrAuth, ErrTrust or ErrBusy.
type Fault struct {
	// Op is the call that it strikes, as the journal names it; "" means every
	// call except Close.
	Op string
	// Skip is how many matching calls pass unharmed first.
	Skip int
	// After is how many bytes of a transfer ("put", "get", "update.upload") pass
	// first; 0 means that it strikes before the call does anything.
	After int64
	// Times is how often it strikes; 0 means once, -1 always.
	Times int
	Do    Effect
	// Err is what Fail fails with: a class of package transport, or a whole
	// *transport.Error. nil means transport.ErrBusy.
	Err error
}

// Injected is a fault that is in place.
type Injected struct {
	t     *Target
	fault Fault

	hit      chan struct{} // closed when it strikes for the first time
	released chan struct{}
	once     sync.Once

	skip, hits int // guarded by t.f.mu
}

// Inject puts a fault in place. Faults strike in the order of injection, one at
// a time.
func (t *Target) Inject(fault Fault) *Injected {
	i := &Injected{t: t, fault: fault, skip: fault.Skip, hit: make(chan struct{}), released: make(chan struct{})}
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.faults = append(t.faults, i)
	return i
}

// Hit is closed when the fault strikes for the first time.
func (i *Injected) Hit() <-chan struct{} { return i.hit }

// Hits returns how often the fault struck.
func (i *Injected) Hits() int {
	i.t.f.mu.Lock()
	defer i.t.f.mu.Unlock()
	return i.hits
}

// Release takes the fault away and lets the calls that it stalls go on.
func (i *Injected) Release() { i.once.Do(func() { close(i.released) }) }

// spent reports whether the fault strikes no more; t.f.mu is held.
func (i *Injected) spent() bool {
	select {
	case <-i.released:
		return true
	default:
	}
	return i.fault.Times >= 0 && i.hits >= max(1, i.fault.Times)
}

// arm returns the fault that the coming call is to suffer, if any.
func (t *Target) arm(op string) *Injected {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	for _, i := range t.faults {
		if (i.fault.Op != "" && i.fault.Op != op) || i.spent() {
			continue
		}
		if i.skip > 0 {
			i.skip--
			continue
		}
		return i
	}
	return nil
}

// strike has the fault happen to a call and returns the error of the call, or
// nil if it goes on.
func (i *Injected) strike(ctx context.Context, k *call) error {
	i.t.f.mu.Lock()
	if i.spent() { // another call was faster
		i.t.f.mu.Unlock()
		return nil
	}
	i.hits++
	if i.hits == 1 {
		close(i.hit)
	}
	i.t.f.mu.Unlock()
	c := k.conn
	switch i.fault.Do {
	case Cut:
		c.lose()
		return c.fail(k.op, k.path, transport.ErrConnLost, nil)
	case LoseReply:
		k.loseReply = true
		return nil
	case Stall:
		return c.wait(ctx, k.op, k.path, i.released)
	case Reboot:
		c.t.RebootNow(0)
		c.lose()
		return c.fail(k.op, k.path, transport.ErrConnLost, errors.New("the target is rebooting"))
	default:
		err := i.fault.Err
		if err == nil {
			err = transport.ErrBusy
		}
		var te *transport.Error
		if errors.As(err, &te) {
			return err
		}
		return c.fail(k.op, k.path, err, nil)
	}
}
