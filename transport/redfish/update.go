package redfish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// update is one Update at work.
type update struct {
	*conn
	ctx        context.Context
	payload    transport.Payload
	opts       transport.UpdateOptions
	cargo      *cargo
	data       stateData
	phase      string
	sent       bool      // the phase's request may have reached the target
	unkept     error     // a checkpoint that failed
	unsure     bool      // whether the last request arrived is not known: what the target does may be another's
	said       string    // what was said instead of an answer to it
	mute       bool      // which was the empty 400 of an iLO
	cut        bool      // and came before the end of the request was sent
	loginsThen int       // when stock was taken; 0: that was another process
	began      time.Time // sending
	posted     bool      // a request that cannot be taken back may have been made
	absent     bool      // the target was away since the last request
	words      []string
	wake       chan struct{} // told that there is news
	events     *subscription
}

// fail is an error of an update.
func (u *update) fail(kind error, err error, hint string) error {
	return &transport.Error{Op: "update", Target: u.s.target, Path: u.payload.Name, Kind: kind, Err: err, Hint: hint}
}

func (u *update) invalid(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		own := *te
		own.Op, own.Target = "update", u.s.target
		return &own
	}
	var source *sourceError
	if errors.As(err, &source) {
		if cerr := u.ctx.Err(); cerr != nil {
			return u.fail(cerr, nil, "")
		}
		return u.fail(nil, err, "")
	}
	return u.fail(transport.ErrInvalid, err, "")
}

// Update implements transport.Updater. One update runs at a time on a connection. A line
// that breaks, and a target that starts anew, do not end it.
func (c *conn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (res transport.Result, err error) {
	u := &update{conn: c, ctx: ctx, payload: p, opts: opts, wake: make(chan struct{}, 1)}
	end, err := c.take(ctx, request{op: "update", path: p.Name})
	if err != nil {
		return res, err
	}
	defer end()
	if err := u.resume(); err != nil {
		return res, err
	}
	fresh := u.phase == ""
	if fresh || u.phase == phaseBegin {
		done, err := u.prepare()
		if err != nil || done.Verdict != transport.VerdictUnknown {
			return done, err
		}
	} else if u.cargo, err = arrange(ctx, p); err != nil {
		return res, u.invalid(err)
	} else if err := u.load(); err != nil {
		return res, err
	}
	if fresh {
		if err := u.checkpoint(phaseBegin, false); err != nil {
			return res, err
		}
	}
	return u.run()
}

// take takes the right to change the target, of which there is one on a connection.
func (c *conn) take(ctx context.Context, what request) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, c.s.fail(ctx, what, err)
	}
	if c.s.ctx.Err() != nil {
		return nil, c.s.fail(c.s.ctx, what, c.s.ctx.Err())
	}
	select {
	case c.updating <- struct{}{}:
		return func() { <-c.updating }, nil
	case <-ctx.Done():
		return nil, c.s.fail(ctx, what, ctx.Err())
	case <-c.s.ctx.Done():
		return nil, c.s.fail(c.s.ctx, what, c.s.ctx.Err())
	}
}

// run brings the update to its end from wherever it is.
func (u *update) run() (transport.Result, error) {
	var none transport.Result
	// From here on the target may start anew at any time.
	u.s.patient.Add(1)
	defer u.s.patient.Add(-1)

	offers, err := u.publish()
	if err != nil {
		return none, err
	}
	var res transport.Result
	events, err := u.subscribe()
	if err == nil {
		res, err = u.work(offers)
	}
	over := err == nil
	left := events.end()
	// What the target refuses when the update is over changes nothing of its end.
	tidied := func(err error) error {
		if err == nil || ofTheLine(err) || u.unkept != nil || u.ended() != nil || u.s.ctx.Err() != nil {
			return err // whoever goes on tries again
		}
		left = endOf(clip("not all could be tidied up: "+err.Error(), maxText) + "; " + left)
		return nil
	}
	if u.data.Queue != nil {
		if res, err = u.leaveQueue(res, err); over {
			err = tidied(err)
		}
	}
	if u.data.Aimed && err == nil {
		err = tidied(u.unaim(u.ctx))
	}
	if rerr := offers.release(u, err == nil); err == nil {
		err = tidied(rerr)
	}
	if err == nil {
		if left != "" {
			res.Text = endOf(left + "; " + res.Text)
		}
		return res, nil
	}
	u.log(left)
	var te *transport.Error
	if errors.As(err, &te) && errors.Is(te.Kind, transport.ErrConnLost) {
		u.s.lose(err)
	}
	return res, err
}

// work sends what is still to be sent, and waits for the end.
func (u *update) work(offers *offers) (transport.Result, error) {
	u.posted = u.phase == phaseSend || u.phase == phaseWait
	switch u.phase {
	case phaseWait:
		return u.follow(offers)
	case phaseSend:
		// What was sent last may have arrived.
		u.unsure = true
		offers.asked = offers.asked || u.data.Way.pulls() // perhaps before
		again := u.again
		if u.data.Part+1 < u.requests() {
			again = u.nextPart
		}
		res, more, err := again(offers)
		if err != nil || !more {
			return res, err
		}
	}
	return u.sendAll(offers)
}

func (u *update) progress(phase string, done, total int64, text string) {
	if u.opts.Progress != nil {
		if total > 0 {
			done = min(done, total)
		}
		u.opts.Progress(transport.Progress{Phase: phase, Done: done, Total: total, Text: text})
	}
}

// log hands the target's own words to the caller, each once.
func (u *update) log(line string) {
	if line == "" || slices.Contains(u.words, line) || len(u.words) > 1000 {
		return
	}
	u.words = append(u.words, line)
	if u.opts.Log != nil {
		_, _ = fmt.Fprintln(u.opts.Log, clip(line, maxText))
	}
}
