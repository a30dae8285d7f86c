package sum

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// A Node is one target in a session: one connection at a time, at most one
// agent, both made when first needed and made again when they are lost. It is
// safe for concurrent use.
type Node struct {
	s *Session
	t Target

	ctx    context.Context // ends when the node is being closed
	cancel context.CancelFunc
	steps  sync.WaitGroup // steps under way
	turn   turn           // one deployment or recovery at a time
	dials  turn           // one dial or start of an agent at a time
	news   chan struct{}  // full when the agent has told of the job that is watched

	mu      sync.Mutex
	conn    transport.Conn
	ag      *channelUse
	place   *agent.Place // of an agent that was started and not removed, by this run or a dead one
	left    *agent.Place // of one that a dead run left, until that is taken over
	heir    bool         // what dead runs left on the target is this node's
	reached bool         // a dial succeeded once
	closing bool         // no further step begins
	closed  bool         // nothing more is dialled
	back    *backWay     // of the agent in the generation Classic; nil if it has none
	watched string       // the job of which news are wanted
}

// channelUse is an agent, the connection that it was started through, and the calls
// to it that are under way: it is closed when they have ended. Who takes it off
// the node under n.mu keeps others from joining them.
type channelUse struct {
	agent.Agent
	conn  transport.Conn
	calls sync.WaitGroup
}

// idle waits for the end of the calls, or of ctx.
func (u *channelUse) idle(ctx context.Context) {
	done := make(chan struct{})
	go func() { u.calls.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// turn is a mutex whose wait ends with a context.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

func newNode(s *Session, t Target) *Node {
	n := &Node{s: s, t: t, turn: make(turn, 1), dials: make(turn, 1), news: make(chan struct{}, 1)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.left = s.books.leftAgent(t.id())
	return n
}

// takeOver is Session.TakeOver for a step of the node. An agent that a dead run left
// becomes the node's with its directory: blobs need not be sent again, and its jobs are
// there.
func (n *Node) takeOver(ctx context.Context) error {
	if err := n.s.takeOver(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.heir {
		return nil
	}
	n.heir, n.left = true, nil
	for _, r := range n.s.books.pendingFor(n.t.id()) {
		if p := agentPlace(r.kind, r.data); p != nil {
			n.place = p
		}
	}
	return nil
}

// Target returns the target of the node.
func (n *Node) Target() Target { return n.t }

// begin admits a step, unless the node is being closed. The context that it
// returns ends when the node is closed.
func (n *Node) begin(ctx context.Context) (context.Context, func(), error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return nil, nil, ErrClosed
	}
	n.steps.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.ctx, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		n.steps.Done()
	}, nil
}

// fail wraps an error of a step, once.
func (n *Node) fail(step, component string, err error) error {
	if err == nil {
		return nil
	}
	if n.ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrClosed, err) // it was Close that ended the step
	}
	var e *Error
	if errors.As(err, &e) && e.Target != "" {
		return err
	}
	return &Error{Target: n.t.key(), Step: step, Component: component, Err: err}
}

// WithConn calls f with the node's connection, dialling if there is none. When
// the connection is lost it dials again, for as long as Config.Redial, and calls
// f again: f must be safe to repeat.
func (n *Node) WithConn(ctx context.Context, f func(ctx context.Context, conn transport.Conn) error) error {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return n.fail("connect", "", err)
	}
	defer end()
	return n.fail("connect", "", n.withConn(ctx, f))
}

// WithAgent is WithConn for the agent of a server, which it starts if need be. f must
// not call other steps of the node: one that finds the line lost waits for f.
func (n *Node) WithAgent(ctx context.Context, f func(ctx context.Context, ops agent.Ops) error) error {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return n.fail("agent", "", err)
	}
	defer end()
	return n.fail("agent", "", n.withAgent(ctx, f))
}

func (n *Node) withConn(ctx context.Context, f func(ctx context.Context, conn transport.Conn) error) error {
	return n.persist(ctx, func() (bool, bool, error) {
		conn, err := n.dial(ctx)
		if err != nil {
			return n.mayReturn(err), false, err
		}
		err = f(ctx, conn)
		return n.lost(ctx, conn, nil, err), true, err
	})
}

func (n *Node) withAgent(ctx context.Context, f func(ctx context.Context, ops agent.Ops) error) error {
	if !n.t.Kind.IsServer() {
		return fmt.Errorf("%w: targets of kind %s have no agent", errors.ErrUnsupported, n.t.Kind)
	}
	return n.persist(ctx, func() (bool, bool, error) {
		use, conn, err := n.agent(ctx)
		if conn == nil {
			return n.mayReturn(err), false, err
		}
		if err == nil {
			err = func() error {
				defer use.calls.Done()
				return f(ctx, use)
			}()
		}
		return n.lost(ctx, conn, use, err), use != nil, err
	})
}

