package redfish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// queued is an update by the component repository and the task queue of an iLO: the
// component is kept there, and a task applies it. The names are this update's alone, so
// that what a request has left is found again.
type queued struct {
	Name   string   `json:"name"` // of the task, and of the install set
	File   string   `json:"file"` // of the component
	By     []string `json:"by"`   // who may apply it
	Item   string   `json:"item,omitempty"`
	Set    string   `json:"set,omitempty"`
	Looked bool     `json:"looked,omitempty"`
	Own    bool     `json:"own,omitempty"`  // the component was not there before
	Kept   bool     `json:"kept,omitempty"` // it is there now
}

// ownName begins the names of tasks and install sets that are ours.
const ownName = "roundsman-"

// The agents that may apply a task. That on the host is not ours.
const (
	byBMC  = "Bmc"
	byHost = "Uefi" // the firmware of the host, at its next start
)

// host reports whether the task waits for a start of the host.
func (q *queued) host() bool { return !slices.Contains(q.By, byBMC) }

// arriving reports whether a component may be on its way into the repository, which lists
// it when all of it has been written there.
func (q *queued) arriving() bool { return q != nil && q.Looked && q.Own && !q.Kept }

// queueItem is what is used of an HpeComponentUpdateTask.
type queueItem struct {
	Name     text
	State    text
	Filename text
	By       texts `json:"UpdatableBy"`
	Result   struct {
		MessageID text  `json:"MessageId"`
		Args      texts `json:"MessageArgs"`
	}
}

// is reports whether an item is in one of the states.
func (i *queueItem) is(states ...string) bool {
	return slices.ContainsFunc(states, func(s string) bool { return strings.EqualFold(s, string(i.State)) })
}

// over reports whether an item is in nobody's way any more.
func (i *queueItem) over() bool { return i.is("Complete", "Canceled", "Cancelled") }

// waitsForHost reports whether an item is of this driver's, and waits for the host to start
// anew: it is in the way of no update by the management processor.
func (i *queueItem) waitsForHost() bool {
	return i.is("Pending") && strings.HasPrefix(string(i.Name), ownName) && slices.Equal(i.By, texts{byHost})
}

// enqueue begins an update by the queue.
func (u *update) enqueue() {
	if u.data.Way != WayQueue && u.data.Way != WayInstallSet || u.data.Queue != nil {
		return
	}
	u.data.Queue = &queued{Name: ownName + u.data.Tag, File: baseName(u.cargo.file), By: u.cargo.appliers()}
}

// keep puts the component into the repository. That changes no device, and can be done
// again.
func (u *update) keep(offers *offers) (transport.Result, error) {
	var none transport.Result
	q := u.data.Queue
	there, err := u.component(u.ctx)
	if err != nil {
		return none, err
	}
	if !q.Looked {
		q.Looked, q.Own = true, there == ""
		if err := u.checkpoint(phaseBegin, false); err != nil {
			return none, err
		}
	}
	if err := u.sweep(); err != nil {
		return none, err
	}
	if !q.Kept || there == "" {
		for n := range u.cargo.sections() {
			if res, err := u.upload(offers, n); err != nil || res.Verdict != transport.VerdictUnknown {
				return res, err
			}
		}
		if res, err := u.arrives(); err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
	}
	if u.data.Way == WayInstallSet {
		if res, err := u.makeSet(); err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
	}
	q.Kept = true
	return none, u.checkpoint(phaseBegin, false)
}

// sweep removes tasks of earlier updates that hold a component of the same name, and are
// over: where the host had to start first, nobody has seen their end.
func (u *update) sweep() error {
	list, err := u.members(u.ctx, "update", string(u.conn.update.hpe().Queue))
	if err != nil {
		return err
	}
	for _, m := range list {
		var i queueItem
		if m.err == nil && decode(m.body, &i) == nil && i.over() && strings.HasPrefix(string(i.Name), ownName) &&
			string(i.Name) != u.data.Queue.Name && strings.EqualFold(string(i.Filename), u.data.Queue.File) {
			if err := u.remove(u.ctx, m.uri); err != nil {
				return err
			}
		}
	}
	return nil
}

