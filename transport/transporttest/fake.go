package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// A Fake is a Transport to targets that live in memory. It is strict: what no
// target, capability or script foresees fails and is kept as a violation. It is
// safe for concurrent use. Make one with [New] or with a personality.
type Fake struct {
	mu         sync.Mutex
	targets    map[targetKey]*Target
	conns      map[*conn]struct{}
	calls      []*Call
	requests   int64
	violations []error
	lastPID    int

	life     context.Context // ends with Close
	end      context.CancelFunc
	tasks    sync.WaitGroup
	spawning sync.Mutex // guards joining, and tasks against being added to while Close waits
	joining  bool
}

type targetKey struct{ address, object string }

// New returns a fake without targets; see [Fake.Add].
func New() *Fake {
	f := &Fake{targets: map[targetKey]*Target{}, conns: map[*conn]struct{}{}, lastPID: 100}
	f.life, f.end = context.WithCancel(context.Background())
	return f
}

// A Call is one entry of the journal.
type Call struct {
	Address, Object string // of the Endpoint
	// Op is the call as package transport names it in errors ("dial", "put",
	// "run", "create service", ...) or, beginning with "update.", a request that an
	// update sent to the device: "update.upload", "update.flash", "update.cancel".
	Op string
	// Path is the file, service, socket, payload or device, if one is meant.
	Path  string
	Argv  []string // of Run
	Bytes int64    // that the call moved
	Done  bool     // the call has returned
	Err   error    // what it returned
}

// Calls returns the journal: every call in the order in which they began.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Call, len(f.calls))
	for i, c := range f.calls {
		out[i] = *c
	}
	return out
}

// Ops returns the names of the journalled calls to t, or to all targets if t is
// nil, in the order in which they began.
func (f *Fake) Ops(t *Target) []string {
	var out []string
	for _, c := range f.Calls() {
		if t == nil || (c.Address == t.cfg.Address && c.Object == t.cfg.Object) {
			out = append(out, c.Op)
		}
	}
	return out
}

// Requests returns how many requests reached targets so far.
func (f *Fake) Requests() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// Violations returns the calls that nothing foresaw, in order.
func (f *Fake) Violations() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.violations)
}

// Err returns the violations joined, or nil.
func (f *Fake) Err() error { return errors.Join(f.Violations()...) }

// violate keeps a violation and returns it.
func (f *Fake) violate(format string, args ...any) error {
	err := fmt.Errorf("transporttest: "+format, args...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.violations = append(f.violations, err)
	return err
}

// OpenConns returns how many connections are open: dialled, and neither lost nor
// closed.
func (f *Fake) OpenConns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// Close ends all connections, programs, services and flashes and waits for
// them, for at most [transport.CloseGrace]. It returns the violations, as Err
// does.
func (f *Fake) Close() error {
	f.end()
	f.mu.Lock()
	conns := make([]*conn, 0, len(f.conns))
	for c := range f.conns {
		conns = append(conns, c)
	}
	var listeners []*listener
	for _, t := range f.targets {
		for _, l := range t.listeners {
			listeners = append(listeners, l)
		}
	}
	f.mu.Unlock()
	for _, c := range conns {
		c.lose()
	}
	for _, l := range listeners {
		l.Close()
	}
	f.spawning.Lock()
	f.joining = true
	f.spawning.Unlock()
	done := make(chan struct{})
	go func() {
		f.tasks.Wait()
		close(done)
	}()
	timer := time.NewTimer(transport.CloseGrace)
	defer timer.Stop()
	select {
	case <-done:
		return f.Err()
	case <-timer.C:
		return errors.Join(f.Err(), errors.New("transporttest: a program, service or standard input of the fake does not end"))
	}
}

// spawn runs task in a goroutine that Close waits for. A call that comes while
// Close waits already finds its context ended, and is not waited for.
func (f *Fake) spawn(task func()) {
	f.spawning.Lock()
	defer f.spawning.Unlock()
	if f.joining {
		go task()
		return
	}
	f.tasks.Go(task)
}

// Dial implements transport.Transport.
func (f *Fake) Dial(ctx context.Context, ep transport.Endpoint) (dialled transport.Conn, err error) {
	fail := func(kind, cause error) error {
		return &transport.Error{Op: "dial", Target: ep.Address, Kind: kind, Err: cause}
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err, nil)
	}
	if _, _, err := ep.HostPort(1); err != nil {
		return nil, err
	}
	if ep.Options != nil {
		return nil, fail(transport.ErrInvalid, fmt.Errorf("the fake takes no options, not %T", ep.Options))
	}
	if f.life.Err() != nil {
		return nil, fail(transport.ErrUnreachable, f.violate("dial of %q after Close", ep.Address))
	}
	f.mu.Lock()
	t := f.targets[targetKey{ep.Address, ep.Object}]
	f.mu.Unlock()
	if t == nil {
		return nil, fail(transport.ErrUnreachable, f.violate("dial of %q, object %q: there is no such target", ep.Address, ep.Object))
	}
	c := &conn{t: t, f: f, ep: ep, tunnels: map[*memConn]struct{}{}, closed: make(chan struct{}), lost: make(chan struct{})}
	k, err := c.begin(ctx, "dial", "")
	defer func() {
		if k.end(&err); err != nil {
			dialled = nil // also where the reply was lost
		}
	}()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	down := t.bootDials > 0
	if down {
		t.bootDials--
	}
	key, user, password := t.cfg.HostKey, t.cfg.User, t.cfg.Password
	f.mu.Unlock()
	if down {
		return nil, fail(transport.ErrUnreachable, errors.New("the target is booting"))
	}
	if key != "" {
		if err := checkTrust(ctx, ep, key); err != nil {
			return nil, fail(transport.ErrTrust, err)
		}
	}
	if ep.Credentials.User != user || ep.Credentials.Password.Reveal() != password.Reveal() {
		return nil, fail(transport.ErrAuth, nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err, nil)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.life.Err() != nil {
		return nil, fail(transport.ErrUnreachable, errors.New("the fake is closed"))
	}
	f.conns[c] = struct{}{}
	return c, nil
}
