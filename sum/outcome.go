package sum

import (
	"github.com/roundsman-go/roundsman/transport"
)

// OutcomeKind is what became of one component on one target.
type OutcomeKind string

// The outcomes.
const (
	// Updated: the new version was read back after the installation.
	Updated OutcomeKind = "Updated"
	// UpdatedNeedsReboot: installed; Outcome.Activation says what makes it take effect.
	UpdatedNeedsReboot OutcomeKind = "UpdatedNeedsReboot"
	// NotNeeded: nothing was to be done, and nothing was.
	NotNeeded OutcomeKind = "NotNeeded"
	// Failed: the target says that it failed, or it could not be attempted.
	Failed OutcomeKind = "Failed"
	// Cancelled: it did not begin, because the run was stopped.
	Cancelled OutcomeKind = "Cancelled"
	// Unverified: something was done, and what it did could not be proven.
	Unverified OutcomeKind = "Unverified"
)

// OK reports whether the outcome is what was wanted.
func (k OutcomeKind) OK() bool { return k == Updated || k == UpdatedNeedsReboot || k == NotNeeded }

// Outcome is the end of one component on one target. It is plain data.
type Outcome struct {
	Target     Target               `json:"target"`
	Component  string               `json:"component"`
	Version    string               `json:"version"`
	Digest     string               `json:"digest,omitempty"` // of the component
	Kind       OutcomeKind          `json:"outcome"`
	Subjects   []Subject            `json:"subjects,omitempty"`   // what changed, with versions before and after
	Activation transport.Activation `json:"activation,omitempty"` // what makes it take effect
	Code       transport.Code       `json:"code,omitzero"`        // what the target said, verbatim
	Text       string               `json:"text,omitempty"`       // what the target said, and why the outcome is what it is
	Recovered  bool                 `json:"recovered,omitempty"`  // an earlier run began it
	// Err is why it failed, where that was not the target's own verdict.
	Err error `json:"-"`
}

// From returns the version before, or "" if nothing was installed; of several
// subjects the first.
func (o Outcome) From() string {
	if len(o.Subjects) == 0 {
		return ""
	}
	return o.Subjects[0].From
}

// To returns the version that was read afterwards; of several subjects the first.
func (o Outcome) To() string {
	if len(o.Subjects) == 0 {
		return ""
	}
	return o.Subjects[0].To
}

// Subject is one thing that a component changes: a package, or a device.
type Subject struct {
	Name string `json:"name"` // package name, or Device.ID
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"` // in a plan: expected; in an outcome: read
	// Fits is false where the plan leaves the subject as it is.
	Fits bool `json:"fits"`
}
