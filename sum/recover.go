package sum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Recovery is what Recover did on one target.
type Recovery struct {
	Target   Target    `json:"target"`
	Outcomes []Outcome `json:"outcomes,omitempty"` // of what a dead run began
	Left     []string  `json:"left,omitempty"`     // files that stay on the target: logs
	Removed  []string  `json:"removed,omitempty"`  // agent directories that were cleaned up
}

// Recover is a step: it finishes what a dead run left on a target. It knows that
// from the journal alone: jobs that run are waited for, those that have ended are
// judged by a second inventory, those that never began are cancelled, agents are
// removed. Nothing is installed again. Only a device's update that had begun
// takes its component to go on: one of comps, or the one at the path that the
// journal names. A target that cannot be reached stays pending and the error
// says so.
func Recover(ctx context.Context, n *Node, opts DeployOptions, comps ...*component.Component) (Recovery, error) {
	n.deploying.Lock()
	defer n.deploying.Unlock()
	rec, err := n.recover(ctx, comps, opts)
	if err != nil {
		return rec, n.fail("recover", "", fmt.Errorf("%w: %w", ErrPending, err))
	}
	return rec, nil
}

func (n *Node) recover(ctx context.Context, comps []*component.Component, opts DeployOptions) (Recovery, error) {
	rec := Recovery{Target: n.t}
	pending := n.s.books.pendingFor(n.t.key())
	for _, p := range pending {
		var o Outcome
		var err error
		switch p.Kind {
		case kindJob:
			o, err = n.recoverJob(ctx, p, opts)
		case kindUpdate:
			o, err = n.recoverUpdate(ctx, p, comps, opts)
		default:
			continue // agents: below, when no job needs them any more
		}
		if err != nil {
			return rec, err
		}
		o.Recovered = true
		rec.Outcomes = append(rec.Outcomes, o)
		if err := n.s.books.note(ctx, o); err != nil {
			return rec, err
		}
		if err := n.s.books.settle(ctx, p); err != nil {
			return rec, err
		}
	}
	for _, p := range pending {
		if p.Kind == kindAgent {
			if err := n.recoverAgent(ctx, p, &rec); err != nil {
				return rec, err
			}
		}
	}
	return rec, nil
}

// recoverJob finds out what became of a job.
func (n *Node) recoverJob(ctx context.Context, p pendingRecord, opts DeployOptions) (Outcome, error) {
	var r jobRecord
	if err := json.Unmarshal(p.Data, &r); err != nil {
		return Outcome{}, fmt.Errorf("%w: record of job %s: %w", ErrJournal, p.ID, err)
	}
	opts.event(n, r.Item.Component, "recover", nil)
	var st agent.Status
	err := n.call(ctx, func(ctx context.Context, ops agent.Ops) (err error) {
		if st, err = ops.Status(ctx, p.ID, 0); err == nil && st.State == agent.Accepted {
			// Its program never ran. Whoever wants it plans it again.
			st, err = ops.Cancel(ctx, p.ID)
		}
		return err
	})
	if errors.Is(err, agent.ErrNoJob) {
		o := n.outcome(r.Item, Cancelled)
		o.Text = "the request never reached the target; nothing was installed"
		return o, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	cl := n.follow(ctx, r.Item, p.ID, opts)
	if cl.open || ctx.Err() != nil {
		return Outcome{}, errors.Join(cl.err, fmt.Errorf("job %s still runs", p.ID))
	}
	return n.judge(ctx, r.Item, recorded{r.Match, r.Item.Version, r.Scheme, r.Probe}, cl, opts), nil
}

// recoverUpdate finishes a device's update, or takes back what was prepared for it.
func (n *Node) recoverUpdate(ctx context.Context, p pendingRecord, comps []*component.Component, opts DeployOptions) (Outcome, error) {
	var r updateRecord
	if err := json.Unmarshal(p.Data, &r); err != nil {
		return Outcome{}, fmt.Errorf("%w: record of update %s: %w", ErrJournal, p.ID, err)
	}
	opts.event(n, r.Item.Component, "recover", nil)
	if !r.Begun {
		// Nothing irreversible was sent; what the driver prepared is taken back.
		err := n.WithConn(ctx, func(ctx context.Context, conn transport.Conn) error {
			if r.State.Driver == "" {
				return nil
			}
			return transport.Undo(ctx, conn, r.State)
		})
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return Outcome{}, err
		}
		o := n.outcome(r.Item, Cancelled)
		o.Text = "nothing was sent that changes the device"
		return o, nil
	}
	read := recorded{r.Match, r.Item.Version, r.Scheme, nil}
	c, err := findComponent(ctx, r.Item, comps)
	if err != nil {
		// Without the payload the driver cannot go on; but what was sent goes on
		// without the manager, and may be there by now.
		o := n.judge(ctx, r.Item, read, claim{begun: true, lost: "its result was lost with the manager"}, opts)
		if !o.Kind.OK() {
			return Outcome{}, fmt.Errorf("the update to %s is not there, and to go on with it takes its component: %w", r.Item.Version, err)
		}
		return o, nil
	}
	cl := n.update(ctx, r.Item, c, opts, p.ID, &r)
	if cl.open || ctx.Err() != nil {
		return Outcome{}, errors.Join(cl.err, fmt.Errorf("update %s is not finished", p.ID))
	}
	o := n.judge(ctx, r.Item, read, cl, opts)
	return o, cl.settle(context.WithoutCancel(ctx))
}

