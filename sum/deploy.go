package sum

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// Deploy is a step: it applies a plan to its target and proves each outcome by a
// second inventory. Before the first change it finishes what a dead run began on
// this target, and checks that target and payloads still match the plan:
// otherwise nothing is done and the error is ErrPlanStale. comps holds the
// components of the plan, in any order.
//
// The outcomes are those of the plan's items, in their order; before them stand
// those of what a dead run began and the plan does not settle, with Recovered set.
//
// A component that fails does not make Deploy fail: that is its Outcome. The
// error is for what kept Deploy from going on; the outcomes so far come with it.
// When ctx ends, a component that has not begun is Cancelled; one that runs is
// given transport.CloseGrace to end, and is otherwise left to itself: the journal
// keeps it, and Recover or the next Deploy fetches its result. The journal also
// keeps one that has ended and whose second inventory could not be read; it is
// Unverified until Recover or the next Deploy reads that.
func Deploy(ctx context.Context, n *Node, plan TargetPlan, comps []*component.Component, opts DeployOptions) ([]Outcome, error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("deploy", "", err)
	}
	defer end()
	if err := n.turn.take(ctx); err != nil {
		return nil, n.fail("deploy", "", err)
	}
	defer n.turn.give()
	if err := n.takeOver(ctx); err != nil {
		return nil, n.fail("deploy", "", err)
	}
	opts.KeepAgent = true // for this deployment
	recovered, err := n.recover(ctx, comps, opts)
	if err != nil {
		return recovered.Outcomes, n.fail("recover", "", fmt.Errorf("%w: %w", ErrPending, err))
	}
	outcomes, err := n.deploy(ctx, plan, comps, recovered.Outcomes, opts)
	return outcomes, n.fail("deploy", "", err)
}