// upload pushes one section into the repository, and waits until it was taken.
func (u *update) upload(offers *offers, n int) (transport.Result, error) {
	var none transport.Result
	if err := u.takeStock(); err != nil {
		return none, err
	}
	u.data.Mark = u.markOf(n)
	to, err := pathOf(u.to(WayHPEPush, &u.conn.update))
	if err != nil {
		return none, u.fail(transport.ErrProtocol, err, "")
	}
	r, p, err := u.pushRequest(to, n, func(bool) error { return nil })
	if err != nil {
		return none, err
	}
	rep, err := u.s.do(u.ctx, r)
	p.end()
	if err != nil {
		return none, u.ofSource(err)
	}
	all := messages(rep.body)
	u.log(words(all))
	if !rep.ok() && !u.ambiguous(rep, all) {
		e := refusal(rep)
		if rep.busy() {
			e.Op, e.Target, e.Path = "update", u.s.target, u.payload.Name
			return none, e
		}
		return transport.Result{Verdict: transport.VerdictFailed, Code: e.Code, Text: endOf(e.Err.Error() + "; " + e.Hint)}, nil
	}
	return u.between(offers)
}

// arrives waits until the repository lists the component.
func (u *update) arrives() (transport.Result, error) {
	for began := time.Now(); ; {
		there, err := u.component(u.ctx)
		if err != nil || there != "" {
			return transport.Result{}, err
		}
		if time.Since(began) > u.s.opts.SettleTimeout {
			return transport.Result{Verdict: transport.VerdictFailed,
				Text: fmt.Sprintf("the component repository does not list %s after it was uploaded; nothing was changed", u.data.Queue.File)}, nil
		}
		if err := u.pause(u.s.opts.PollInterval); err != nil {
			return transport.Result{}, err
		}
	}
}

// component is the resource of the component in the repository, or "".
func (u *update) component(ctx context.Context) (string, error) {
	list, err := u.members(ctx, "update", string(u.conn.update.hpe().Repository))
	if err != nil {
		return "", err
	}
	for _, m := range list {
		var c struct{ Filename, Name text }
		if m.err != nil || decode(m.body, &c) != nil {
			continue
		}
		if strings.EqualFold(string(c.Filename), u.data.Queue.File) {
			return m.uri, nil
		}
	}
	return "", nil
}

// makeSet makes the install set, unless it is there.
func (u *update) makeSet() (transport.Result, error) {
	var none transport.Result
	q := u.data.Queue
	at, err := u.findNamed(u.ctx, u.conn.update.hpe().Sets)
	if err != nil {
		return none, err
	}
	if at == "" {
		r, err := jsonRequest("update", http.MethodPost, string(u.conn.update.hpe().Sets),
			map[string]any{"Name": q.Name, "IsRecovery": false, "Sequence": []any{u.taskBody()}})
		if err != nil {
			return none, err
		}
		rep, err := u.s.do(u.ctx, r)
		if err != nil {
			return none, err
		}
		if !rep.ok() {
			e := refusal(rep)
			return transport.Result{Verdict: transport.VerdictFailed, Code: e.Code, Text: endOf(e.Err.Error() + "; " + e.Hint)}, nil
		}
		if at, err = u.findNamed(u.ctx, u.conn.update.hpe().Sets); err != nil {
			return none, err
		}
	}
	q.Set = at
	return none, nil
}

// taskBody is a task of the queue, or in an install set.
func (u *update) taskBody() map[string]any {
	q := u.data.Queue
	b := map[string]any{"Name": q.Name, "Command": "ApplyUpdate", "Filename": q.File, "UpdatableBy": q.By}
	if u.s.opts.TPMOverride {
		b["TPMOverride"] = true
	}
	if len(u.data.Targets) > 0 {
		b["Targets"] = u.data.Targets
	}
	return b
}

