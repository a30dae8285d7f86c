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

// bounds are the spans of a role in the three parts of its policy.
type bounds struct {
	prefer []span // in Prefer
	near   []span // in First to Last
	open   []span // above Last, where the role is a guest
}

// with returns bounds that begin with one more span everywhere.
func (b bounds) with(s span) bounds {
	return bounds{
		prefer: append([]span{s}, b.prefer...),
		near:   append([]span{s}, b.near...),
		open:   append([]span{s}, b.open...),
	}
}

// boundsFor works out what a role leaves alone.
func boundsFor(r Role, policies map[Role]Policy, exclude, reserved []Range) bounds {
	var b bounds
	for _, x := range exclude {
		b.prefer = append(b.prefer, span{Range: x, reason: Excluded})
	}
	b.near = append(b.near, b.prefer...)
	b.open = append(b.open, b.prefer...)
	own := policies[r]
	var ranges []span
	for other := LocalIPC; other <= lastRole; other++ {
		if other == r {
			continue
		}
		p := policies[other]
		for _, port := range p.wants() {
			s := span{Range{port, port}, OtherRole, other}
			if p.fixed() {
				b.prefer = append(b.prefer, s)
			}
			b.near = append(b.near, s)
			b.open = append(b.open, s)
		}
		if p.First != 0 && other != Dynamic {
			ranges = append(ranges, span{Range{p.First, p.Last}, OtherRole, other})
		}
	}
	b.open = append(b.open, ranges...)
	if r == Dynamic { // its range spans nearly everything: a guest there too
		b.near = append(b.near, ranges...)
	}
	for _, x := range reserved {
		s := span{Range: x, reason: SystemReserved}
		if !x.covers(Range{own.First, own.Last}) {
			b.near = append(b.near, s)
		}
		b.open = append(b.open, s)
	}
	return b
}

// plan is what one allocation may try.
type plan struct {
	role   Role
	policy Policy
	bounds
	preferOnly bool
	asked      bool // the policy is Options.Port
}

// candidates yields ports in the order of the plan. Each is claimed in the
// allocator's bitmap before it is yielded; the loop body keeps it or gives it
// back with release. The bitmap is consulted as the loop goes, so that ports
// given back in the meantime are seen. What the plan makes it pass over is added
// to passed, except in a range in random order, where nothing comes before.
func (a *Allocator) candidates(pl plan, passed *[]Skip) iter.Seq[uint16] {
	p := pl.policy
	return func(yield func(uint16) bool) {
		for _, port := range p.Prefer {
			if !a.upwards(int(port), int(port), pl.role, pl.prefer, passed, yield) {
				return
			}
		}
		if p.First == 0 || pl.preferOnly {
			return
		}
		first, last := int(p.First), int(p.Last)
		switch {
		case p.Random:
			if !a.shuffled(pl, yield) {
				return
			}
		case p.RandomStart:
			start := first + random().IntN(last-first+1)
			if !a.upwards(start, last, pl.role, pl.near, passed, yield) ||
				!a.upwards(first, start-1, pl.role, pl.near, passed, yield) {
				return
			}
		default:
			if !a.upwards(first, last, pl.role, pl.near, passed, yield) {
				return
			}
		}
		if p.Overflow {
			a.upwards(last+1, maxPort, pl.role, pl.open, passed, yield)
		}
	}
}

func (a *Allocator) upwards(first, last int, r Role, skip []span, passed *[]Skip, yield func(uint16) bool) bool {
	for port := first; ; port++ {
		var ok bool
		if port, ok = a.claimNext(port, last, r, skip, passed); !ok {
			return true
		}
		if !yield(uint16(port)) {
			return false
		}
	}
}

func (a *Allocator) shuffled(pl plan, yield func(uint16) bool) bool {
	var tried bitmap
	for _, s := range pl.near {
		tried.setRange(s.Range)
	}
	r, rnd := Range{pl.policy.First, pl.policy.Last}, random()
	for {
		port, ok := a.claimAny(r, pl.role, &tried, rnd)
		if !ok {
			return true
		}
		tried.set(port)
		if !yield(port) {
			return false
		}
	}
}

// random draws from the system's generator: a port that a scanner must not
// foresee cannot come from a seeded one.
func random() *mathrand.Rand { return mathrand.New(secure{}) }

type secure struct{}

func (secure) Uint64() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, says its documentation
	return binary.NativeEndian.Uint64(b[:])
}

// claim takes one port for the role if this allocator does not hold it.
func (a *Allocator) claim(port uint16, r Role) bool {
	_, ok := a.claimNext(int(port), int(port), r, nil, nil)
	return ok
}

// claimNext takes the first port from port to last that is neither held by this
// allocator nor in skip. It adds the parts of skip in between to passed.
func (a *Allocator) claimNext(port, last int, r Role, skip []span, passed *[]Skip) (int, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		free, ok := a.held.nextClear(port, last)
		if !ok {
			return 0, false
		}
		s, blocked := within(skip, uint16(free))
		if !blocked {
			a.take(uint16(free), r)
			return free, true
		}
		to := min(int(s.Last), last)
		*passed = appendSkip(*passed, Skip{Range: Range{uint16(free), uint16(to)}, Reason: s.reason, Role: s.role})
		port = to + 1
	}
}

// luckyDraws is how many single draws come before the free ports are counted:
// in a wide range one of the first is nearly always free.
const luckyDraws = 4

// claimAny takes a random port of the range that is neither held by this
// allocator nor in tried.
func (a *Allocator) claimAny(from Range, r Role, tried *bitmap, rnd *mathrand.Rand) (uint16, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range luckyDraws {
		port := from.First + uint16(rnd.IntN(int(from.Last-from.First)+1))
		if !a.held.has(port) && !tried.has(port) {
			a.take(port, r)
			return port, true
		}
	}
	port, ok := a.held.anyClear(tried, from, rnd.IntN)
	if ok {
		a.take(port, r)
	}
	return port, ok
}

// take marks a port as held. The caller has the lock.
func (a *Allocator) take(port uint16, r Role) {
	a.held.set(port)
	a.roles[port] = r
}

func (a *Allocator) release(port uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held.clear(port)
	delete(a.roles, port)
}
