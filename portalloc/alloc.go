package portalloc

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Config configures an [Allocator]. The zero Config has the documented ports of
// the current generation.
type Config struct {
	// Generation chooses the default policies.
	Generation Generation

	// Policies replaces the default of each role it holds; a zero Policy turns
	// the role off. To change the three settings of SUM:
	//
	//	Policies: map[portalloc.Role]portalloc.Policy{
	//		portalloc.Port:    portalloc.Fixed(8080),
	//		portalloc.SSLPort: portalloc.Fixed(8443),
	//		portalloc.FTP:     portalloc.Fixed(2121),
	//	}
	//
	// A port of a role that has no range, as Port and SSLPort, is given to no
	// other role. For a random start of the classic ranges:
	//
	//	portalloc.ManagerToTarget: {First: 60000, Last: 60007, Overflow: true, RandomStart: true},
	Policies map[Role]Policy

	// Exclude names ports that no role may have, for example those of services
	// that may start later and that Dynamic must not be in the way of.
	Exclude []Range
}

// Allocator hands out listeners by role. It is safe for concurrent use; make it
// with [New], do not copy it, and close it.
//
// It keeps every lease until the lease is closed: the garbage collector closes a
// net.Listener that nothing refers to, and the port would be lost without a
// sound. So the program has to keep the Allocator, and nothing else.
type Allocator struct {
	policies map[Role]Policy
	bounds   map[Role]bounds

	// turn is held by a call that allocates listeners, so that "the first free
	// port" means what it says among the goroutines of this program, and so that
	// a pair of ports is taken in one step.
	turn chan struct{}

	ended   context.Context // ends when Close begins
	end     context.CancelFunc
	drained chan struct{} // closed when Close has begun and no call is left

	// listen is the function of that name but in tests of its failures.
	listen func(ctx context.Context, network, address string) (net.Listener, error)

	// holderTime bounds the search for the programs that hold ports; tests that
	// want to have it whole have more.
	holderTime time.Duration

	mu     sync.Mutex
	held   bitmap
	roles  map[uint16]Role // of each bit of held
	open   map[io.Closer]struct{}
	calls  int
	closed bool
}

// New returns an Allocator. It opens no port, and reads once which ports the
// host's administrator has reserved. It fails with ErrInvalid for a policy that
// makes no sense, and for two roles that insist on the same port.
func New(c Config) (*Allocator, error) {
	if c.Generation != Current && c.Generation != Classic {
		return nil, invalid("new", 0, "unknown generation %v", c.Generation)
	}
	policies := DefaultPolicies(c.Generation)
	for r, p := range c.Policies {
		if !r.valid() {
			return nil, invalid("new", 0, "unknown role %v in Policies", r)
		}
		p.Prefer = slices.Clone(p.Prefer)
		policies[r] = p
	}
	for r := LocalIPC; r <= lastRole; r++ {
		if err := policies[r].check(); err != nil {
			return nil, invalid("new", r, "%w", err)
		}
	}
	for _, x := range c.Exclude {
		if x.First > x.Last {
			return nil, invalid("new", 0, "the excluded range %s runs downwards", x)
		}
	}
	if err := checkFixed(policies); err != nil {
		return nil, err
	}
	a := &Allocator{
		policies: policies,
		bounds:   make(map[Role]bounds),
		turn:     make(chan struct{}, 1),
		drained:  make(chan struct{}),
		listen:   listen,
		roles:    make(map[uint16]Role),
		open:     make(map[io.Closer]struct{}),

		holderTime: holderTime,
	}
	reserved := reservedPorts()
	for r := LocalIPC; r <= lastRole; r++ {
		a.bounds[r] = boundsFor(r, policies, c.Exclude, reserved)
	}
	a.ended, a.end = context.WithCancel(context.Background())
	return a, nil
}

// checkFixed refuses two roles that both want one port and nothing else.
func checkFixed(policies map[Role]Policy) error {
	owner := make(map[uint16]Role)
	for r := LocalIPC; r <= lastRole; r++ {
		if p := policies[r]; p.fixed() {
			for _, port := range p.Prefer {
				if other, taken := owner[port]; taken && other != r {
					return invalid("new", r, "port %d is also given to %v", port, other)
				}
				owner[port] = r
			}
		}
	}
	return nil
}

// Policy returns the policy in force for a role.
func (a *Allocator) Policy(r Role) Policy {
	p := a.policies[r]
	p.Prefer = slices.Clone(p.Prefer)
	return p
}

// enter begins a call; leave ends it. Close waits for the calls in between.
func (a *Allocator) enter(op string, r Role) (plan, error) {
	if !r.valid() {
		return plan{}, invalid(op, 0, "unknown role %v", r)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	pl := plan{role: r, policy: a.policies[r], bounds: a.bounds[r]}
	if a.closed {
		return pl, &Error{Op: op, Role: r, Policy: pl.policy, Kind: ErrClosed}
	}
	if pl.policy.off() {
		e := &Error{Op: op, Role: r, Kind: ErrDisabled, Advice: "give the role a port in Config.Policies"}
		if !DefaultPolicies(Classic)[r].off() {
			e.Advice = "the role is part of Generation Classic; choose that, or " + e.Advice
		}
		return pl, e
	}
	a.calls++
	return pl, nil
}

func (a *Allocator) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls--
	if a.closed && a.calls == 0 {
		close(a.drained)
	}
}

// keep records what holds a port. It reports false when the Allocator was closed
// in the meantime; the caller then undoes its work.
func (a *Allocator) keep(c io.Closer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.open[c] = struct{}{}
	return true
}

// forget is the end of keep and of the claim on the port.
func (a *Allocator) forget(c io.Closer, port uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
	a.held.clear(port)
	delete(a.roles, port)
}

// closeTime is how long Close works on when its context has ended.
const closeTime = 10 * time.Second

// Close closes every lease and every connection made by a [Dialer], and ends the
// calls that are under way. It returns when all ports are given back; further
// calls fail with ErrClosed. When ctx ends it still cleans up, for at most 10
// seconds. A second Close waits for the first.
func (a *Allocator) Close(ctx context.Context) error {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		a.end()
		if a.calls == 0 {
			close(a.drained)
		}
	}
	open := make([]io.Closer, 0, len(a.open))
	for c := range a.open {
		open = append(open, c)
	}
	a.mu.Unlock()

	var errs []error
	for _, c := range open {
		if err := c.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	select {
	case <-a.drained:
	case <-ctx.Done():
		grace := time.NewTimer(closeTime)
		defer grace.Stop()
		select {
		case <-a.drained:
		case <-grace.C:
			errs = append(errs, ctx.Err())
		}
	}
	if len(errs) > 0 {
		return &Error{Op: "close", Cause: errors.Join(errs...)}
	}
	return nil
}
