package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum"
)

// A reporter writes what happens: JSON objects, one a line, or lines for people.
// It is safe for concurrent use. A failed write does not stop the work; the first
// one is told at the end.
type reporter struct {
	json    bool
	verbose bool
	out     io.Writer
	live    *live // nil where nothing is redrawn
	// passwordFile is the file that a fleet file names for the password of a target, or "".
	passwordFile func(sum.Target) string

	mu    sync.Mutex
	err   error
	shown map[progressKey]progressMark
}

func newReporter(out io.Writer, asJSON, verbose bool, l *live) *reporter {
	return &reporter{json: asJSON, verbose: verbose, out: out, live: l, shown: map[progressKey]progressMark{}}
}

// writerFunc is an io.Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// raw writes text as it is.
func (r *reporter) raw(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.live != nil {
		err = r.live.print(p)
	} else {
		_, err = r.out.Write(p)
	}
	if err != nil && r.err == nil {
		r.err = err
	}
	return len(p), nil
}

// event writes a JSON object.
func (r *reporter) event(e any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil { // all events are plain data
		r.mu.Lock()
		r.err = errors.Join(r.err, err)
		r.mu.Unlock()
		return
	}
	_, _ = r.raw(append(cleanJSON(bytes.TrimRight(buf.Bytes(), "\n")), '\n'))
}

// line writes a line for people; nothing in it may be from a target unless it was
// cleaned.
func (r *reporter) line(format string, args ...any) {
	_, _ = r.raw(fmt.Appendf(nil, format+"\n", args...))
}

// lines writes a text below a line, indented.
func (r *reporter) lines(text string) {
	for _, l := range cleanLines(text) {
		r.line("    %s", l)
	}
}

// finish tells about output that was lost, and returns the exit status.
func (r *reporter) finish(stderr io.Writer, status int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil || errors.Is(r.err, syscall.EPIPE) {
		return status // a reader that has seen enough is no failure
	}
	fmt.Fprintf(stderr, "roundsman: output was lost: %s\n", clean(r.err.Error()))
	if status < exitFailed {
		return exitFailed
	}
	return status
}

func (r *reporter) inventory(e inventoryEvent, t sum.Target) {
	if r.json {
		r.event(e)
		return
	}
	writeInventory(r, t, e.Inventory)
}

func (r *reporter) plan(p sum.TargetPlan) {
	for _, it := range p.Items {
		e := newPlanEvent(p.Target, it)
		if r.json {
			r.event(e)
			continue
		}
		to := ""
		if it.Action == sum.Install {
			to = "  " + versions(e.From, e.To)
		}
		note := ""
		if it.Unproven && it.Action == sum.Install {
			note = " (the outcome will be Unverified)"
		}
		action := string(it.Action)
		if it.Refused {
			action = "refused"
		}
		r.line("%s: %s  %s%s: %s%s", clean(targetKey(p.Target)), clean(it.Component), action, to, clean(it.Reason), note)
	}
}

// versions shows a change for people.
func versions(from, to string) string {
	if from == "" {
		from = "(none)"
	}
	if to == "" {
		to = "(none)"
	}
	if from == to {
		return clean(from)
	}
	return clean(from) + " -> " + clean(to)
}

func (r *reporter) outcome(o sum.Outcome) {
	e := newOutcomeEvent(o)
	if o.Err != nil {
		e.Advice = r.advice(&o.Target, o.Err)
	}
	if r.json {
		r.event(e)
		return
	}
	var extra []string
	if o.Kind != sum.Failed && o.Kind != sum.Cancelled {
		extra = append(extra, versions(e.From, e.To))
	}
	if e.Activation != "" && o.Kind == sum.UpdatedNeedsReboot {
		needs := "needs " + clean(string(e.Activation))
		if e.From == e.To && e.Version != "" && e.Version != e.To { // staged
			needs += " for " + clean(e.Version)
		}
		extra = append(extra, needs)
	}
	// That a MessageId says success is no news; what an installer ended with may be.
	if !o.Code.IsZero() && (r.verbose || o.Kind != sum.Updated || o.Code.Space != "redfish") {
		extra = append(extra, clean(o.Code.String()))
	}
	if o.Recovered {
		extra = append(extra, "begun by an earlier run")
	}
	r.line("%s: %s  %s  %s", clean(targetKey(o.Target)), clean(o.Component), o.Kind, strings.Join(extra, ", "))
	text := inFlags.Replace(o.Text)
	if o.Kind != sum.Updated || r.verbose {
		r.lines(text)
	}
	if e.Error != "" && !strings.Contains(text, e.Error) {
		r.lines(e.Error)
	}
	r.lines(e.Advice)
}

func (r *reporter) recovered(rec sum.Recovery) {
	if r.json {
		r.event(recoveredEvent{newHeader("recovered"), rec.Target.String(), rec.Target.Name, rec.Left, rec.Removed})
		return
	}
	for _, dir := range rec.Removed {
		r.line("%s: removed what was left in %s", clean(targetKey(rec.Target)), clean(dir))
	}
	if len(rec.Outcomes)+len(rec.Removed) == 0 {
		r.line("%s: nothing unfinished", clean(targetKey(rec.Target)))
	}
}

