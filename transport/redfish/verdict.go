package redfish

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// versions reads the versions, when the target is at work no more.
func (w *watch) versions(st status, now time.Time) (res transport.Result, done bool, err error) {
	if w.ended.IsZero() {
		w.ended = now
	}
	if st.claim {
		w.claim = st
	}
	have, err := w.installed()
	if err != nil {
		return res, false, err
	}
	w.progress("verify", 0, 0, "")
	if !w.settles(strings.Join(have, "\x00"), now) {
		return res, false, nil
	}
	var missing []string
	for i, s := range w.data.Subjects {
		if !same(have[i], w.data.Version) {
			missing = append(missing, fmt.Sprintf("%s has %s", s.ID, have[i]))
		}
	}
	settled := now.Sub(w.ended) > w.s.opts.SettleTimeout
	if len(missing) == 0 {
		return w.fresh(st, settled)
	}
	return w.stale(st, settled, strings.Join(missing, ", "))
}

// settles counts a read of the versions, and reports whether there were enough that are
// equal. Of the reads that events bring about, one in each PollInterval counts: what comes
// and goes while a target starts does so for longer than events are apart.
func (w *watch) settles(read string, now time.Time) bool {
	if read != w.read {
		w.read, w.reads = read, 0
	}
	if w.reads == 0 || now.Sub(w.counted) >= w.s.opts.PollInterval {
		w.reads++
		w.counted = now
	}
	return w.reads >= equalReads
}

// fresh judges an update after which every version reads as the new one.
func (w *watch) fresh(st status, settled bool) (res transport.Result, done bool, _ error) {
	end := func(v transport.Verdict, a transport.Activation) (transport.Result, bool, error) {
		return transport.Result{Verdict: v, Activation: a, Code: w.claim.code, Text: w.claim.text}, true, nil
	}
	wait := func(a transport.Activation) (transport.Result, bool, error) {
		if !settled { // it is about to reset
			return res, false, nil
		}
		if a != transport.ActivationNone {
			return end(transport.VerdictStaged, a)
		}
		return end(transport.VerdictApplied, a)
	}
	if w.data.Rewrite && st.waits {
		return end(transport.VerdictStaged, cmp.Or(w.activation(), transport.ActivationReboot))
	}
	reset := (w.data.Rewrite || w.data.Told != transport.ActivationNone) && w.wasReset()
	if w.data.Rewrite && (w.unsure || !w.claim.claim && !w.data.Worked && !reset) {
		// The version was there before, and says nothing; nor did the target.
		if !settled {
			return res, false, nil
		}
		says := "the target has shown no sign of an update"
		if w.unsure {
			says = w.notKnown()
		}
		return transport.Result{Text: says + ", and the version was there before"}, true, nil
	}
	// Many list at once what will only run later. A reset is over that was seen.
	switch told := w.data.Told; {
	case w.unsure:
	case told == transport.ActivationReset && !reset:
		return wait(told)
	case told != transport.ActivationReset && told != transport.ActivationNone:
		return end(transport.VerdictStaged, told)
	}
	if w.data.Rewrite {
		if what := w.activation(); what == transport.ActivationReboot || what == transport.ActivationPowerCycle {
			return end(transport.VerdictStaged, what)
		}
		if w.resets() && !reset {
			return wait(transport.ActivationNone)
		}
	}
	return end(transport.VerdictApplied, transport.ActivationNone)
}

// stale judges an update after which a version is not the new one.
func (w *watch) stale(st status, settled bool, missing string) (res transport.Result, done bool, _ error) {
	what := w.activation()
	if st.waits {
		what = cmp.Or(what, transport.ActivationReboot)
	}
	if what != transport.ActivationNone && !w.unsure && (w.claim.claim || st.waits || w.data.Worked && settled) {
		return transport.Result{Verdict: transport.VerdictStaged, Activation: what, Code: w.claim.code, Text: endOf(w.claim.text + "; " + st.text)}, true, nil
	}
	if !settled {
		return res, false, nil
	}
	says := "the target does not say what became of the update"
	switch {
	case w.unsure:
		says = w.notKnown()
	case w.claim.claim:
		says = "the target says that the update succeeded"
	}
	return transport.Result{Code: w.claim.code, Text: endOf(fmt.Sprintf("%s, but %s; %s", says, missing, w.claim.text))}, true, nil
}

// wasReset reports whether the target was reset since the wait began: it has ended the
// session, or says so.
func (w *watch) wasReset() bool {
	again := w.s.loginCount() != w.logins
	if again || w.data.Before.Boot == "" {
		return again
	}
	boot := w.boot()
	return boot != "" && boot != w.data.Before.Boot
}

// resets reports whether what is updated starts anew by itself.
func (w *watch) resets() bool {
	return slices.ContainsFunc(w.data.Subjects, func(s subject) bool { return s.Class == transport.ClassBMC })
}

// activation is what the update waits for, by what the target says, the package says, or
// the part is; none where nothing tells. A management processor resets by itself.
func (w *watch) activation() transport.Activation {
	out := w.data.Told
	for _, s := range w.data.Subjects {
		switch name := strings.ToLower(s.Name); {
		case strings.Contains(name, "programmable logic"), strings.Contains(name, "cpld"):
			out = stronger(out, transport.ActivationPowerCycle)
		case s.Class == transport.ClassBMC:
			continue
		case s.Class == transport.ClassBIOS:
			out = stronger(out, transport.ActivationReboot)
		}
		out = stronger(out, w.data.Staged)
	}
	return out
}

// installed reads the versions of the subjects.
func (u *update) installed() ([]string, error) {
	r := &reader{conn: u.conn, ctx: u.ctx, op: "update", related: map[string]int{}}
	entries, err := u.entries(r, slices.ContainsFunc(u.data.Subjects, func(s subject) bool { return s.Part }))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range u.data.Subjects {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.err == nil && e.device.ID == s.ID })
		if i < 0 {
			for _, e := range entries {
				if e.err != nil { // it may be that one
					return nil, e.err
				}
			}
			return nil, &transport.Error{Op: "update", Target: u.s.target, Kind: fs.ErrNotExist, Err: fmt.Errorf("the inventory has no %q any more", s.ID),
				Hint: "see what is in its place"}
		}
		out = append(out, entries[i].device.Firmware)
	}
	return out, nil
}
