package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

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
	res, err := u.work(offers)
	if rerr := offers.release(u, err == nil); err == nil {
		err = rerr
	}
	if err != nil {
		var te *transport.Error
		if errors.As(err, &te) && errors.Is(te.Kind, transport.ErrConnLost) {
			u.s.lose(err)
		}
	}
	return res, err
}

// work sends what is still to be sent, and waits for the end.
func (u *update) work(offers *offers) (transport.Result, error) {
	resumed := u.phase == phaseSend
	if resumed && u.data.Way.pulls() {
		offers.asked = true // perhaps before
	}
	switch {
	case resumed:
		// What was sent last may have arrived.
		u.unsure = true
		if res, again, err := u.again(offers); err != nil || !again {
			return res, err
		}
		return u.sendAll(offers)
	case u.phase != phaseWait:
		return u.sendAll(offers)
	}
	return u.follow(offers)
}

// sendAll sends the sections that are left.
func (u *update) sendAll(offers *offers) (transport.Result, error) {
	for n := u.cargo.sections(); u.data.Part < n && !u.unsure; {
		if u.data.Part > 0 {
			if res, err := u.between(); err != nil || res.Verdict != transport.VerdictUnknown {
				return res, err
			}
		}
		if res, err := u.send(offers, u.data.Part+1 < n); err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
	}
	return u.follow(offers)
}

// again follows a request that may not have arrived, and reports whether it has not: the
// target does nothing, has no trace of it where it would have one, and was not reset
// since, so that it has not forgotten either.
func (u *update) again(offers *offers) (transport.Result, bool, error) {
	res, err := u.follow(offers)
	if err != nil || res.Verdict != transport.VerdictUnknown || !u.unsure || u.data.Boot == "" || u.data.Part > 0 {
		return res, false, err
	}
	trace := u.data.Listed && len(u.data.Tasks) > 0 // it keeps tasks, where it would leave one
	if trace {
		now, ok := u.tasks()
		trace = ok && !slices.ContainsFunc(now, func(t string) bool { return !slices.Contains(u.data.Tasks, t) })
	}
	if u.data.Way == WayHPEPush { // or the mark of the upload, which follow has not seen
		trace = true
	}
	if !trace || u.boot() != u.data.Boot {
		return res, false, nil
	}
	u.unsure, offers.asked = false, false
	u.log("the request has not arrived, and is made again")
	return transport.Result{}, true, u.checkpoint(phaseBegin, false)
}

// send makes the request for one section, or for all there is. A result is what the
// target said to it.
func (u *update) send(offers *offers, more bool) (transport.Result, error) {
	var none transport.Result
	u.data.Tasks, u.data.Listed = u.tasks()
	u.data.Boot = u.boot()
	r, b, err := u.request(offers)
	if err != nil {
		return none, err
	}
	before := u.phase
	if err := u.checkpoint(phaseSend, true); err != nil {
		return none, err
	}
	rep, err := u.s.do(u.ctx, r)
	if err != nil {
		incomplete := b != nil && !b.complete()
		notSent := incomplete || errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrTrust) || errors.Is(err, transport.ErrAuth)
		var source *sourceError
		switch {
		case errors.As(err, &source) || incomplete:
			// A request without its end is none (RFC 9112, section 8).
			if cerr := u.checkpoint(before, false); cerr != nil {
				return none, cerr
			}
			return none, u.invalidSource(err)
		case notSent:
			if cerr := u.checkpoint(before, false); cerr != nil {
				return none, cerr
			}
			return none, err
		case errors.Is(err, transport.ErrConnLost), errors.Is(err, transport.ErrTimeout):
			// All of it may have arrived: the target's state will tell.
			u.unsure = true
			u.log("the answer to the request was lost: " + err.Error())
			return none, nil
		}
		return none, err
	}
	return u.answered(rep, more)
}

func (u *update) invalidSource(err error) error {
	var te *transport.Error
	var source *sourceError
	if errors.As(err, &source) && errors.As(source.cause, &te) {
		own := *te
		own.Target = u.s.target
		return &own
	}
	return err
}

