package sum

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Step is a component of a plan that another one stands on.
type Step struct {
	Component string `json:"component"`
	Version   string `json:"version"`
	Digest    string `json:"digest"`
}

// hindrance says why a component cannot be installed as things are, or "".
func hindrance(c *component.Component, it PlanItem) string {
	if it.Action != Install {
		return ""
	}
	if c.HostOnly() {
		return fmt.Sprintf("only an agent in the operating system applies it (%s): give the server itself as a target, and a component for its system", strings.Join(c.UpdatableBy, ", "))
	}
	if old := tooOld(c, it); len(old) > 0 {
		return fmt.Sprintf("needs %s at least, and there is %s: give a component with %s, or with a version between that and %s, as well", c.Minimum, describe(old), c.Minimum, c.Version)
	}
	return ""
}

// tooOld are the subjects of an item that a component is to change, and that have a version
// from which it cannot.
func tooOld(c *component.Component, it PlanItem) []Subject {
	var out []Subject
	for _, s := range it.Subjects {
		if s.Fits && c.Lacks(s.From) {
			out = append(out, s)
		}
	}
	return out
}

// refuse makes of an item one that is left alone because of what is missing.
func (it *PlanItem) refuse(why string) {
	it.Action, it.Refused, it.Reason = Skip, true, why
	for i := range it.Subjects {
		it.Subjects[i].Fits, it.Subjects[i].To = false, it.Subjects[i].From
	}
}

// steps finds what stands between what is on a target and the components of a plan.
type steps struct {
	comps []*component.Component
	items []PlanItem
	found map[int]route
}

// route is how an item can be installed: after another one, or at once.
type route struct {
	after int // -1: nothing
	long  int // how many steps come before
	open  bool
}

// withSteps puts before each item that needs a version in between the one that brings it,
// and refuses those for which there is none.
func withSteps(comps []*component.Component, items []PlanItem) []PlanItem {
	s := steps{comps, items, map[int]route{}}
	for i := range items {
		s.route(i)
	}
	out := make([]PlanItem, 0, len(items))
	placed := make([]bool, len(items))
	var place func(i int)
	place = func(i int) {
		if placed[i] {
			return
		}
		placed[i] = true
		it, r := items[i], s.found[i]
		switch {
		case !r.open:
			if why := hindrance(comps[i], it); why != "" {
				it.Subjects = slices.Clone(it.Subjects)
				it.refuse(why)
			}
		case r.after >= 0:
			place(r.after)
			step := items[r.after]
			it.After = &Step{step.Component, step.Version, step.Digest}
			it.Reason = fmt.Sprintf("%s; needs %s at least, so after %s %s", it.Reason, comps[i].Minimum, step.Component, step.Version)
		}
		out = append(out, it)
	}
	for i := range items {
		place(i)
	}
	return out
}

// route finds the shortest way for an item, and of those the one over the newest version.
func (s *steps) route(i int) route {
	if r, ok := s.found[i]; ok {
		return r
	}
	c, it := s.comps[i], s.items[i]
	best := route{after: -1}
	s.found[i] = best // nothing stands on itself
	if it.Action != Install || c.HostOnly() {
		return best
	}
	old := tooOld(c, it)
	if len(old) == 0 {
		best.open = true
		s.found[i] = best
		return best
	}
	for j := range s.items {
		if j == i || !s.bridges(j, i, old) {
			continue
		}
		r := s.route(j)
		switch {
		case !r.open || best.open && r.long+1 > best.long:
		case !best.open || r.long+1 < best.long || newer(s.comps[j], s.comps[best.after].Version):
			best = route{after: j, long: r.long + 1, open: true}
		}
	}
	s.found[i] = best
	return best
}

// bridges reports whether item j brings all of these subjects to a version from which
// item i goes on.
func (s *steps) bridges(j, i int, old []Subject) bool {
	c, step := s.comps[i], s.items[j]
	if order, err := version.Compare(c.Scheme, step.Version, c.Minimum); err != nil || order < 0 || !newer(c, step.Version) {
		return false
	}
	for _, o := range old {
		if !slices.ContainsFunc(step.Subjects, func(x Subject) bool { return x.Fits && x.Name == o.Name }) {
			return false
		}
	}
	return true
}

func newer(c *component.Component, than string) bool {
	order, err := c.Compare(than)
	return err == nil && order > 0
}

// unready says why an item cannot be begun: the step before it has not brought what it
// stands on, which was not there when the deployment began. It returns "" if it can.
func (it PlanItem) unready(c *component.Component, inv *transport.Inventory, outcomes []Outcome) string {
	if it.After == nil {
		return ""
	}
	for _, f := range c.Current(inv) {
		if c.Lacks(f.Version) && slices.ContainsFunc(it.Subjects, func(s Subject) bool { return s.Fits && s.Name == f.Subject }) {
			return it.After.missing(outcomes)
		}
	}
	return ""
}

// missing says what a step has not done, or "".
func (s Step) missing(outcomes []Outcome) string {
	why := "which has not been installed"
	for _, o := range outcomes {
		if o.Digest != s.Digest {
			continue
		}
		switch o.Kind {
		case Updated, NotNeeded:
			return ""
		case UpdatedNeedsReboot:
			why = fmt.Sprintf("which takes effect by a %s first: see to that, then deploy again", o.Activation)
		default:
			why = "which did not succeed"
		}
	}
	return fmt.Sprintf("left alone: it comes after %s %s, %s", s.Component, s.Version, why)
}

// staleStep says how an item that comes after another one differs from what the same
// component would get now, which has no others to stand on. done says that an earlier run
// has brought the step.
func (it PlanItem) staleStep(now PlanItem, done bool) string {
	if it.After != nil && now.Digest == it.Digest && (now.Refused || done && now.Action == Install) {
		at := func(subjects []Subject) []Subject {
			out := slices.Clone(subjects)
			for i := range out {
				out[i].Fits, out[i].To = false, ""
				if done {
					out[i].From = ""
				}
			}
			return out
		}
		if slices.Equal(at(it.Subjects), at(now.Subjects)) {
			return ""
		}
		return otherVersions(it, now)
	}
	return it.stale(now)
}
