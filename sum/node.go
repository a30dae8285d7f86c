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

	mu      sync.Mutex // held while dialling and while an agent is started
	conn    transport.Conn
	ag      agent.Agent
	place   *agent.Place // of an agent that was started and not removed, by this run or a dead one
	reached bool         // a dial succeeded once
	closed  bool

	deploying sync.Mutex // one deployment or recovery at a time
}

func newNode(s *Session, t Target) *Node {
	n := &Node{s: s, t: t}
	// An agent that a dead run left is taken over with its directory: blobs need
	// not be sent again, and its jobs are there.
	for _, p := range s.books.pendingFor(t.key()) {
		if p.Kind != kindAgent {
			continue
		}
		var r agentRecord
		if json.Unmarshal(p.Data, &r) == nil {
			n.place = &r.Place
		}
	}
	return n
}

// Target returns the target of the node.
func (n *Node) Target() Target { return n.t }

// fail wraps an error of a step, once.
func (n *Node) fail(step, component string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Target: n.t.key(), Step: step, Component: component, Err: err}
}

// WithConn calls f with the node's connection, dialling if there is none. When
// the connection is lost it dials again, for as long as Config.Redial, and calls
// f again: f must be safe to repeat.
func (n *Node) WithConn(ctx context.Context, f func(ctx context.Context, conn transport.Conn) error) error {
	return n.persist(ctx, func(ctx context.Context) error {
		conn, err := n.dial(ctx)
		if err != nil {
			return err
		}
		return f(ctx, conn)
	})
}

// WithAgent is WithConn for the agent of a server, which it starts if need be.
func (n *Node) WithAgent(ctx context.Context, f func(ctx context.Context, ops agent.Ops) error) error {
	if !n.t.Kind.IsServer() {
		return n.fail("agent", "", fmt.Errorf("%w: targets of kind %s have no agent", errors.ErrUnsupported, n.t.Kind))
	}
	return n.persist(ctx, func(ctx context.Context) error {
		ag, err := n.agent(ctx)
		if err != nil {
			return err
		}
		return f(ctx, ag)
	})
}

// persist calls f until it succeeds, fails for good, or the target has been away
// for too long. A target that was never reached is not waited for.
func (n *Node) persist(ctx context.Context, f func(ctx context.Context) error) error {
	var lost time.Time
	wait := 200 * time.Millisecond
	for {
		n.mu.Lock()
		dials := n.reached
		n.mu.Unlock()
		err := f(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return transport.ContextError(ctx, "call", n.t.Address, err)
		case errors.Is(err, transport.ErrConnLost), dials && (errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrTimeout)):
			n.drop(ctx)
		default:
			return err
		}
		if lost.IsZero() {
			lost = time.Now()
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
		wait = min(2*wait, 15*time.Second)
	}
}

// dial returns the connection, making it if there is none.
func (n *Node) dial(ctx context.Context) (transport.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialLocked(ctx)
}

func (n *Node) dialLocked(ctx context.Context) (transport.Conn, error) {
	if n.closed {
		return nil, ErrClosed
	}
	if n.conn != nil {
		return n.conn, nil
	}
	tr, ep, err := n.s.cfg.Resolve(ctx, n.t)
	if err != nil {
		return nil, err
	}
	conn, err := tr.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	n.conn, n.reached = conn, true
	return conn, nil
}

// agent returns the agent, starting it if there is none.
func (n *Node) agent(ctx context.Context) (agent.Agent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ag != nil {
		return n.ag, nil
	}
	conn, err := n.dialLocked(ctx)
	if err != nil {
		return nil, err
	}
	opts := agent.StartOptions{
		Target: n.t.key(), Place: n.place, BaseDirs: n.s.cfg.BaseDirs, Lease: n.s.cfg.Lease,
		Opened: func(ctx context.Context, p agent.Place) error {
			n.place = &p
			return n.s.books.opened(ctx, kindAgent, n.t.key(), p.ID, agentRecord{n.t, p})
		},
	}
	if n.place != nil {
		opts.ID = n.place.ID
	} else {
		opts.ID = newID()
	}
	ag, err := n.s.cfg.Installer.Start(ctx, conn, opts)
	if err != nil {
		return nil, err
	}
	place := ag.Place()
	n.ag, n.place = ag, &place
	return ag, nil
}

// newID returns an unguessable name for an agent directory or an update.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

// drop lets go of a connection that is lost, and of the channel through it. The
// agent itself goes on.
func (n *Node) drop(ctx context.Context) {
	n.mu.Lock()
	conn, ag := n.conn, n.ag
	n.conn, n.ag = nil, nil
	n.mu.Unlock()
	ctx, cancel := graceful(ctx)
	defer cancel()
	if ag != nil {
		_ = ag.Close(ctx) // the line is gone; there is nobody to tell
	}
	if conn != nil {
		_ = conn.Close(ctx)
	}
}

// close removes the agent and closes the connection.
func (n *Node) close(ctx context.Context) error {
	n.deploying.Lock()
	defer n.deploying.Unlock()
	err := n.removeAgent(ctx)
	n.mu.Lock()
	conn := n.conn
	n.conn, n.closed = nil, true
	n.mu.Unlock()
	if conn != nil {
		err = errors.Join(err, conn.Close(ctx))
	}
	return n.fail("close", "", err)
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
		if _, err = ag.Remove(ctx); err != nil {
			_ = ag.Close(ctx)
		}
	}
	if ag == nil || (err != nil && !errors.Is(err, agent.ErrJobRunning)) {
		// The channel is lost, perhaps the connection too: one more try by hand.
		var conn transport.Conn
		n.drop(ctx)
		if conn, err = n.dial(ctx); err == nil {
			_, err = n.s.cfg.Installer.Sweep(ctx, conn, *place)
		}
	}
	if err != nil {
		return fmt.Errorf("agent left in %s until its lease ends or recover removes it: %w", place.Dir, err)
	}
	n.mu.Lock()
	n.place = nil
	n.mu.Unlock()
	for _, p := range n.s.books.pendingFor(n.t.key()) {
		if p.Kind == kindAgent && p.ID == place.ID {
			if err := n.s.books.settle(ctx, p); err != nil {
				return err
			}
		}
	}
	return n.s.books.closed(ctx, kindAgent, n.t.key(), place.ID)
}
