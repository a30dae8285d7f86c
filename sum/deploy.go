package sum

import (
	"context"
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// Deploy is a step: it applies a plan to its target and proves each outcome by a
// second inventory. Before the first change it finishes what a dead run began on
// this target, and checks that target and payloads still match the plan:
// otherwise nothing is done and the error is ErrPlanStale. comps holds the
// components of the plan, in any order.
//
// A component that fails does not make Deploy fail: that is its Outcome. The
// error is for what kept Deploy from going on; the outcomes so far come with it.
// When ctx ends, a component that has not begun is Cancelled; one that runs is
// given transport.CloseGrace to end, and is otherwise left to itself: the journal
// keeps it, and Recover or the next Deploy fetches its result.
func Deploy(ctx context.Context, n *Node, plan TargetPlan, comps []*component.Component, opts DeployOptions) ([]Outcome, error) {
	n.deploying.Lock()
	defer n.deploying.Unlock()
	recovered, err := n.recover(ctx, comps, opts)
	if err != nil {
		return recovered.Outcomes, n.fail("recover", "", err)
	}
	outcomes, err := n.deploy(ctx, plan, comps, recovered.Outcomes, opts)
	return outcomes, n.fail("deploy", "", err)
}

func (n *Node) deploy(ctx context.Context, plan TargetPlan, comps []*component.Component, recovered []Outcome, opts DeployOptions) ([]Outcome, error) {
	byDigest := map[string]*component.Component{}
	for _, c := range comps {
		byDigest[c.Digest()] = c
	}
	for _, it := range plan.Items {
		if byDigest[it.Digest] == nil {
			return nil, &Error{Target: n.t.key(), Step: "deploy", Component: it.Component,
				Err: fmt.Errorf("%w: no component at hand has the digest %.12s of the plan: it has changed, or is missing", ErrPlanStale, it.Digest)}
		}
	}
	var inv *transport.Inventory
	if needsInventory(plan) {
		opts.event(n, "", "inventory", nil)
		var err error
		if inv, err = n.inventory(ctx, probesOf(comps)); err != nil {
			return nil, err
		}
		if err := n.matches(plan, inv, byDigest, recovered); err != nil {
			return nil, err
		}
	}
	var outcomes []Outcome
	for i, it := range plan.Items {
		o, done := n.settled(it, recovered)
		if !done {
			if ctx.Err() != nil {
				o = n.outcome(it, Cancelled)
				o.Text = "stopped before it began"
			} else {
				o = n.apply(ctx, it, byDigest[it.Digest], opts)
			}
			if err := n.s.books.note(context.WithoutCancel(ctx), o); err != nil {
				return append(outcomes, o), err
			}
		}
		outcomes = append(outcomes, o)
		if opts.StopOnFailure && (o.Kind == Failed || o.Kind == Unverified) {
			for _, rest := range plan.Items[i+1:] {
				o := n.outcome(rest, Cancelled)
				o.Text = "left alone because " + it.Component + " did not succeed"
				outcomes = append(outcomes, o)
			}
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return outcomes, err
	}
	return outcomes, nil
}

func needsInventory(plan TargetPlan) bool { return plan.Installs() > 0 }

// outcome starts the outcome of a plan item.
func (n *Node) outcome(it PlanItem, kind OutcomeKind) Outcome {
	o := Outcome{Target: n.t, Component: it.Component, Version: it.Version, Digest: it.Digest, Kind: kind}
	for _, s := range it.Subjects {
		o.Subjects = append(o.Subjects, Subject{Name: s.Name, From: s.From, To: s.From, Fits: s.Fits})
	}
	return o
}

// settled returns the outcome of an item for which nothing is to be done: the
// plan skips it, or a run before this one has brought it to a good end.
func (n *Node) settled(it PlanItem, recovered []Outcome) (Outcome, bool) {
	for _, o := range recovered {
		if o.Digest == it.Digest && o.Kind.OK() {
			return o, true
		}
	}
	if it.Action == Skip {
		o := n.outcome(it, NotNeeded)
		o.Text = it.Reason
		return o, true
	}
	return Outcome{}, false
}

// matches checks that the target is the one that was planned for, in the state
// that was planned for.
func (n *Node) matches(plan TargetPlan, inv *transport.Inventory, byDigest map[string]*component.Component, recovered []Outcome) error {
	if !sameMachine(plan.Identity, inv.Identity) {
		return &Error{Target: n.t.key(), Step: "deploy", Err: fmt.Errorf("%w: another machine answers: %q serial %q, planned for %q serial %q",
			ErrPlanStale, inv.Identity.Name, inv.Identity.Serial, plan.Identity.Name, plan.Identity.Serial)}
	}
	for _, it := range plan.Items {
		if it.Action == Skip {
			continue
		}
		if _, done := n.settled(it, recovered); done {
			continue
		}
		now := planItem(n.t, inv, byDigest[it.Digest], PlanOptions{Rewrite: it.Rewrite, Downgrade: it.Downgrade})
		if why := it.stale(now); why != "" {
			return &Error{Target: n.t.key(), Step: "deploy", Component: it.Component, Err: fmt.Errorf("%w: %s", ErrPlanStale, why)}
		}
	}
	return nil
}

// apply brings one component onto the target and judges the result.
func (n *Node) apply(ctx context.Context, it PlanItem, c *component.Component, opts DeployOptions) Outcome {
	var claim claim
	if n.t.Kind.IsServer() {
		claim = n.install(ctx, it, c, opts)
	} else {
		claim = n.update(ctx, it, c, opts, "", nil)
	}
	o := n.judge(ctx, it, c, claim, opts)
	if claim.settle != nil && !claim.open {
		if err := claim.settle(context.WithoutCancel(ctx)); err != nil && o.Err == nil {
			o.Err = err
		}
	}
	return o
}

// claim is what is known about an attempt before the inventory is read again.
type claim struct {
	result transport.Result
	err    error  // the attempt could not be made, or its end is not known
	begun  bool   // something may have been changed on the target
	open   bool   // it still runs; the journal keeps it
	lost   string // why the target's own verdict is not known, if it is not
	settle func(ctx context.Context) error
}

// subjectReader reads what a component's subjects are now. A component does it;
// for the record of a dead run, whose component may be gone, the record does.
type subjectReader interface {
	prober
	Current(inv *transport.Inventory) []component.Found
	Compare(installed string) (int, error)
}

// judge decides on the outcome: by what the target claims, and for what it
// claims to have done by what is read back.
func (n *Node) judge(ctx context.Context, it PlanItem, c subjectReader, cl claim, opts DeployOptions) Outcome {
	o := n.outcome(it, Failed)
	o.Code, o.Text, o.Activation, o.Err = cl.result.Code, cl.result.Text, cl.result.Activation, cl.err
	switch {
	case cl.open:
		o.Kind = Unverified
		o.Text = join(o.Text, "it still runs on the target; recover fetches its result")
		return o
	case cl.err != nil && !cl.begun:
		if errors.Is(cl.err, context.Canceled) || errors.Is(cl.err, context.DeadlineExceeded) {
			o.Kind = Cancelled
		}
		o.Text = join(o.Text, cl.err.Error())
		return o
	case cl.result.Verdict == transport.VerdictCancelled:
		o.Kind = Cancelled
		return o
	}
	// From here on the target may have changed: read it again, also when the run
	// is being stopped.
	readCtx, cancel := graceful(ctx)
	defer cancel()
	opts.event(n, it.Component, "verify", nil)
	inv, err := n.inventory(readCtx, probesOf([]subjectReader{c}))
	proven, changed := false, false
	if err == nil {
		proven, changed = o.read(c.Current(inv), it, c)
	} else {
		o.Text = join(o.Text, "the second inventory failed: "+err.Error())
	}
	if cl.lost != "" {
		o.Text = join(o.Text, cl.lost)
	}
	switch cl.result.Verdict {
	case transport.VerdictFailed:
		o.Kind = Failed
	case transport.VerdictNotNeeded:
		o.Kind = NotNeeded
	case transport.VerdictStaged:
		// What waits for a reboot cannot be read yet.
		o.Kind = UpdatedNeedsReboot
		if o.Activation == transport.ActivationNone {
			o.Activation = transport.ActivationReboot
		}
	case transport.VerdictApplied:
		o.Kind = Unverified
		if proven && (changed || !it.Device) {
			o.Kind = Updated
		} else if err == nil {
			o.Text = join(o.Text, unproven(it, o))
		}
	default: // nobody says: only a change to the planned version is proof
		o.Kind = Unverified
		if proven && changed {
			o.Kind = Updated
		} else if err == nil {
			o.Text = join(o.Text, unproven(it, o))
		}
	}
	if o.Kind == Updated && o.Activation == transport.ActivationNone {
		o.Activation = it.Activation
	}
	if o.Kind == Updated && o.Activation != transport.ActivationNone {
		o.Kind = UpdatedNeedsReboot
	}
	return o
}

func unproven(it PlanItem, o Outcome) string {
	if len(it.Subjects) == 0 {
		return "the component does not say what it changes, so nothing proves that it did"
	}
	if it.Rewrite && o.From() == o.To() {
		return fmt.Sprintf("version %s was there before, so nothing proves that it was written again", o.To())
	}
	return fmt.Sprintf("the target reports %s, and %s was expected", describeTo(o.Subjects), it.Version)
}

func describeTo(subjects []Subject) string {
	now := make([]Subject, len(subjects))
	for i, s := range subjects {
		now[i] = Subject{Name: s.Name, From: s.To}
	}
	return describe(now)
}

// read fills in the versions that were found afterwards. It reports whether
// every subject that was to change has the planned version, and whether one of
// them had another before.
func (o *Outcome) read(found []component.Found, it PlanItem, c subjectReader) (proven, changed bool) {
	now := map[string]component.Found{}
	for _, f := range found {
		now[f.Subject] = f
	}
	proven = hasFit(it.Subjects)
	for i := range o.Subjects {
		s := &o.Subjects[i]
		f := now[s.Name]
		s.To = f.Version
		if !s.Fits {
			continue
		}
		order, err := c.Compare(f.Version)
		if !f.Installed || ((err != nil || order != 0) && f.Version != it.Version) {
			proven = false
		}
		changed = changed || f.Version != s.From
	}
	return proven, changed
}

func join(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "\n" + b
}