// queueRequest is the request that has the component applied.
func (u *update) queueRequest() (request, error) {
	if u.data.Way == WayQueue {
		return jsonRequest("update", http.MethodPost, string(u.conn.update.hpe().Queue), u.taskBody())
	}
	var set updateService // for its Actions
	if err := u.read(u.ctx, "update", u.data.Queue.Set, &set); err != nil {
		return request{}, err
	}
	to, err := pathOf(set.action("Invoke"))
	if err != nil {
		return request{}, u.fail(transport.ErrProtocol, err, "")
	}
	return jsonRequest("update", http.MethodPost, to, map[string]any{"ClearTaskQueue": false})
}

// findNamed finds what has the name of this update in a collection.
func (u *update) findNamed(ctx context.Context, in link) (string, error) {
	list, err := u.members(ctx, "update", string(in))
	if err != nil {
		return "", err
	}
	for _, m := range list {
		var i queueItem
		switch {
		case m.err != nil:
			err = m.err
		case decode(m.body, &i) == nil && string(i.Name) == u.data.Queue.Name:
			return m.uri, nil
		}
	}
	return "", err // it may be the one that cannot be read
}

// item reads the task of this update; fs.ErrNotExist where there is none.
func (u *update) item(ctx context.Context) (item queueItem, err error) {
	q := u.data.Queue
	if q.Item == "" {
		if q.Item, err = u.findNamed(ctx, u.conn.update.hpe().Queue); err != nil {
			return item, err
		}
	}
	if q.Item == "" {
		return item, u.fail(fs.ErrNotExist, errors.New("the update queue has no task of this update"), "")
	}
	return item, u.read(ctx, "update", q.Item, &item)
}

// neverQueued reports whether the request for the task is known not to have arrived. That
// the queue does not hold it proves nothing: a task that is over may have been taken out. Nor
// does the update service say what the host applies, or tell one update from the next where
// it shows no mark of them. Tasks that an install set has left may
// have names of their own.
func (u *update) neverQueued() bool {
	q, was := u.data.Queue, u.data.Before.Service
	if q.Item != "" || q.host() || u.data.Worked || u.absent || was.Mark == "" || !u.sameBoot() {
		return false
	}
	list, err := u.members(u.ctx, "update", string(u.conn.update.hpe().Queue))
	if err != nil {
		return false
	}
	for _, m := range list {
		var i queueItem
		if m.err != nil || decode(m.body, &i) != nil || string(i.Name) == q.Name || strings.EqualFold(string(i.Filename), q.File) {
			return false
		}
	}
	now, err := u.service(u.ctx)
	return err == nil && now.state() == was
}

// queueStatus asks what became of the task.
func (u *update) queueStatus() (status, error) {
	item, err := u.item(u.ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return status{}, nil
	}
	if err != nil {
		return status{}, err
	}
	u.unsure = false // it has come
	return item.status(u.data.Queue.host()), nil
}

// status is what a task says of itself. host: it waits for a start of the host.
func (item *queueItem) status(host bool) status {
	st := status{phase: "queue"}
	m := message{ID: item.Result.MessageID, Args: item.Result.Args}
	if m.id() != "" {
		st.text, st.code = m.String(), m.code()
		st.staged = activationOf([]message{m})
	}
	switch {
	case item.is("Complete"):
		st.claim, st.worked = true, true
	case item.is("Pending") && host:
		st.waits = true
		st.text = endOf(fmt.Sprintf("the task %q waits in the update queue for the next start of the host; %s", item.Name, st.text))
	case item.is("Pending"):
		st.running = true
	case item.is("Exception", "Expired", "Canceled", "Cancelled"):
		st.failed = true
		if st.text == "" {
			st.text = fmt.Sprintf("the task in the update queue ended as %s", clip(string(item.State), 100))
		}
	default:
		st.phase, st.running, st.worked = "flash", true, true
	}
	return st
}

