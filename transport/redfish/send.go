package redfish

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// sendAll sends what is left: all there is, or one section after the other.
func (u *update) sendAll(offers *offers) (transport.Result, error) {
	u.began = time.Now()
	if u.data.Queue != nil {
		if res, err := u.keep(offers); err != nil || res.Verdict != transport.VerdictUnknown || u.unsure {
			return res, err
		}
	}
	lost := -1 // the section that was sent in vain last
	for n := u.requests(); u.data.Part < n && !u.unsure; {
		if u.data.Part > 0 && u.data.Queue == nil {
			if res, err := u.between(offers); err != nil || res.Verdict != transport.VerdictUnknown {
				return res, err
			}
		}
		res, err := u.send(offers, u.data.Part+1 < n)
		if errors.Is(err, errRefusedForNow) && time.Since(u.began) < u.patience() {
			// What a dead run has left unfinished the target may take for work.
			if err := u.pause(u.s.opts.PollInterval); err != nil {
				return res, err
			}
			continue
		}
		if err == nil && u.cut && u.mute {
			return u.inVain(offers, res)
		}
		if err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
		if u.unsure && u.data.Part+1 < n {
			part := u.data.Part
			res, more, err := u.lostPart(offers, part != lost)
			if err != nil || res.Verdict != transport.VerdictUnknown {
				return res, err
			}
			if !more {
				return u.inVain(offers, res)
			}
			lost = part
		}
	}
	res, err := u.follow(offers)
	if err != nil || res.Verdict != transport.VerdictUnknown {
		return res, err
	}
	return u.inVain(offers, res)
}

// inVain goes on by another way where what was sent is known to have had no effect, and
// there is such a way. Else res is the end.
func (u *update) inVain(offers *offers, res transport.Result) (transport.Result, error) {
	turned, err := u.turn(offers, &res)
	if err != nil || !turned {
		return res, err
	}
	return u.sendAll(offers)
}

// requests is how many there are that cannot be taken back.
func (u *update) requests() int {
	if u.data.Queue != nil {
		return 1
	}
	return u.cargo.sections()
}

// errRefusedForNow: the target has something else to do, and did nothing.
var errRefusedForNow = errors.New("the target took nothing, and asks to come again")

// send makes the request for one section, or for all there is. A result is what the
// target said to it.
func (u *update) send(offers *offers, more bool) (transport.Result, error) {
	var none transport.Result
	if err := u.takeStock(); err != nil {
		return none, err
	}
	if err := u.aim(); err != nil {
		return none, err
	}
	r, p, err := u.request(offers)
	if err != nil {
		return none, err
	}
	before := u.phase
	if p == nil {
		if err := u.checkpoint(phaseSend, true); err != nil {
			return none, err
		}
	}
	u.posted = true
	rep, err := u.s.do(u.ctx, r)
	whole := p == nil || p.end()
	if u.unkept != nil {
		return none, u.unkept
	}
	// The request may be marked as sent by now, and has had no effect.
	back := func(res transport.Result, err error) (transport.Result, error) {
		if u.phase != before || u.sent {
			if cerr := u.checkpoint(before, false); cerr != nil {
				return none, cerr
			}
		}
		return res, err
	}
	var moved *redirectError
	switch {
	case err == nil && !whole && rep.ok():
		return back(none, u.fail(transport.ErrProtocol, errors.New("the target answered before the end of the request"), "whatever it took was not all"))
	case err == nil:
		u.cut = !whole
		return u.answered(rep, more, back)
	case !whole: // a request without its end is none (RFC 9112, section 8)
		return back(none, u.ofSource(err))
	case errors.As(err, &moved), errors.Is(err, transport.ErrUnreachable), errors.Is(err, transport.ErrTrust), errors.Is(err, transport.ErrAuth):
		return back(none, err)
	case errors.Is(err, transport.ErrConnLost), errors.Is(err, transport.ErrTimeout), errors.Is(err, transport.ErrProtocol):
		// All of it may have arrived: the target's state will tell.
		u.lost(err.Error())
		return none, nil
	}
	return none, err
}

