package main

import (
	"sync"

	"github.com/roundsman-go/roundsman/sum"
)

// The exit statuses. Where several apply the first of this order counts:
// exitUsage, exitStopped, exitFailed, exitUnverified, and then with
// --detailed-exitcode exitReboot, exitNothing.
const (
	exitFine       = 0
	exitReboot     = 1 // only with --detailed-exitcode
	exitUsage      = 2
	exitNothing    = 3 // only with --detailed-exitcode
	exitFailed     = 10
	exitUnverified = 11
	exitStopped    = 12
)

const exitHelp = `Exit status:
  0   fine, also when nothing was needed
  2   usage: arguments, or files that they name, make no sense; nothing was done
  10  some target failed
  11  the outcome of some component is Unverified, or left for recover to prove
  12  stopped by SIGINT or SIGTERM`

const exitDetailedHelp = exitHelp + `
with --detailed-exitcode also
  1   fine, and some target needs a reboot (or reset, or power cycle)
  3   fine, and nothing was needed
Where several apply, the order is 12, 10, 11, 1, 3, 0.`

// tally is what became of a run. It is safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	targets  int
	failed   map[string]bool // by target; "" is what is no target's
	pending  bool            // a result is not known, or not proven
	outcomes map[outcomeKey]sum.Outcome
}

type outcomeKey struct{ target, digest string }

// fail counts a target as failed.
func (t *tally) fail(target string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = map[string]bool{}
	}
	t.failed[target] = true
}

// leave notes that recover has something to prove.
func (t *tally) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending = true
}

// add counts an outcome. One of this run takes the place of the one of an earlier
// run for the same component, unless it only says that the earlier one was good:
// then add returns false.
func (t *tally) add(o sum.Outcome) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := outcomeKey{targetKey(o.Target), o.Digest}
	if before, ok := t.outcomes[k]; ok && before.Recovered && !o.Recovered && before.Kind.OK() && o.Kind == sum.NotNeeded {
		return false
	}
	if t.outcomes == nil {
		t.outcomes = map[outcomeKey]sum.Outcome{}
	}
	t.outcomes[k] = o
	return true
}

// counts returns how many outcomes there are of each kind.
func (t *tally) counts() map[sum.OutcomeKind]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[sum.OutcomeKind]int{}
	for _, o := range t.outcomes {
		out[o.Kind]++
	}
	return out
}

// failures returns how many targets failed: an error, or an outcome that is not
// what was wanted.
func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	failed := map[string]bool{}
	for target := range t.failed {
		if target != "" {
			failed[target] = true
		}
	}
	for k, o := range t.outcomes {
		if failure(o) {
			failed[k.target] = true
		}
	}
	return len(failed)
}

// failure reports whether an outcome is a failure. That an earlier run never
// began what it wanted to is none: it is planned again, or not wanted any more.
func failure(o sum.Outcome) bool {
	return o.Kind == sum.Failed || o.Kind == sum.Cancelled && !o.Recovered
}

// status is the exit status.
func (t *tally) status(stopped, detailed bool) int {
	counts := t.counts()
	t.mu.Lock()
	pending, broken := t.pending, t.failed[""]
	t.mu.Unlock()
	switch {
	case stopped:
		return exitStopped
	case t.failures() > 0 || broken:
		return exitFailed
	case pending || counts[sum.Unverified] > 0:
		return exitUnverified
	case !detailed:
		return exitFine
	case counts[sum.UpdatedNeedsReboot] > 0:
		return exitReboot
	case counts[sum.Updated] == 0:
		return exitNothing
	}
	return exitFine
}

// targetKey is the name under which people and journals know a target.
func targetKey(t sum.Target) string {
	if t.Name != "" {
		return t.Name
	}
	return t.String()
}