// leaveQueue takes out of the queue what is not needed there any more: what has ended, and
// what has not begun when the caller gives up.
func (u *update) leaveQueue(res transport.Result, err error) (transport.Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), transport.CloseGrace)
	defer cancel()
	stop := u.ctx.Err() != nil || errors.Is(err, transport.ErrTimeout)
	switch {
	case u.unkept != nil && !u.posted:
		return res, errors.Join(err, u.dequeue(ctx))
	case err != nil && !stop, u.unkept != nil:
		return res, err
	}
	item, rerr := u.item(ctx)
	none := errors.Is(rerr, fs.ErrNotExist)
	switch {
	case rerr != nil && !none, item.is("InProgress"):
		return res, err // whoever resumes sees to it
	case err == nil && item.is("Pending") && res.Verdict == transport.VerdictStaged:
		return res, u.removeSet(ctx) // the task waits for the host
	case err != nil && none && u.posted:
		return res, err
	}
	if err == nil {
		return res, u.dequeue(ctx)
	}
	return res, errors.Join(err, u.withdraw(ctx))
}

// withdraw removes the task of a caller who gives up. The next one puts it there again, if
// it is certain that it had not begun when it was removed.
func (u *update) withdraw(ctx context.Context) error {
	was, err := u.service(ctx)
	if err != nil {
		return err
	}
	item, err := u.item(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !u.posted:
	case err != nil, !item.is("Pending"):
		return err
	default:
		if err := u.remove(ctx, u.data.Queue.Item); err != nil {
			return err
		}
		now, err := u.service(ctx)
		if err != nil || !idle(now.state().State) || now.state() != was.state() {
			return err
		}
	}
	if err := u.dequeue(ctx); err != nil {
		return err
	}
	q := u.data.Queue
	q.Item, q.Set, q.Looked, q.Own, q.Kept, u.data.Part = "", "", false, false, false, 0
	return u.checkpoint(phaseBegin, false)
}

// dequeue removes the task, the install set and the component of this update. What is
// being applied stays.
func (u *update) dequeue(ctx context.Context) error {
	item, err := u.item(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case item.is("InProgress"):
		return u.fail(transport.ErrBusy, fmt.Errorf("the task %q of the update queue is being carried out", item.Name), hintBusy)
	default:
		if err := u.remove(ctx, u.data.Queue.Item); err != nil {
			return err
		}
	}
	if err := u.removeSet(ctx); err != nil {
		return err
	}
	if !u.data.Queue.Own || u.s.opts.RecoverySet {
		return nil
	}
	if err := u.settled(ctx); err != nil {
		return err
	}
	at, err := u.component(ctx)
	if err != nil || at == "" {
		return err
	}
	err = u.remove(ctx, at)
	if errors.Is(err, transport.ErrBusy) { // somebody else has come to use it
		err = nil
	}
	return err
}

// settled waits until nothing can come into the repository any more of what a dead run, or
// one that was given up, has uploaded.
func (u *update) settled(ctx context.Context) error {
	if !u.data.Queue.arriving() {
		return nil
	}
	for began := time.Now(); ; {
		now, err := u.service(ctx)
		if err != nil {
			return err
		}
		state := now.state().State
		if idle(state) {
			return nil
		}
		if time.Since(began) >= u.s.opts.ResetTimeout {
			return u.fail(transport.ErrBusy, fmt.Errorf("the update service is at work (%s): %s may still come into the component repository", clip(state, 100), u.data.Queue.File), hintBusy)
		}
		if err := u.pauseWithin(ctx, u.s.opts.PollInterval); err != nil {
			return err
		}
	}
}

// removeSet removes the install set of this update.
func (u *update) removeSet(ctx context.Context) error {
	at := u.data.Queue.Set
	if at == "" {
		var err error
		if at, err = u.findNamed(ctx, u.conn.update.hpe().Sets); err != nil || at == "" {
			return err
		}
	}
	return u.remove(ctx, at)
}

// remove deletes a resource. That there is none is no error.
func (c *conn) remove(ctx context.Context, uri string) error {
	path, err := pathOf(uri)
	if err != nil {
		return &transport.Error{Op: "update", Target: c.s.target, Kind: transport.ErrProtocol, Err: err}
	}
	rep, err := c.s.do(ctx, request{op: "update", method: http.MethodDelete, path: path})
	if err != nil {
		return err
	}
	if rep.ok() || rep.status == http.StatusNotFound || rep.status == http.StatusGone {
		return nil
	}
	return c.refused("update", path, rep)
}