// answered looks at the answer to the request.
func (u *update) answered(rep *reply, more bool) (transport.Result, error) {
	var none transport.Result
	all := messages(rep.body)
	u.log(words(all))
	switch {
	case rep.ok():
	case rep.status == http.StatusBadRequest && len(all) == 0 && u.data.Way == WayHPEPush:
		// iLO answers so to uploads that it takes, and to some that it does not.
		u.unsure = true
		u.log("HTTP 400 without a word: the state of the update service tells what became of it")
	default:
		e := refusal(rep)
		text := e.Err.Error()
		if e.Hint != "" {
			text += "; " + e.Hint
		}
		if err := u.checkpoint(phaseWait, false); err != nil {
			return none, err
		}
		return transport.Result{Verdict: transport.VerdictFailed, Code: e.Code, Text: clip(text, maxText)}, nil
	}
	if rep.ok() {
		u.taskOf(rep)
		u.data.Part++
	}
	if u.unsure {
		return none, nil
	}
	phase := phaseWait
	if more {
		phase = phaseNext
	}
	return none, u.checkpoint(phase, false)
}

// taskOf takes the task out of an answer (DSP0266, "Asynchronous operations").
func (u *update) taskOf(rep *reply) {
	var t struct {
		ID      link `json:"@odata.id"`
		Type    text `json:"@odata.type"`
		Monitor text `json:"TaskMonitor"`
		State   text `json:"TaskState"`
	}
	_ = decode(rep.body, &t)
	if p, err := pathOf(string(t.ID)); err == nil && (strings.Contains(string(t.Type), "Task") || t.State != "" || strings.Contains(p, "/Task")) {
		u.data.Task = p
	}
	for _, m := range []string{rep.header.Get("Location"), string(t.Monitor)} {
		if p, err := pathOf(m); err == nil && u.data.Monitor == "" {
			u.data.Monitor = p
		}
	}
}

// request makes the request of the way.
func (u *update) request(offers *offers) (request, *pushed, error) {
	var none request
	to, err := pathOf(u.to(u.data.Way, &u.conn.update))
	if err != nil {
		return none, nil, u.fail(transport.ErrProtocol, err, "")
	}
	if u.data.Way.pulls() {
		r, err := jsonRequest("update", http.MethodPost, to, u.pullBody(offers.url))
		return r, nil, err
	}
	p := &pushed{u: u, sec: section{file: u.cargo.file, len: u.cargo.file.Size}}
	if u.cargo.sections() > 1 {
		p.sec.off = int64(u.data.Part) * sectionSize
		p.sec.len = min(sectionSize, u.cargo.file.Size-p.sec.off)
	}
	if len(u.cargo.compsig) > 0 {
		if p.sig, err = readSmall(u.ctx, u.cargo.compsig[u.data.Part]); err != nil {
			return none, nil, u.invalid(err)
		}
		p.sigName = baseName(u.cargo.compsig[u.data.Part])
	}
	sep := boundary()
	r := request{op: "update", method: http.MethodPost, path: to, stream: true, ctype: mime.FormatMediaType("multipart/form-data", map[string]string{"boundary": sep})}
	if u.data.Way == WayHTTPPush {
		r.ctype = "application/octet-stream"
	}
	if u.data.Way == WayHPEPush {
		r.sign = func(h http.Header, token string) { h.Set("Cookie", "sessionKey="+token) }
	}
	r.body = func(token string) (io.ReadCloser, int64, error) { return p.open(sep, token) }
	return r, p, nil
}

// pushed is what is pushed by one request.
type pushed struct {
	u       *update
	sec     section
	sig     []byte
	sigName string
	last    *body // of the last attempt
}

// complete reports whether the target may have got all of it.
func (p *pushed) complete() bool { return p.last != nil && p.last.out.Load() }

func (p *pushed) open(sep, token string) (io.ReadCloser, int64, error) {
	u := p.u
	total := u.cargo.file.Size
	sent := func(done int64) { u.progress("upload", done, total, "") }
	var parts []part
	var err error
	file := part{name: "file", file: baseName(p.sec.file), ctype: "application/octet-stream", section: &p.sec}
	switch u.data.Way {
	case WayHTTPPush:
		p.last, err = rawBody(u.ctx, p.sec, sent)
		if err != nil {
			return nil, 0, err
		}
		return p.last, p.last.length, nil
	case WayMultipart:
		file.name = "UpdateFile"
		params, merr := json.Marshal(u.updateParameters())
		if merr != nil {
			return nil, 0, merr
		}
		parts = []part{{name: "UpdateParameters", ctype: "application/json", data: params}, file}
	case WayHPEPush:
		params, merr := json.Marshal(u.uploadParameters())
		if merr != nil {
			return nil, 0, merr
		}
		parts = []part{{name: "sessionKey", data: []byte(token)}, {name: "parameters", data: params}}
		if p.sig != nil {
			parts = append(parts, part{name: "compsig", file: p.sigName, ctype: "application/octet-stream", data: p.sig})
		}
		parts = append(parts, file)
	default:
		return nil, 0, fmt.Errorf("%s is no push", u.data.Way)
	}
	if p.last, err = newBody(u.ctx, sep, parts, sent); err != nil {
		return nil, 0, err
	}
	return p.last, p.last.length, nil
}