// findComponent returns the component of a record: one that the caller has at
// hand, else the one at the path that it was loaded from.
func findComponent(ctx context.Context, it PlanItem, comps []*component.Component) (*component.Component, error) {
	for _, c := range comps {
		if c.Digest() == it.Digest {
			return c, nil
		}
	}
	if it.Source == "" {
		return nil, fmt.Errorf("%w: %s is not at hand", ErrInvalid, it.Component)
	}
	c, err := component.Load(ctx, it.Source)
	if err != nil {
		return nil, err
	}
	if c.Digest() != it.Digest {
		return nil, fmt.Errorf("%w: %s has changed", ErrInvalid, it.Source)
	}
	return c, nil
}

// recoverAgent removes an agent that a dead run left.
func (n *Node) recoverAgent(ctx context.Context, p pendingRecord, rec *Recovery) error {
	var r agentRecord
	if err := json.Unmarshal(p.Data, &r); err != nil {
		return fmt.Errorf("%w: record of agent %s: %w", ErrJournal, p.ID, err)
	}
	n.mu.Lock()
	mine := n.ag != nil && n.place != nil && n.place.ID == p.ID
	n.mu.Unlock()
	if mine {
		// This run took it over to ask for jobs and goes on using it; it is
		// removed, and the record settled, when the session is closed.
		return nil
	}
	err := n.WithConn(ctx, func(ctx context.Context, conn transport.Conn) (err error) {
		rec.Left, err = n.s.cfg.Installer.Sweep(ctx, conn, r.Place)
		return err
	})
	if err != nil {
		return err
	}
	rec.Removed = append(rec.Removed, r.Place.Dir)
	n.mu.Lock()
	if n.place != nil && n.place.ID == p.ID {
		n.place = nil
	}
	n.mu.Unlock()
	return n.s.books.settle(ctx, p)
}

// recorded reads the subjects of a component of which only the record is left.
type recorded struct {
	match   component.Match
	version string
	scheme  version.Scheme
	probe   *agent.Probe
}

func (r recorded) Probe() (agent.Probe, bool) {
	if r.probe == nil {
		return agent.Probe{}, false
	}
	return *r.probe, true
}

func (r recorded) Current(inv *transport.Inventory) []component.Found { return r.match.Find(inv) }

func (r recorded) Compare(installed string) (int, error) {
	return version.Compare(r.scheme, r.version, installed)
}
