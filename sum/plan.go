package sum

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// PlanVersion is the version of the form of a written Plan.
const PlanVersion = 1

// A Plan is what a deployment would do to a fleet. It is plain data: it can be
// written to a file, read by people, approved, and applied later, if inventory
// and payloads still match.
type Plan struct {
	V       int          `json:"v"`
	Created time.Time    `json:"created"`
	Targets []TargetPlan `json:"targets"`
}

// TargetPlan is what a deployment would do to one target.
type TargetPlan struct {
	Target   Target             `json:"target"`
	Identity transport.Identity `json:"identity"` // who the inventory came from
	Items    []PlanItem         `json:"items"`
}

// Action is what a plan does with a component.
type Action string

// The actions.
const (
	Install Action = "install"
	Skip    Action = "skip"
)

// PlanItem is one component in a plan.
type PlanItem struct {
	Component string    `json:"component"`
	Version   string    `json:"version"`
	Digest    string    `json:"digest"` // of the component and its files
	Source    string    `json:"source,omitempty"`
	Action    Action    `json:"action"`
	Reason    string    `json:"reason"`
	Subjects  []Subject `json:"subjects,omitempty"`
	Rewrite   bool      `json:"rewrite,omitempty"`
	Downgrade bool      `json:"downgrade,omitempty"`
	// MustChange says that only another version than before proves that the
	// component was installed: what it changes is not a package.
	MustChange bool `json:"must_change,omitempty"`
	// Activation is what the component says makes it take effect.
	Activation transport.Activation `json:"activation,omitempty"`
	// Unproven says that the inventory cannot tell what is installed, before or
	// after: the outcome will be Unverified.
	Unproven bool `json:"unproven,omitempty"`
	// Unknown says that what is installed could not be read, and Reason why. Such an
	// item that is left alone has the outcome Failed: it could not be attempted.
	Unknown bool `json:"unknown,omitempty"`
	// Refused says that the component fits and cannot be installed as things are, and
	// Reason what is to be done first, such as the version that must be there already.
	// The outcome of such an item is Failed.
	Refused bool `json:"refused,omitempty"`
	// After is an earlier item, which brings the version that this one needs. Unless that
	// is there, this one is not begun.
	After *Step `json:"after,omitempty"`
}

// Installs returns the number of items that change something.
func (p TargetPlan) Installs() int {
	n := 0
	for _, it := range p.Items {
		if it.Action == Install {
			n++
		}
	}
	return n
}

// PlanOptions are the options of MakePlan.
type PlanOptions struct {
	Rewrite   bool // also where the version is there already
	Downgrade bool // also where the version there is newer
}

// MakePlan compares what is on a target with the components and says what a
// deployment would do. It does nothing itself and asks nobody. A version that
// cannot be compared is left alone unless opts.Rewrite is set; so is what could not be
// read, which the plan says in PlanItem.Unknown. A component that needs a newer version
// than is there comes after one of the others that brings it, wherever they stand in
// comps, or is refused, which the plan says in PlanItem.After and PlanItem.Refused.
func MakePlan(t Target, inv *transport.Inventory, comps []*component.Component, opts PlanOptions) TargetPlan {
	items := make([]PlanItem, 0, len(comps))
	for _, c := range comps {
		items = append(items, compared(t, inv, c, opts))
	}
	return TargetPlan{Target: t, Identity: inv.Identity, Items: withSteps(comps, items)}
}

// planItem is what becomes of a component that is alone in its plan.
func planItem(t Target, inv *transport.Inventory, c *component.Component, opts PlanOptions) PlanItem {
	it := compared(t, inv, c, opts)
	if why := hindrance(c, it); why != "" {
		it.refuse(why)
	}
	return it
}

// compared compares a component with what is there, whatever it needs to be there.
func compared(t Target, inv *transport.Inventory, c *component.Component, opts PlanOptions) PlanItem {
	it := PlanItem{Component: c.Name, Version: c.Version, Digest: c.Digest(), Source: c.Source, Action: Skip,
		Activation: c.Activation, MustChange: c.Match.Package == nil}
	if len(c.Kinds) > 0 && !slices.Contains(c.Kinds, string(t.Kind)) {
		it.Reason = fmt.Sprintf("not for kind %s (for: %s)", t.Kind, strings.Join(c.Kinds, ", "))
		return it
	}
	if !c.Provable() {
		it.Action, it.Unproven = Install, true
		it.Reason = "the component does not say what it changes; nothing can be compared"
		return it
	}
	if why := probeFailed(inv, c.Match.Probe); why != "" {
		it.Unknown = true
		if !opts.Rewrite {
			it.Reason = "left alone: what is installed is not known: " + why
			return it
		}
		it.Rewrite = true
		it.Reason = "written as asked, although what is installed is not known: " + why
	}
	found := c.Current(inv)
	if len(found) == 0 {
		it.Reason = "nothing on the target that it fits"
		return it
	}
	fixed, free := "", false
	for _, f := range found {
		s := Subject{Name: f.Subject, From: f.Version}
		var why string
		before := it
		if s.Fits, why = decide(c, f, opts, &it); s.Fits && isFixed(inv, c, f) {
			it, s.Fits = before, false
			fixed, why = fmt.Sprintf("the target says that %s cannot be updated", f.Subject), ""
		} else {
			free = true
		}
		if s.Fits {
			s.To = c.Version
			it.Action = Install
		} else {
			s.To = f.Version
		}
		// The reason of the first subject that is to be changed counts, else the
		// first of all.
		if it.Reason == "" || (!it.Unknown && s.Fits && !hasFit(it.Subjects)) {
			it.Reason = why
		}
		it.Subjects = append(it.Subjects, s)
	}
	switch {
	case fixed == "" || it.Action == Install:
	case free: // the other may be a copy, as the redundant one of a system ROM
		it.Reason += "; " + fixed
	default:
		it.refuse(fixed)
	}
	if it.Activation == transport.ActivationReboot && ofProcessor(inv, c, it) {
		it.Activation = transport.ActivationNone
	}
	return it
}