// updateParameters is the first part of a multipart push.
func (u *update) updateParameters() map[string]any {
	return map[string]any{"Targets": u.uris(), "@Redfish.OperationApplyTime": "Immediate"}
}

// uris are the resources that are to be updated, where the caller has named them.
func (u *update) uris() []string {
	out := []string{}
	if len(u.opts.Devices) == 0 {
		return out
	}
	for _, s := range u.data.Subjects {
		if !strings.Contains(s.URI, "#") {
			out = append(out, s.URI)
		}
	}
	return out
}

// uploadParameters is the part "parameters" of a push to an iLO.
func (u *update) uploadParameters() map[string]any {
	p := map[string]any{"UpdateRepository": false, "UpdateTarget": true, "ETag": u.data.Tag, "Section": u.data.Part, "UpdateRecoverySet": false}
	if u.s.opts.TPMOverride {
		p["TPMOverride"] = true
	}
	return p
}

// pullBody is the body of the action that has the target fetch.
func (u *update) pullBody(uri string) map[string]any {
	switch u.data.Way {
	case WayAddFromURI:
		b := map[string]any{"ImageURI": uri, "ComponentFileName": baseName(u.cargo.file), "UpdateRepository": false, "UpdateTarget": true}
		if u.s.opts.TPMOverride {
			b["TPMOverrideFlag"] = true
		}
		return b
	case WayInstallFromURI:
		return map[string]any{"FirmwareURI": uri, "TPMOverrideFlag": u.s.opts.TPMOverride}
	case WayUpdateAll:
		return map[string]any{"ImageURI": uri, "Reinstall": u.opts.Rewrite, "ExcludeNparFw": false}
	}
	b := map[string]any{"ImageURI": uri}
	if uris := u.uris(); len(uris) > 0 && u.profile == ProfileGeneric {
		b["Targets"] = uris
	}
	scheme, _, _ := strings.Cut(uri, ":")
	if u.profile == ProfileGeneric {
		b["TransferProtocol"] = strings.ToUpper(scheme)
	}
	return b
}

// offers is what the target is to fetch.
type offers struct {
	url   string
	pub   *transport.Published
	asked bool       // it has asked, or may have before
	late  chan error // what Await said, if the target has not asked
	stop  context.CancelFunc
	done  chan struct{}
}

// publish offers the image to a target that fetches it.
func (u *update) publish() (*offers, error) {
	o := &offers{}
	if !u.data.Way.pulls() {
		return o, nil
	}
	if u.opts.Publish == nil {
		return nil, u.fail(errors.ErrUnsupported, nil, "this target fetches images, and the session offers no server (UpdateOptions.Publish is nil)")
	}
	secure := u.s.opts.ImageScheme == "https" || u.s.opts.ImageScheme == "" && u.profile == ProfileRMC
	pub, err := u.opts.Publish(u.ctx, transport.PublishRequest{File: u.cargo.file, Key: u.data.Tag + "/" + u.cargo.file.Name, TLS: secure})
	if err != nil {
		return nil, u.fail(nil, fmt.Errorf("publishing %s: %w", u.cargo.file.Name, err), "")
	}
	o.pub, o.url = &pub, pub.URL
	o.asked = u.phase == phaseWait
	return o, nil
}

// watch waits for the target to ask.
func (o *offers) watch(ctx context.Context, patience time.Duration) {
	if o.pub == nil || o.pub.Await == nil || o.asked || o.late != nil || patience <= 0 {
		return
	}
	ctx, o.stop = context.WithCancel(ctx)
	o.late, o.done = make(chan error, 1), make(chan struct{})
	go func() {
		defer close(o.done)
		if err := o.pub.Await(ctx, patience); err != nil && ctx.Err() == nil {
			o.late <- err
		}
	}()
}

// release takes the offer back when the update has ended; else whoever resumes it does.
func (o *offers) release(u *update, ended bool) error {
	if o.stop != nil {
		o.stop()
		<-o.done
	}
	if o.pub == nil || !ended && slices.Contains([]string{phaseSend, phaseWait}, u.phase) {
		return nil
	}
	n, err := o.pub.Release(context.WithoutCancel(u.ctx))
	if n > 0 {
		u.progress("fetch", n, 0, "")
	}
	if err != nil {
		return u.fail(nil, fmt.Errorf("taking the offer back: %w", err), "")
	}
	return nil
}