// lost is for a request of which it is not known whether it arrived.
func (u *update) lost(said string) {
	u.unsure, u.said = true, clip(said, 1024)
	u.log("the answer to the request was lost: " + said)
}

// ofSource is the error of the payload, where it is one.
func (u *update) ofSource(err error) error {
	var te *transport.Error
	var source *sourceError
	if errors.As(err, &source) && errors.As(source.cause, &te) {
		own := *te
		own.Target = u.s.target
		return &own
	}
	return err
}

// answered looks at the answer to the request. back records that it had no effect.
func (u *update) answered(rep *reply, more bool, back func(transport.Result, error) (transport.Result, error)) (transport.Result, error) {
	var none transport.Result
	all := messages(rep.body)
	u.log(words(all))
	if !rep.ok() {
		e := refusal(rep)
		switch {
		case rep.busy():
			e.Op, e.Target, e.Path, e.Kind = "update", u.s.target, u.payload.Name, transport.ErrBusy
			e.Err, e.Hint = errors.Join(errRefusedForNow, e.Err), hintBusy
			return back(none, e)
		case !u.cut && u.ambiguous(rep, all):
			u.lost(e.Err.Error())
			u.mute = rep.status == http.StatusBadRequest
			return none, nil
		case errors.Is(e.Kind, transport.ErrBusy) && time.Since(u.began) < u.patience():
			return back(none, u.fail(transport.ErrBusy, errRefusedForNow, hintBusy))
		}
		text := e.Err.Error()
		if e.Hint != "" {
			text += "; " + e.Hint
		}
		res := transport.Result{Verdict: transport.VerdictFailed, Code: e.Code, Text: clip(text, maxText)}
		if u.cut { // whatever the answer is
			u.mute = rep.status == http.StatusBadRequest && u.ambiguous(rep, all)
			res.Text = clip(text+"; that came before the end of the request, which so had no effect", maxText)
			return back(res, nil)
		}
		if err := u.checkpoint(phaseWait, false); err != nil {
			return none, err
		}
		return res, nil
	}
	u.taskOf(rep)
	u.data.Told = stronger(u.data.Told, activationOf(all))
	u.data.Part++
	if u.data.Queue != nil {
		u.data.Queue.Item = "" // by its name
		if at, err := pathOf(rep.header.Get("Location")); err == nil && u.data.Way == WayQueue {
			u.data.Queue.Item = at
		}
	}
	phase := phaseWait
	if more {
		phase = phaseNext
	}
	return none, u.checkpoint(phase, false)
}

// ambiguous reports whether an answer does not say whether the request was carried out:
// what stands between, or broke in the middle, says so; and iLO answers by an empty 400
// to uploads that it takes, and to some that it does not.
func (u *update) ambiguous(rep *reply, all []message) bool {
	switch rep.status {
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	case http.StatusBadRequest:
		return len(all) == 0 && (u.profile.ilo() || u.profile == ProfileILO4)
	}
	return false
}

// taskOf takes the task out of an answer (DSP0266, "Asynchronous operations").
func (u *update) taskOf(rep *reply) {
	var t struct {
		ID      link `json:"@odata.id"`
		Type    text `json:"@odata.type"`
		Monitor text `json:"TaskMonitor"`
		State   text `json:"TaskState"`
		Start   text `json:"StartTime"`
	}
	_ = decode(rep.body, &t)
	if p, err := pathOf(string(t.ID)); err == nil && (strings.Contains(string(t.Type), "Task") || t.State != "" || u.profile == ProfileRMC && strings.Contains(p, "/Task")) {
		u.data.Task = taskRef{strings.TrimSuffix(p, "/"), string(t.Start)}
	}
	at := []string{string(t.Monitor)}
	if rep.status == http.StatusAccepted { // elsewhere it is what was made
		at = slices.Insert(at, 0, rep.header.Get("Location"))
	}
	for _, m := range at {
		if p, err := pathOf(m); err == nil && u.data.Watch == "" {
			u.data.Watch = p
		}
	}
	if u.data.Task.URI != "" || u.data.Watch != "" {
		u.leaves[u.data.Way] = true
	}
}