// outageEnd is how long an attempt that got as far as its work must have lasted for
// its failure to count as a new outage and not as the same one.
const outageEnd = time.Minute

// persist repeats try for as long as it asks for that and Config.Redial allows.
// there says that what was needed for the work was reached.
func (n *Node) persist(ctx context.Context, try func() (again, there bool, err error)) error {
	const shortest, longest = 200 * time.Millisecond, 15 * time.Second
	var lost time.Time
	wait := shortest
	for {
		start := time.Now()
		again, there, err := try()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return transport.ContextError(ctx, "call", n.t.Address, err)
		case !again:
			return err
		}
		if lost.IsZero() || there && time.Since(start) > outageEnd {
			lost, wait = time.Now(), shortest
			n.s.log.WarnContext(ctx, "connection lost", "target", n.t.key(), "err", err)
		}
		if time.Since(lost) >= n.s.cfg.Redial {
			return fmt.Errorf("given up after %v: %w", n.s.cfg.Redial, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return transport.ContextError(ctx, "redial", n.t.Address, err)
		}
		wait = min(2*wait, longest)
	}
}

// mayReturn reports whether a target that cannot be dialled is waited for: one
// that was there before is, one that was never reached is not.
func (n *Node) mayReturn(err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reached && transport.Temporary(err)
}

// lost reports whether err means that the connection or the channel through it
// is gone, and lets go of both if they are still the node's.
func (n *Node) lost(ctx context.Context, conn transport.Conn, ag *channelUse, err error) bool {
	if err == nil {
		return false
	}
	n.mu.Lock()
	current := n.conn == conn && (ag == nil || n.ag == ag)
	closed := n.closed
	n.mu.Unlock()
	switch {
	case errors.Is(err, transport.ErrConnLost):
		n.drop(ctx, conn, ag)
		return true
	case errors.Is(err, transport.ErrClosed):
		// Another step found the loss first and closed it under this one.
		return !current && !closed
	}
	return false
}

// drop lets go of a connection, and of the channel through it, unless others
// have taken their place. The agent itself goes on.
func (n *Node) drop(ctx context.Context, conn transport.Conn, ag *channelUse) {
	n.mu.Lock()
	if n.conn != conn || (ag != nil && n.ag != nil && n.ag != ag) {
		n.mu.Unlock()
		return
	}
	ag = n.ag
	n.conn, n.ag = nil, nil
	n.mu.Unlock()
	ctx, cancel := cleanup(ctx)
	defer cancel()
	if conn != nil {
		_ = conn.Close(ctx) // and so the calls that other steps make through it end
	}
	if ag != nil {
		ag.idle(ctx)
		_ = ag.Close(ctx) // the line is gone; there is nobody to tell
	}
}

// cleanup returns a context for giving things back: it does not end with ctx,
// but after transport.CloseGrace.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
}

// dial returns the connection, making it if there is none.
func (n *Node) dial(ctx context.Context) (transport.Conn, error) {
	if err := n.dials.take(ctx); err != nil {
		return nil, err
	}
	defer n.dials.give()
	return n.connect(ctx)
}

