package portalloc

import (
	"crypto/rand"
	"encoding/binary"
	"iter"
	mathrand "math/rand/v2"
)

// span is a run of ports that a role must leave alone, and why.
type span struct {
	Range
	reason Reason
	role   Role
}

func within(spans []span, port uint16) (span, bool) {
	for _, s := range spans {
		if s.contains(port) {
			return s, true
		}
	}
	return span{}, false
}

// randomDraws is how many single draws a random policy makes in a wide range
// before it shuffles all that is left. With half of all ports taken, one
// allocation in 2^64 gets that far.
const (
	randomDraws = 64
	wideRange   = 1024
)

// plan is what one allocation may try.
type plan struct {
	role       Role
	policy     Policy
	near       []span // not in Prefer nor in First to Last
	open       []span // not above Last
	preferOnly bool
}

// candidates yields ports in the order of the plan. Each is claimed in the
// allocator's bitmap before it is yielded; the loop body keeps it or gives it
// back with release. The bitmap is consulted as the loop goes, so that ports
// given back in the meantime are seen.
func (a *Allocator) candidates(pl plan) iter.Seq[uint16] {
	p := pl.policy
	return func(yield func(uint16) bool) {
		for _, port := range p.Prefer {
			if a.claim(port, pl.role, pl.near) && !yield(port) {
				return
			}
		}
		if p.First == 0 || pl.preferOnly {
			return
		}
		switch {
		case p.Random:
			if !a.shuffled(pl, yield) {
				return
			}
		default:
			if !a.upwards(int(p.First), int(p.Last), pl.role, pl.near, yield) {
				return
			}
		}
		if p.Overflow {
			a.upwards(int(p.Last)+1, maxPort, pl.role, pl.open, yield)
		}
	}
}

func (a *Allocator) upwards(first, last int, r Role, skip []span, yield func(uint16) bool) bool {
	for port := first; ; port++ {
		var ok bool
		if port, ok = a.claimNext(port, last, r, skip); !ok {
			return true
		}
		if !yield(uint16(port)) {
			return false
		}
	}
}

func (a *Allocator) shuffled(pl plan, yield func(uint16) bool) bool {
	random := mathrand.New(secure{})
	first, n := int(pl.policy.First), int(pl.policy.Last)-int(pl.policy.First)+1
	var tried bitmap
	if n > wideRange {
		for range randomDraws {
			port := uint16(first + random.IntN(n))
			if tried.has(port) || !a.claim(port, pl.role, pl.near) {
				continue
			}
			tried.set(port)
			if !yield(port) {
				return false
			}
		}
	}
	for _, i := range random.Perm(n) {
		port := uint16(first + i)
		if !tried.has(port) && a.claim(port, pl.role, pl.near) && !yield(port) {
			return false
		}
	}
	return true
}

// secure draws from the system's generator: a port that a scanner must not
// foresee cannot come from a seeded one.
type secure struct{}

func (secure) Uint64() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, says its documentation
	return binary.NativeEndian.Uint64(b[:])
}

// claim takes one port for the role if it is neither held nor in skip.
func (a *Allocator) claim(port uint16, r Role, skip []span) bool {
	_, ok := a.claimNext(int(port), int(port), r, skip)
	return ok
}

// claimNext takes the first port from port to last that is neither held by this
// allocator nor in skip.
func (a *Allocator) claimNext(port, last int, r Role, skip []span) (int, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		free, ok := a.held.nextClear(port, last)
		if !ok {
			return 0, false
		}
		s, blocked := within(skip, uint16(free))
		if !blocked {
			a.held.set(uint16(free))
			a.roles[uint16(free)] = r
			return free, true
		}
		port = int(s.Last) + 1
	}
}

func (a *Allocator) release(port uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held.clear(port)
	delete(a.roles, port)
}
