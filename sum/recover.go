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
	Outcomes []Outcome `json:"outcomes,omitempty"` // of what an earlier run began
	Left     []string  `json:"left,omitempty"`     // files that stay on the target: logs, and what was abandoned
	Removed  []string  `json:"removed,omitempty"`  // agent directories that were cleaned up
}

// Recover is a step: it finishes what a dead run, or an earlier deployment of
// this one, left on a target. It knows that from the journal alone: jobs that run
// are waited for, those that have ended are judged by a second inventory, those
// that never began are cancelled, agents of dead runs are removed. Nothing is
// installed again. Only a device's update that had begun takes its component to
// go on: one of comps, or the one at the path that the journal names. A target
// that cannot be reached, and what cannot be finished, stays pending and the
// error says so; with opts.Abandon it is given up.
func Recover(ctx context.Context, n *Node, opts DeployOptions, comps ...*component.Component) (Recovery, error) {
	rec := Recovery{Target: n.t}
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return rec, n.fail("recover", "", err)
	}
	defer end()
	if err := n.turn.take(ctx); err != nil {
		return rec, n.fail("recover", "", err)
	}
	defer n.turn.give()
	if err := n.takeOver(ctx); err != nil {
		return rec, n.fail("recover", "", err)
	}
	rec, err = n.recover(ctx, comps, opts)
	if err != nil {
		return rec, n.fail("recover", "", fmt.Errorf("%w: %w", ErrPending, err))
	}
	return rec, nil
}

// recover finishes what is pending, after takeOver.
func (n *Node) recover(ctx context.Context, comps []*component.Component, opts DeployOptions) (Recovery, error) {
	rec := Recovery{Target: n.t}
	pending := n.s.books.pendingFor(n.t.id())
	for _, p := range pending {
		var item PlanItem
		var offers map[string]offerRecord
		var finish func() (Outcome, error)
		switch p.kind {
		case kindJob:
			var r jobRecord
			err := json.Unmarshal(p.data, &r)
			item, finish = r.Item, func() (Outcome, error) { return n.recoverJob(ctx, p.id, r, err, opts) }
		case kindUpdate:
			var r updateRecord
			err := json.Unmarshal(p.data, &r)
			item, offers, finish = r.Item, r.Offers, func() (Outcome, error) { return n.recoverUpdate(ctx, p.id, r, err, comps, opts) }
		default:
			continue // agents: below, when no job needs them any more
		}
		opts.event(n, item.Component, "recover", nil)
		o, err := finish()
		if err != nil {
			if !opts.Abandon || ctx.Err() != nil {
				return rec, err
			}
			if o.Kind == "" {
				o = n.outcome(item, Unverified)
			}
			o.Text = join(o.Text, lastBytes("given up: "+err.Error(), maxText))
		}
		n.s.publish.withdraw(ctx, offers)
		o.Recovered = true
		rec.Outcomes = append(rec.Outcomes, o)
		// In this order: a manager that is killed in between tells it once more, and
		// never not at all.
		if err := n.s.books.note(ctx, o); err != nil {
			return rec, err
		}
		if err := n.s.books.closed(ctx, p.kind, n.t, p.id); err != nil {
			return rec, err
		}
	}
	for _, p := range pending {
		if p.kind == kindAgent && p.dead {
			if err := n.recoverAgent(ctx, p, &rec, opts); err != nil {
				return rec, err
			}
		}
	}
	return rec, nil
}

