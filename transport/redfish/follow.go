package redfish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// equalReads is how often a version must read the same before it counts: while a target
// starts, what it says of its parts comes and goes.
const equalReads = 3

// gather is how long after an event there is a look, at most: one for all that is told at
// a time, so that whoever tells much does not have the target asked without a pause.
const gather = 2 * time.Second

// watch is the wait for one update.
type watch struct {
	*update
	offers  *offers
	sign    time.Time // of the last progress
	seen    time.Time // of the last answer
	last    string    // progress, to tell whether there is any
	logins  int       // when the wait began
	ended   time.Time // since when it says nothing of an update any more
	claim   status    // the last that said that it ended
	reads   int       // equal reads of the versions
	read    string    // what was read last
	counted time.Time // the last of the equal reads
	refused int       // logins
	wait    time.Duration
}

func (u *update) watch(o *offers) *watch {
	now := time.Now()
	return &watch{update: u, offers: o, sign: now, seen: now, logins: u.s.loginCount()}
}

// follow waits for the end of an update, and reads the versions.
func (u *update) follow(o *offers) (transport.Result, error) {
	w := u.watch(o)
	o.watch(u.ctx, u.s.opts.StallTimeout)
	defer u.listen()()
	for {
		res, done, err := w.look()
		if err != nil || done {
			return res, err
		}
		if w.wait > 0 { // which it has asked for
			err = u.pause(max(u.s.opts.PollInterval, w.wait))
		} else {
			err = u.nap()
		}
		if err != nil {
			return res, err
		}
	}
}

// between waits until the target has taken a section.
func (u *update) between(o *offers) (transport.Result, error) {
	w := u.watch(o)
	for still := 0; still < equalReads; {
		now := time.Now()
		w.wait = 0
		st, err := u.status()
		switch {
		case err != nil:
			if res, done, err := w.away(err, now); done || err != nil {
				return res, err
			}
		case st.failed:
			return transport.Result{Verdict: transport.VerdictFailed, Code: st.code, Text: st.text}, nil
		case st.claim:
			return transport.Result{}, nil
		case st.running:
			if err := w.running(st, now); err != nil {
				return transport.Result{}, err
			}
		default: // it has none of this to do, or has not begun
			still++
			w.seen = now
		}
		if err := u.pause(max(u.s.opts.PollInterval, w.wait)); err != nil {
			return transport.Result{}, err
		}
	}
	return transport.Result{}, nil
}

// nap waits between two looks, or until there is news.
func (u *update) nap() error {
	t := time.NewTimer(u.s.opts.PollInterval)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-u.wake:
		u.events.tell()
		return u.pause(min(u.s.opts.PollInterval/4, gather))
	case <-u.ctx.Done():
	case <-u.s.ctx.Done():
	}
	return u.pause(u.s.opts.PollInterval)
}

// pause waits.
func (u *update) pause(d time.Duration) error { return u.pauseWithin(u.ctx, d) }

// pauseWithin waits on a context that is not the update's.
func (u *update) pauseWithin(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return u.s.fail(ctx, request{op: "update", path: u.payload.Name}, ctx.Err())
	case <-u.s.ctx.Done():
		return u.s.fail(u.s.ctx, request{op: "update", path: u.payload.Name}, u.s.ctx.Err())
	}
}

// look looks once.
func (w *watch) look() (res transport.Result, done bool, err error) {
	w.wait = 0
	select {
	case err := <-w.offers.late:
		return res, false, w.fail(transport.ErrTimeout, err, "the target has not fetched the image; it may still do so")
	default:
	}
	now := time.Now()
	st, err := w.status()
	if err == nil {
		err = w.notice(st)
		if w.unkept != nil {
			return res, false, w.unkept
		}
	}
	if err == nil && !st.running && !st.failed {
		res, done, err = w.versions(st, now)
		if done {
			return res, true, nil
		}
	}
	if err != nil {
		return w.away(err, now)
	}
	w.seen, w.refused = now, 0
	w.wait = min(st.wait, w.s.opts.ResetTimeout)
	w.log(st.text)
	switch {
	case st.failed && !w.unsure:
		return transport.Result{Verdict: transport.VerdictFailed, Code: st.code, Text: st.text}, true, nil
	case st.failed:
		return transport.Result{Code: st.code, Text: w.notKnown() + "; the target says of its last update: " + st.text}, true, nil
	case st.running:
		return res, false, w.running(st, now)
	}
	return res, false, nil
}

// notice keeps what no later look may tell any more.
func (w *watch) notice(st status) error {
	news := st.worked && !w.data.Worked
	w.data.Worked = w.data.Worked || st.worked
	if told := stronger(w.data.Told, st.staged); told != w.data.Told && !w.unsure {
		w.data.Told, news = told, true
	}
	if w.phase == phaseSend && !w.unsure { // it has come, whoever forgets that later
		return w.checkpoint(phaseWait, false)
	}
	if !news {
		return nil
	}
	return w.checkpoint(w.phase, w.sent)
}

// running is for a target that is at work.
func (w *watch) running(st status, now time.Time) error {
	w.seen, w.ended, w.reads = now, time.Time{}, 0
	if p := st.progressed(); p != w.last {
		w.last, w.sign = p, now
	}
	w.progress(st.phase, int64(st.percent), 100, st.text)
	if now.Sub(w.sign) > w.s.opts.UpdateStall {
		return w.fail(transport.ErrTimeout, fmt.Errorf("no progress for %v (%s)", w.s.opts.UpdateStall, st.phase), "the target may still be at it: look at its own log")
	}
	return nil
}

// away judges a look that failed. While a target resets, nothing that it says or does
// not say is news.
func (w *watch) away(err error, now time.Time) (res transport.Result, done bool, _ error) {
	if cerr := w.ctx.Err(); cerr != nil || errors.Is(err, transport.ErrClosed) || errors.Is(err, transport.ErrTrust) {
		return res, false, err
	}
	w.wait = 0
	if errors.Is(err, transport.ErrAuth) {
		// Some let nobody in while they start; but no account is to be locked.
		if w.refused++; w.refused > 3 {
			return res, false, err
		}
		w.wait = spacing(w.s.opts.ResetTimeout)
	}
	w.absent, w.reads = true, 0
	w.ended = time.Time{}
	if now.Sub(w.seen) <= w.s.opts.ResetTimeout {
		w.progress("reset", 0, 0, "")
		return res, false, nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return transport.Result{Text: fmt.Sprintf("what became of the update is not known: %v", err)}, true, nil
	case !ofTheLine(err) && !errors.Is(err, transport.ErrAuth):
		// It is there, and will not say anything else to whoever asks next.
		return transport.Result{Code: transport.CodeOf(err), Text: clip(fmt.Sprintf("what became of the update is not known: for %v the target has answered with nothing but errors, at last: %v",
			w.s.opts.ResetTimeout, err), maxText)}, true, nil
	}
	return res, false, w.fail(transport.ErrConnLost, err, fmt.Sprintf("the target has not come back for %v", w.s.opts.ResetTimeout))
}

// notKnown says that an update is that of which nothing is known.
func (w *watch) notKnown() string {
	if w.said != "" {
		return "whether the request arrived is not known: " + w.said
	}
	return "whether the request arrived is not known"
}

// endOf is a text without what was to follow.
func endOf(s string) string { return strings.TrimSuffix(s, "; ") }