func (n *Node) deploy(ctx context.Context, plan TargetPlan, comps []*component.Component, recovered []Outcome, opts DeployOptions) ([]Outcome, error) {
	// What an earlier run began and the plan does not settle is told first.
	var outcomes []Outcome
	for _, o := range recovered {
		if !slices.ContainsFunc(plan.Items, func(it PlanItem) bool { return settles(o, it) }) {
			outcomes = append(outcomes, o)
		}
	}
	planned, err := n.planned(plan, comps)
	if err != nil {
		return append(outcomes, settling(recovered, plan)...), err
	}
	opts.event(n, "", "inventory", nil)
	inv, err := n.inventory(ctx, probesOf(slices.Collect(maps.Values(planned))))
	if err == nil {
		err = n.matches(plan, inv, planned, recovered)
	}
	if err == nil {
		err = n.fit(ctx, n.ahead(plan, planned, recovered), opts)
	}
	if err != nil {
		return append(outcomes, settling(recovered, plan)...), err
	}
	failed := ""
	for _, it := range plan.Items {
		o, done := n.settled(it, recovered)
		switch {
		case done:
		case failed != "":
			o = n.outcome(it, Cancelled)
			o.Text = "left alone because " + failed + " did not succeed"
		case ctx.Err() != nil:
			o = n.outcome(it, Cancelled)
			o.Text = "stopped before it began"
		case it.unready(planned[it.Digest], inv, outcomes) != "":
			o = n.outcome(it, Cancelled)
			o.Text = it.unready(planned[it.Digest], inv, outcomes)
		default:
			var err error
			if o, err = n.apply(ctx, it, planned[it.Digest], opts); err != nil {
				return append(outcomes, o), err
			}
		}
		if opts.StopOnFailure && (o.Kind == Failed || o.Kind == Unverified) && !o.Recovered || errors.Is(o.Err, agent.ErrHostBusy) {
			failed = it.Component
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, ctx.Err()
}

// planned returns the components of the plan by digest, and no others: nothing
// of a component that was not approved is run on the target, not even a probe.
func (n *Node) planned(plan TargetPlan, comps []*component.Component) (map[string]*component.Component, error) {
	if !plan.Target.same(n.t) {
		return nil, fmt.Errorf("%w: it was made for %s", ErrPlanStale, plan.Target)
	}
	at := map[string]*component.Component{}
	for _, c := range comps {
		at[c.Digest()] = c
	}
	out := map[string]*component.Component{}
	for _, it := range plan.Items {
		if out[it.Digest] = at[it.Digest]; out[it.Digest] == nil {
			return nil, &Error{Target: n.t.key(), Step: "deploy", Component: it.Component,
				Err: fmt.Errorf("%w: no component at hand has the digest %.12s of the plan: it has changed, or is missing", ErrPlanStale, it.Digest)}
		}
	}
	return out, nil
}

// settles reports whether nothing more is to be done for an item because of what
// an earlier run began: it came to a good end, or something was done that cannot
// be proven, and doing it again is for people to decide. What failed or never
// began may be tried again.
func settles(o Outcome, it PlanItem) bool {
	return o.Digest == it.Digest && (o.Kind.OK() || o.Kind == Unverified)
}

// settling returns the recovered outcomes that settle items of a plan.
func settling(recovered []Outcome, plan TargetPlan) []Outcome {
	var out []Outcome
	for _, o := range recovered {
		if slices.ContainsFunc(plan.Items, func(it PlanItem) bool { return settles(o, it) }) {
			out = append(out, o)
		}
	}
	return out
}

// outcome starts the outcome of a plan item.
func (n *Node) outcome(it PlanItem, kind OutcomeKind) Outcome {
	o := Outcome{Target: n.t, Component: it.Component, Version: it.Version, Digest: it.Digest, Kind: kind}
	for _, s := range it.Subjects {
		o.Subjects = append(o.Subjects, Subject{Name: s.Name, From: s.From, To: s.From, Fits: s.Fits})
	}
	return o
}

// settled returns the outcome of an item for which nothing is done: the plan skips
// it, or an earlier run has settled it.
func (n *Node) settled(it PlanItem, recovered []Outcome) (Outcome, bool) {
	for _, o := range recovered {
		if settles(o, it) {
			return o, true
		}
	}
	if it.Action == Skip {
		o := n.outcome(it, NotNeeded)
		if it.Unknown || it.Refused { // whether it is needed nobody knows, or it is
			o.Kind = Failed
		}
		o.Text = it.Reason
		return o, true
	}
	return Outcome{}, false
}

// matches checks that the target is the one that was planned for, in the state
// that was planned for.
func (n *Node) matches(plan TargetPlan, inv *transport.Inventory, planned map[string]*component.Component, recovered []Outcome) error {
	if !sameMachine(plan.Identity, inv.Identity) {
		return fmt.Errorf("%w: another machine answers: %q serial %q, planned for %q serial %q",
			ErrPlanStale, inv.Identity.Name, inv.Identity.Serial, plan.Identity.Name, plan.Identity.Serial)
	}
	for _, it := range plan.Items {
		if slices.ContainsFunc(recovered, func(o Outcome) bool { return settles(o, it) }) {
			continue
		}
		now := planItem(n.t, inv, planned[it.Digest], PlanOptions{Rewrite: it.Rewrite, Downgrade: it.Downgrade})
		done := slices.ContainsFunc(recovered, func(o Outcome) bool { return it.After != nil && o.Digest == it.After.Digest && o.Kind.OK() })
		if why := it.staleStep(now, done); why != "" {
			return &Error{Target: n.t.key(), Step: "deploy", Component: it.Component, Err: fmt.Errorf("%w: %s", ErrPlanStale, why)}
		}
	}
	return nil
}

// apply brings one component onto the target and judges the result. It fails where
// the outcome cannot be noted.
func (n *Node) apply(ctx context.Context, it PlanItem, c *component.Component, opts DeployOptions) (Outcome, error) {
	var claim claim
	if n.t.Kind.IsServer() {
		claim = n.install(ctx, it, c, opts)
	} else {
		claim = n.update(ctx, it, c, opts, "", nil)
	}
	claim.result = clip(claim.result)
	o, unread := n.judge(ctx, it, c, claim, opts)
	if unread != nil {
		o.Text = join(o.Text, "recover, or the next deployment, reads it again")
	}
	// Whenever the manager is killed, the outcome is noted or the record is open.
	if err := n.s.books.note(context.WithoutCancel(ctx), o); err != nil {
		n.s.books.leave(claim.kind, n.t, claim.id)
		if claim.withdraw != nil && !claim.open {
			claim.withdraw(context.WithoutCancel(ctx))
		}
		return o, err
	}
	if err := n.conclude(ctx, claim, unread); err != nil && o.Err == nil {
		o.Err = err
	}
	return o, nil
}

// conclude notes in the journal how an attempt stands: over, or known but for the
// inventory that could not be read.
func (n *Node) conclude(ctx context.Context, cl claim, unread error) error {
	ctx = context.WithoutCancel(ctx)
	switch {
	case cl.settle == nil: // there is no record
		return nil
	case cl.open:
		n.s.books.leave(cl.kind, n.t, cl.id)
		return nil
	}
	if cl.withdraw != nil {
		cl.withdraw(ctx)
	}
	if unread != nil {
		err := cl.keep(ctx, finding{cl.result, cl.lost})
		n.s.books.leave(cl.kind, n.t, cl.id)
		return err
	}
	return cl.settle(ctx)
}

// claim is what is known about an attempt before the inventory is read again.
type claim struct {
	result  transport.Result
	err     error  // the attempt could not be made, or its end is not known
	begun   bool   // something may have been changed on the target
	open    bool   // it still runs; the journal keeps it
	unknown bool   // the agent has no record of it
	lost    string // why the target's own verdict is not known, if it is not
	entry
}

// entry is an attempt's record in the journal.
type entry struct {
	kind, id string
	withdraw func(ctx context.Context)                  // ends what is offered for it; nil if there is nothing
	settle   func(ctx context.Context) error            // closes it
	keep     func(ctx context.Context, f finding) error // adds what was found
}

// claim is the claim of an attempt that has ended.
func (f finding) claim() claim { return claim{begun: true, result: f.Result, lost: f.Lost} }

// subjectReader reads what a component's subjects are now. A component does it;
// for the record of a dead run, whose component may be gone, the record does.
type subjectReader interface {
	prober
	Current(inv *transport.Inventory) []component.Found
	Compare(installed string) (int, error)
}

// judge decides on the outcome: by what the target claims, and for what it
// claims to have done by what is read back. unread is why that could not be read,
// where a later inventory may still prove or disprove the claim.
func (n *Node) judge(ctx context.Context, it PlanItem, c subjectReader, cl claim, opts DeployOptions) (o Outcome, unread error) {
	o = n.outcome(it, Failed)
	o.Code, o.Text, o.Activation, o.Err = cl.result.Code, cl.result.Text, cl.result.Activation, cl.err
	switch {
	case cl.open:
		o.Kind = Unverified
		o.Text = join(o.Text, "its end is not known; recover fetches the result")
		if cl.err != nil {
			o.Text = join(o.Text, cl.err.Error())
		}
		return o, nil
	case cl.err != nil && !cl.begun:
		if ctx.Err() != nil {
			o.Kind = Cancelled
		}
		o.Text = join(o.Text, cl.err.Error())
		return o, nil
	case cl.result.Verdict == transport.VerdictCancelled:
		o.Kind = Cancelled
		return o, nil
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
		if len(it.Subjects) > 0 && (err != nil || o.contradicted(c)) {
			o.Kind = Unverified
			o.Text = join(o.Text, "the target says that nothing was needed; "+unproven(it, o, inv, c))
		}
	case transport.VerdictStaged:
		// What waits for a reboot cannot be read yet.
		o.Kind = UpdatedNeedsReboot
		if o.Activation == transport.ActivationNone {
			o.Activation = transport.ActivationReboot
		}
	case transport.VerdictApplied:
		o.Kind = Unverified
		if proven && (changed || !it.MustChange) {
			o.Kind = Updated
		} else if err == nil {
			o.Text = join(o.Text, unproven(it, o, inv, c))
		}
	default: // nobody says: only a change to the planned version is proof
		o.Kind = Unverified
		if proven && changed {
			o.Kind = Updated
		} else if err == nil {
			o.Text = join(o.Text, unproven(it, o, inv, c))
		}
	}
	if o.Kind == Updated && o.Activation == transport.ActivationNone {
		o.Activation = it.Activation
	}
	if o.Kind == Updated && o.Activation != transport.ActivationNone {
		o.Kind = UpdatedNeedsReboot
	}
	if err != nil && o.Kind == Unverified {
		if o.Err == nil {
			o.Err = err
		}
		if hasFit(it.Subjects) && mendable(err) {
			return o, err
		}
	}
	return o, nil
}

// mendable reports whether an inventory that failed may succeed another time: when
// the line is back, the disk has room, or somebody has put something right.
func mendable(err error) bool {
	for _, kind := range []error{errors.ErrUnsupported, transport.ErrInvalid, ErrInvalid} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return true
}

// unproven says why what was read proves nothing. inv is nil if nothing was read.
func unproven(it PlanItem, o Outcome, inv *transport.Inventory, c subjectReader) string {
	if len(it.Subjects) == 0 {
		return "the component does not say what it changes, so nothing proves that it did"
	}
	if it.Rewrite && o.To() != "" && o.From() == o.To() {
		return fmt.Sprintf("version %s was there before, so nothing proves that it was written again", o.To())
	}
	text := fmt.Sprintf("the target reports %s, and %s was expected", describeTo(o.Subjects), it.Version)
	if inv == nil {
		return text
	}
	said, known := probeSaid(inv, c)
	if !known {
		return fmt.Sprintf("what is there now is not known, and %s was expected: %s", it.Version, said)
	}
	return join(text, said)
}

func describeTo(subjects []Subject) string {
	now := make([]Subject, len(subjects))
	for i, s := range subjects {
		now[i] = Subject{Name: s.Name, From: s.To}
	}
	return describe(now)
}

// read fills in the versions that were found afterwards. It reports whether
// every subject that was to change has the planned version, and whether each of
// them had another before.
func (o *Outcome) read(found []component.Found, it PlanItem, c subjectReader) (proven, changed bool) {
	now := map[string]component.Found{}
	for _, f := range found {
		now[f.Subject] = f
	}
	proven = hasFit(it.Subjects)
	changed = proven
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
		changed = changed && f.Version != s.From
	}
	return proven, changed
}

// contradicted reports whether what was read afterwards speaks against a target
// that says that nothing was needed: something older than the component is there.
// What is not there at all the installer may rightly think not applicable.
func (o *Outcome) contradicted(c subjectReader) bool {
	for _, s := range o.Subjects {
		if order, err := c.Compare(s.To); s.Fits && s.To != "" && (err != nil || order > 0) {
			return true
		}
	}
	return false
}