// connect is dial for whoever holds n.dials.
func (n *Node) connect(ctx context.Context) (transport.Conn, error) {
	n.mu.Lock()
	conn, closed := n.conn, n.closed
	n.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	if closed {
		return nil, ErrClosed
	}
	tr, ep, err := n.s.cfg.Resolve(ctx, n.t)
	if err == nil && tr == nil {
		err = fmt.Errorf("%w: Config.Resolve returned neither a transport nor an error", ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	if conn, err = tr.Dial(ctx, ep); err != nil {
		return nil, err
	}
	n.mu.Lock()
	if closed = n.closed; !closed {
		n.conn, n.reached = conn, true
	}
	n.mu.Unlock()
	if closed {
		ctx, cancel := cleanup(ctx)
		defer cancel()
		_ = conn.Close(ctx)
		return nil, ErrClosed
	}
	return conn, nil
}

// agent returns the agent and the connection that it was started through,
// starting it if there is none. The caller ends its use by calls.Done. On error
// the connection is returned if there is one: it may be what failed.
func (n *Node) agent(ctx context.Context) (*channelUse, transport.Conn, error) {
	if err := n.dials.take(ctx); err != nil {
		return nil, nil, err
	}
	defer n.dials.give()
	n.mu.Lock()
	use := n.ag
	if use != nil {
		use.calls.Add(1)
	}
	n.mu.Unlock()
	if use != nil {
		return use, use.conn, nil
	}
	if err := n.takeOver(ctx); err != nil {
		return nil, nil, err
	}
	conn, err := n.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	place := n.placeOf()
	opts := agent.StartOptions{
		Target: n.t.key(), Place: place, BaseDirs: n.s.cfg.BaseDirs, Lease: n.s.cfg.Lease, KeepLogs: n.s.cfg.KeepLogs, Classic: n.s.classic.options(n, conn),
		Opened: func(ctx context.Context, p agent.Place) error {
			if err := n.s.books.opened(ctx, kindAgent, n.t, p.ID, agentRecord{n.t, p}); err != nil {
				return err
			}
			n.setPlace(&p)
			return nil
		},
	}
	if place != nil {
		opts.ID = place.ID
	} else {
		opts.ID = newID()
	}
	ag, err := n.s.cfg.Installer.Start(ctx, conn, opts)
	if err != nil {
		return nil, conn, n.portTaken(ctx, conn, err)
	}
	p := ag.Place()
	use = &channelUse{Agent: ag, conn: conn}
	use.calls.Add(1)
	n.mu.Lock()
	n.place = &p
	current := n.conn == conn
	if current {
		n.ag = use
	}
	n.mu.Unlock()
	if !current { // another step found the connection lost just now
		ctx, cancel := cleanup(ctx)
		defer cancel()
		_ = ag.Close(ctx)
		return nil, conn, &transport.Error{Op: "start", Target: n.t.Address, Kind: transport.ErrConnLost}
	}
	return use, conn, nil
}

func (n *Node) setPlace(p *agent.Place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.place = p
}

// placeOf returns where the node's agent is, or nil.
func (n *Node) placeOf() *agent.Place {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.place
}

// leftAt returns where a dead run that nobody has taken over left its agent, or nil.
func (n *Node) leftAt() *agent.Place {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.left
}

// newID returns an unguessable name for an agent directory or an update.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

// close ends the steps under way, removes the agent and closes the connection.
func (n *Node) close(ctx context.Context) error {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.cancel()
	var errs []error
	done := make(chan struct{})
	go func() { n.steps.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("a step does not end: %w", ctx.Err()))
	}
	// A target that hangs must not hold up the others for ever.
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	errs = append(errs, n.removeAgent(ctx))
	n.mu.Lock()
	conn := n.conn
	n.conn, n.closed = nil, true
	n.mu.Unlock()
	if conn != nil {
		cctx, ccancel := cleanup(ctx)
		defer ccancel()
		errs = append(errs, conn.Close(cctx))
	}
	for _, p := range n.s.books.pendingFor(n.t.id()) {
		if !p.dead && (p.kind == kindJob || p.kind == kindUpdate) {
			var r struct {
				Found *finding `json:"found"`
			}
			if json.Unmarshal(p.data, &r) == nil && r.Found != nil {
				errs = append(errs, fmt.Errorf("%w: what %s %s came to is not proven, as no inventory could be read; recover proves it", ErrPending, p.kind, p.id))
			} else {
				errs = append(errs, fmt.Errorf("%w: the result of %s %s is not known; recover fetches it", ErrPending, p.kind, p.id))
			}
		}
	}
	return n.fail("close", "", errors.Join(errs...))
}

// removeAgent removes the agent that this run started or took over. If it cannot
// be done now the journal keeps it for the next run.
func (n *Node) removeAgent(ctx context.Context) error {
	n.mu.Lock()
	ag, place, reached := n.ag, n.place, n.reached
	n.ag = nil
	n.mu.Unlock()
	if place == nil || !reached {
		return nil // nothing was started, or a dead run's and we never got there
	}
	var err error
	if ag != nil {
		ag.idle(ctx)
		if _, err = ag.Remove(ctx); err != nil {
			cctx, cancel := cleanup(ctx)
			_ = ag.Close(cctx)
			cancel()
		}
	}
	if ag == nil || (err != nil && !errors.Is(err, agent.ErrJobRunning)) {
		// The channel is lost, perhaps the connection too: once more by hand. A line
		// that comes back soon is waited for.
		if ag != nil {
			n.drop(ctx, ag.conn, nil)
		}
		rctx, cancel := context.WithTimeout(ctx, transport.CloseGrace)
		err = n.withConn(rctx, func(ctx context.Context, conn transport.Conn) error {
			_, err := n.s.cfg.Installer.Sweep(ctx, conn, *place)
			return err
		})
		cancel()
	}
	if err != nil {
		return fmt.Errorf("agent left in %s until its lease ends or recover removes it: %w", place.Dir, err)
	}
	n.setPlace(nil)
	cctx, cancel := cleanup(ctx)
	defer cancel()
	return n.s.books.closed(cctx, kindAgent, n.t, place.ID)
}