func (r *reporter) log(t sum.Target, path string) {
	if r.json {
		r.event(logEvent{newHeader("log"), t.String(), t.Name, path})
		return
	}
	r.line("%s", clean(path))
}

func (r *reporter) fail(t *sum.Target, err error) {
	if r.json {
		e := newErrorEvent(t, err)
		e.Advice = r.advice(t, err)
		r.event(e)
		return
	}
	what, rest := told(err)
	r.line("error: %s", clean(what))
	for _, l := range rest {
		r.line("    %s", clean(l))
	}
	r.lines(r.advice(t, err))
}

// advice is adviceOn, and names the file with the password that was refused, if the fleet file
// has one for the target: no other counts for it.
func (r *reporter) advice(t *sum.Target, err error) string {
	advice := adviceOn(err, kindOf(t))
	if t == nil || r.passwordFile == nil || advice == "" || codeOf(err, t.Kind) != string(sum.FindLogin) {
		return advice
	}
	file := r.passwordFile(*t)
	if file == "" {
		return advice
	}
	return refusedFile(file) + ", instead of --password-file; " + advice
}

// refusedFile says whence a password is.
func refusedFile(file string) string {
	return "the password is that in " + file + ", which password_file of the fleet file names"
}

func (r *reporter) summary(e summaryEvent) {
	if r.json {
		r.event(e)
		return
	}
	parts := []string{plural(e.Targets, "target")}
	for _, k := range []sum.OutcomeKind{sum.Updated, sum.UpdatedNeedsReboot, sum.NotNeeded, sum.Failed, sum.Cancelled, sum.Unverified} {
		if n := e.Outcomes[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	if e.Failed > 0 {
		parts = append(parts, plural(e.Failed, "target")+" failed")
	}
	if e.Stopped {
		parts = append(parts, "stopped")
	}
	r.line("%s", strings.Join(parts, ", "))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// progressEvery is how often the same transfer is reported where it cannot be
// redrawn.
const progressEvery = 500 * time.Millisecond

type progressKey struct{ target, component string }

type progressMark struct {
	phase, text string
	at          time.Time
}

// progress reports an event of a step.
func (r *reporter) progress(e sum.Event) {
	if r.live != nil {
		r.live.set(targetKey(e.Target), progressLine(e))
		if !r.verbose {
			return
		}
	}
	if !r.due(e) {
		return
	}
	if r.json {
		r.event(progressEvent{newHeader("progress"), e.Target.String(), e.Component, e.Phase, e.Done, e.Total, e.Kept, e.Text, e.Target.Name})
		return
	}
	if e.Total == 0 && e.Text != "" {
		if r.verbose {
			for _, l := range cleanLines(e.Text) {
				r.line("%s: %s  %s  %s", clean(targetKey(e.Target)), clean(e.Component), clean(e.Phase), l)
			}
		}
		return
	}
	r.line("%s", strings.TrimRight(clean(targetKey(e.Target))+": "+progressLine(e), " "))
}

// due reports whether an event is to be written. What a program printed always
// is; of a transfer in JSON a few in between, in text only the beginning; of
// anything else the beginning.
func (r *reporter) due(e sum.Event) bool {
	if e.Total == 0 && e.Text != "" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key, now := progressKey{targetKey(e.Target), e.Component}, time.Now()
	last := r.shown[key]
	same := last.phase == e.Phase && last.text == e.Text
	ended := e.Total > 0 && e.Done >= e.Total
	if same && (!r.json || !ended && now.Sub(last.at) < progressEvery) {
		return false
	}
	r.shown[key] = progressMark{e.Phase, e.Text, now}
	return true
}

// progressLine is an event in one line, without its target.
func progressLine(e sum.Event) string {
	var b strings.Builder
	if e.Component != "" {
		b.WriteString(clean(e.Component) + "  ")
	}
	b.WriteString(clean(e.Phase))
	if e.Total == 100 { // in percent, as devices tell it
		fmt.Fprintf(&b, "  %d%%", e.Done)
	} else if e.Total > 0 {
		fmt.Fprintf(&b, "  %d%% of %s", 100*e.Done/e.Total, size(e.Total))
		if e.Kept > 0 {
			fmt.Fprintf(&b, " (%s was there)", size(e.Kept))
		}
	}
	if lines := cleanLines(e.Text); len(lines) > 0 {
		b.WriteString("  " + lines[len(lines)-1])
	}
	return b.String()
}

// size shows a number of bytes.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 4; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// begin shows that something has begun on a target, where that is redrawn.
func (r *reporter) begin(t sum.Target, what string) {
	if r.live != nil {
		r.live.set(targetKey(t), what)
	}
}

// idle shows that nothing is done on a target any more.
func (r *reporter) idle(t sum.Target) {
	if r.live != nil {
		r.live.done(targetKey(t))
	}
}