// isFixed reports whether the target says that the firmware of a device cannot be updated.
func isFixed(inv *transport.Inventory, c *component.Component, f component.Found) bool {
	if c.Match.Device == nil || c.Match.Device.Part != component.Firmware {
		return false
	}
	return slices.ContainsFunc(inv.Devices, func(d transport.Device) bool {
		return d.ID == f.Subject && d.Updateable != nil && !*d.Updateable
	})
}

// ofProcessor reports whether all that an item changes is the firmware of management
// processors, which start anew by themselves: a reboot of the host does nothing for them.
// A package, or what a probe tells of, is none, whatever it is called.
func ofProcessor(inv *transport.Inventory, c *component.Component, it PlanItem) bool {
	if c.Match.Device == nil || c.Match.Device.Part != component.Firmware {
		return false
	}
	for _, s := range it.Subjects {
		is := func(d transport.Device) bool { return d.Class == transport.ClassBMC && d.ID == s.Name }
		if s.Fits && !slices.ContainsFunc(inv.Devices, is) {
			return false
		}
	}
	return hasFit(it.Subjects)
}

// probeFailed says why the probe of that name gave no answer, or "" if it did: a
// program that was not found or that ended with a status of its own is an answer,
// one that was ended is none.
func probeFailed(inv *transport.Inventory, name string) string {
	if name == "" {
		return ""
	}
	for _, p := range inv.Problems {
		if p.Part == agent.ProbePart(name) {
			return p.Text
		}
	}
	return ""
}

func hasFit(subjects []Subject) bool {
	return slices.ContainsFunc(subjects, func(s Subject) bool { return s.Fits })
}

// decide says whether a component is to be installed over what was found.
func decide(c *component.Component, f component.Found, opts PlanOptions, it *PlanItem) (bool, string) {
	if !f.Installed {
		return true, "not installed"
	}
	order, err := c.Compare(f.Version)
	switch {
	case err != nil && opts.Rewrite:
		it.Rewrite = true
		return true, fmt.Sprintf("rewritten as asked, although versions cannot be compared: %v", err)
	case err != nil:
		return false, fmt.Sprintf("left alone: %v", err)
	case order > 0:
		return true, fmt.Sprintf("%s is newer than %s", c.Version, f.Version)
	case order == 0 && opts.Rewrite:
		it.Rewrite = true
		return true, "rewritten as asked"
	case order == 0:
		return false, fmt.Sprintf("%s is there already", f.Version)
	case opts.Downgrade:
		it.Downgrade = true
		return true, fmt.Sprintf("downgraded from %s as asked", f.Version)
	}
	return false, fmt.Sprintf("%s is newer than %s", f.Version, c.Version)
}

// stale says how an item differs from what the same component would get now, or
// "" if it does not.
func (it PlanItem) stale(now PlanItem) string {
	if it.Digest != now.Digest {
		return "the component or one of its files has changed"
	}
	if it.Component != now.Component || it.Version != now.Version {
		return fmt.Sprintf("it says %s %s, and the component with its digest is %s %s", it.Component, it.Version, now.Component, now.Version)
	}
	if it.Unknown != now.Unknown {
		if now.Unknown {
			return "what is installed cannot be read any more: " + now.Reason
		}
		return "what is installed could not be read when it was made, and can be now"
	}
	if it.Action != now.Action {
		return fmt.Sprintf("it says %s, and now it would be %s: %s", it.Action, now.Action, now.Reason)
	}
	if !slices.EqualFunc(it.Subjects, now.Subjects, func(a, b Subject) bool { return a == b }) {
		return otherVersions(it, now)
	}
	return ""
}

func otherVersions(it, now PlanItem) string {
	return fmt.Sprintf("the target has other versions now: %s, planned for %s", describe(now.Subjects), describe(it.Subjects))
}

func describe(subjects []Subject) string {
	if len(subjects) == 0 {
		return "nothing"
	}
	s := ""
	for i, x := range subjects {
		if i > 0 {
			s += ", "
		}
		from := x.From
		if from == "" {
			from = "(not installed)"
		}
		s += x.Name + " " + from
	}
	return s
}

// sameMachine reports whether an identity read now can be the one that a plan
// was made for. What either side does not tell does not count.
func sameMachine(a, b transport.Identity) bool {
	differ := func(x, y string) bool { return x != "" && y != "" && x != y }
	return !differ(a.Serial, b.Serial) && !differ(a.UUID, b.UUID) && !differ(a.Name, b.Name)
}

// Digest returns the SHA-256 of the plan in hexadecimal, for approvals.
func (p Plan) Digest() (string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// ReadPlan parses a plan that was written as JSON.
func ReadPlan(b []byte) (Plan, error) {
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return Plan{}, &Error{Step: "plan", Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	if p.V != PlanVersion {
		return Plan{}, &Error{Step: "plan", Err: fmt.Errorf("%w: plan has version %d; this program reads %d", ErrInvalid, p.V, PlanVersion)}
	}
	for i := range p.Targets {
		t := &p.Targets[i]
		kind, err := ParseKind(string(t.Target.Kind))
		if err != nil {
			return Plan{}, err
		}
		t.Target.Kind = kind
		for _, it := range t.Items {
			if it.Action != Install && it.Action != Skip {
				return Plan{}, &Error{Target: t.Target.key(), Step: "plan", Component: it.Component,
					Err: fmt.Errorf("%w: unknown action %q", ErrInvalid, it.Action)}
			}
		}
	}
	return p, nil
}