// recoverJob finds out what became of a job.
func (n *Node) recoverJob(ctx context.Context, id string, r jobRecord, damaged error, opts DeployOptions) (Outcome, error) {
	if damaged != nil {
		return Outcome{}, fmt.Errorf("%w: record of job %s: %w", ErrJournal, id, damaged)
	}
	read := recorded{r.Match, r.Item.Version, r.Scheme, r.Probe}
	if r.Found != nil {
		return n.judge(ctx, r.Item, read, r.Found.claim(), opts)
	}
	if err := n.moveTo(ctx, r.Place); err != nil {
		return Outcome{}, err
	}
	var st agent.Status
	err := n.call(ctx, callLimit, func(ctx context.Context, ops agent.Ops) (err error) {
		if st, err = ops.Status(ctx, id, 0); err == nil && st.State == agent.Accepted {
			// Its program never ran. Whoever wants it plans it again.
			st, err = ops.Cancel(ctx, id)
		}
		return err
	})
	if errors.Is(err, agent.ErrNoRecords) {
		// It may have run and ended, and its record be gone since.
		cl := claim{begun: true, lost: "the target has no record of it any more, nor of the agent that had it in " + r.Place.Dir, entry: n.jobEntry(id, r)}
		return n.conclusion(ctx, r.Item, read, cl, opts)
	}
	if errors.Is(err, agent.ErrNoJob) {
		o := n.outcome(r.Item, Cancelled)
		o.Text = "the request never reached the target; nothing was installed"
		return o, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	cl := n.follow(ctx, r.Item, id, opts)
	if cl.open || ctx.Err() != nil {
		return Outcome{}, errors.Join(cl.err, fmt.Errorf("job %s still runs", id))
	}
	cl.result, cl.entry = clip(cl.result), n.jobEntry(id, r)
	return n.conclusion(ctx, r.Item, read, cl, opts)
}

// conclusion is the outcome of an attempt that was recovered. That an inventory
// which may prove it could not be read is an error: its record stays open.
func (n *Node) conclusion(ctx context.Context, it PlanItem, read recorded, cl claim, opts DeployOptions) (Outcome, error) {
	o, unread := n.judge(ctx, it, read, cl, opts)
	if unread == nil {
		return o, nil
	}
	return o, errors.Join(unread, n.conclude(ctx, cl, unread))
}

// moveTo makes the agent at p the node's: the one that has the job asked for.
func (n *Node) moveTo(ctx context.Context, p agent.Place) error {
	now := n.placeOf()
	if p.ID == "" || (now != nil && now.ID == p.ID) {
		return nil
	}
	if now != nil {
		if err := n.removeAgent(ctx); err != nil {
			return err
		}
	}
	n.setPlace(&p)
	return nil
}

// recoverUpdate finishes a device's update, or takes back what was prepared for it.
func (n *Node) recoverUpdate(ctx context.Context, id string, r updateRecord, damaged error, comps []*component.Component, opts DeployOptions) (Outcome, error) {
	if damaged != nil {
		return Outcome{}, fmt.Errorf("%w: record of update %s: %w", ErrJournal, id, damaged)
	}
	read := recorded{r.Match, r.Item.Version, r.Scheme, nil}
	if r.Found != nil {
		return n.judge(ctx, r.Item, read, r.Found.claim(), opts)
	}
	if !r.Begun {
		if err := n.undo(ctx, r.State); err != nil {
			return Outcome{}, err
		}
		o := n.outcome(r.Item, Cancelled)
		o.Text = "nothing was sent that changes the device"
		return o, nil
	}
	c, err := findComponent(ctx, r.Item, comps)
	if err != nil {
		// Without the payload the driver cannot go on; but what was sent goes on
		// without the manager, and may be there by now.
		o, unread := n.judge(ctx, r.Item, read, claim{begun: true, lost: "its result was lost with the manager"}, opts)
		if unread != nil {
			return o, unread
		}
		if !o.Kind.OK() {
			return Outcome{}, fmt.Errorf("the update to %s is not there, and to go on with it takes its component: %w", r.Item.Version, err)
		}
		// The driver has not come to tidying up, and nobody knows later what was prepared.
		if err := n.undo(ctx, r.State); err != nil {
			o.Text = join(o.Text, lastBytes(err.Error(), maxText))
		}
		return o, nil
	}
	cl := n.update(ctx, r.Item, c, opts, id, &r)
	if cl.open || ctx.Err() != nil {
		return Outcome{}, errors.Join(cl.err, fmt.Errorf("update %s is not finished", id))
	}
	cl.result = clip(cl.result)
	o, err := n.conclusion(ctx, r.Item, read, cl, opts)
	if err == nil && cl.withdraw != nil {
		cl.withdraw(context.WithoutCancel(ctx)) // recover closes the record, when the outcome is noted
	}
	return o, err
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

// recoverAgent removes an agent that a dead run left, unless this run goes on
// using it: then it is removed, and its record closed, with the session.
func (n *Node) recoverAgent(ctx context.Context, p openRecord, rec *Recovery, opts DeployOptions) error {
	var r agentRecord
	if err := json.Unmarshal(p.data, &r); err != nil {
		if !opts.Abandon {
			return fmt.Errorf("%w: record of agent %s: %w", ErrJournal, p.id, err)
		}
		return n.s.books.closed(ctx, kindAgent, n.t, p.id)
	}
	n.mu.Lock()
	current := n.place != nil && n.place.ID == p.id
	running := current && n.ag != nil
	n.mu.Unlock()
	if running || (current && opts.KeepAgent) {
		return nil
	}
	err := n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		left, err := n.s.cfg.Installer.Sweep(ctx, conn, r.Place)
		rec.Left = append(rec.Left, left...)
		return err
	})
	switch {
	case err == nil:
		rec.Removed = append(rec.Removed, r.Place.Dir)
	case opts.Abandon && ctx.Err() == nil:
		rec.Left = append(rec.Left, r.Place.Dir)
	default:
		return err
	}
	if current {
		n.setPlace(nil)
	}
	return n.s.books.closed(ctx, kindAgent, n.t, p.id)
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
