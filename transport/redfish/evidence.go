package redfish

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// maxTasks bounds the list of tasks that proves something.
const maxTasks = 1000

// takeStock keeps what the target tells before a request, and forgets what it told of
// those before.
func (u *update) takeStock() error {
	u.data.Task, u.data.Watch, u.data.Worked, u.data.Told, u.absent = taskRef{}, "", false, transport.ActivationNone, false
	u.said, u.mute, u.cut = "", false, false
	u.data.Mark = u.markOf(u.data.Part)
	b := before{Boot: u.boot()}
	if u.profile.ilo() || u.profile == ProfileILO4 {
		// Where it cannot be read nothing that is told later is known to be new.
		now, err := u.service(u.ctx)
		if err != nil && !answered(err) {
			return err
		}
		if err == nil {
			b.Service = now.state()
		}
	}
	if u.data.Way != WayHPEPush { // which leaves none
		tasks, all := u.tasks()
		update := func(t task) bool { return u.isUpdate(t) }
		b.Leaves = all && (u.leaves[u.data.Way] || slices.ContainsFunc(tasks, update))
		for _, t := range tasks {
			b.Tasks = append(b.Tasks, t.taskRef)
		}
	}
	u.data.Before = b
	u.loginsThen = u.s.loginCount()
	return nil
}

// turn has an iLO fetch the image that was pushed to it in vain, and reports whether it
// does; where there is no way to offer the image, res is told why. An iLO answers some
// pushes by an empty 400 whose only fault is that they are pushes; and by the same some that
// it takes, so that nothing less than proof will do.
func (u *update) turn(offers *offers, res *transport.Result) (bool, error) {
	const to = WayAddFromURI
	if !u.mute || !u.cut && !u.unsure || u.data.Way != WayHPEPush || u.s.opts.Way != WayAuto || u.opts.Publish == nil ||
		u.to(to, &u.conn.update) == "" || u.cargo.unfit(to, u.profile) != nil || !u.cut && !u.neverArrived() {
		return false, nil
	}
	way, cargo := u.data.Way, *u.cargo
	u.data.Way = to
	o, err := u.reload()
	if err != nil { // the way stays: whoever goes on may not be able to offer it either
		u.data.Way, *u.cargo = way, cargo
		if gone := u.ended(); gone != nil {
			return false, gone
		}
		res.Text = clip(fmt.Sprintf("%s; the target took nothing of the push, and cannot be told to fetch the image: %v", res.Text, err), maxText)
		return false, nil
	}
	u.log("the target took nothing of the push, and is to fetch the image itself")
	*offers = *o // a push has none
	u.unsure, u.data.Part = false, 0
	return true, u.checkpoint(phaseBegin, false)
}

// reload puts what goes by another way in the place of what went, and offers it.
func (u *update) reload() (*offers, error) {
	if err := u.load(); err != nil {
		return nil, err
	}
	return u.publish()
}

// again follows a request that may not have arrived, and reports whether it has not: the
// target does nothing, has no trace of it where it would have one, and was not reset
// since, so that it has not forgotten either. What cannot be known is not.
func (u *update) again(offers *offers) (transport.Result, bool, error) {
	res, err := u.follow(offers)
	if err != nil || res.Verdict != transport.VerdictUnknown || !u.unsure || !u.neverArrived() {
		return res, false, err
	}
	u.unsure, offers.asked = false, false
	u.log("the request has not arrived, and is made again")
	return transport.Result{}, true, u.checkpoint(phaseBegin, false)
}

// nextPart is again for a section that is not the last: what comes of it is only that it was
// taken. It reports whether it or the next one is to be sent.
func (u *update) nextPart(offers *offers) (transport.Result, bool, error) {
	return u.lostPart(offers, true)
}

// lostPart is nextPart. A section that has not arrived is to be sent again only if repeat
// says so: what a target did not take twice it will not take the next time either.
func (u *update) lostPart(offers *offers, repeat bool) (transport.Result, bool, error) {
	if res, err := u.between(offers); err != nil || res.Verdict != transport.VerdictUnknown {
		return res, false, err
	}
	now, err := u.service(u.ctx)
	if err != nil {
		return transport.Result{}, false, err
	}
	is := now.state()
	switch {
	case is.Mark != "" && is.Mark == u.data.Mark && final(is.State):
		u.unsure = false
		u.data.Part++
		return transport.Result{}, true, u.checkpoint(phaseNext, false)
	case u.neverArrived():
		if !repeat {
			return transport.Result{Text: clip(fmt.Sprintf("section %d of %d was sent twice, and has not arrived: %s", u.data.Part+1, u.requests(), u.said), maxText)}, false, nil
		}
		u.unsure = false
		return transport.Result{}, true, u.checkpoint(phaseNext, false)
	}
	return transport.Result{Text: fmt.Sprintf("whether section %d of %d arrived is not known", u.data.Part+1, u.requests())}, false, nil
}

// neverArrived reports whether the last request is known to have had no effect.
func (u *update) neverArrived() bool {
	b := u.data.Before
	if u.data.Queue != nil {
		return u.neverQueued()
	}
	if u.data.Worked || u.absent || !u.sameBoot() {
		return false
	}
	if u.data.Way == WayHPEPush {
		// Not every one shows the mark of an upload. One that showed another mark
		// before, and shows it still, does.
		now, err := u.service(u.ctx)
		if err != nil {
			return false
		}
		is := now.state()
		return b.Service.Mark != "" && is.Mark == b.Service.Mark && (is == b.Service && idle(is.State) || strings.EqualFold(is.State, "IDLE"))
	}
	if !b.Leaves {
		return false
	}
	now, all := u.tasks()
	if !all {
		return false
	}
	there := func(list []taskRef, t taskRef) bool { return slices.ContainsFunc(list, t.is) }
	var refs []taskRef
	for _, t := range now {
		if !there(b.Tasks, t.taskRef) {
			return false
		}
		refs = append(refs, t.taskRef)
	}
	// Who has removed old ones may have removed ours.
	return !slices.ContainsFunc(b.Tasks, func(t taskRef) bool { return !there(refs, t) })
}

// sameBoot reports whether the target is known not to have been reset since the last
// request. An iLO that does not tell has ended its sessions by a reset.
func (u *update) sameBoot() bool {
	if was := u.data.Before.Boot; was != "" {
		return u.boot() == was
	}
	return u.profile.ilo() && u.loginsThen > 0 && u.loginsThen == u.s.loginCount()
}

// boot is when the management processor was reset last, or "" if it does not tell.
func (u *update) boot() string {
	var m manager
	if len(u.managers) == 0 || u.read(u.ctx, "update", string(u.managers[0].ID), &m) != nil {
		return ""
	}
	return string(m.Reset)
}

// task is a task in the list.
type task struct {
	taskRef
	request string // what made it, if that is told
}

// tasks returns the tasks that the service has, and whether that is all.
func (u *update) tasks() ([]task, bool) {
	at := u.root.Tasks
	if at == "" {
		at = u.root.TaskService
	}
	if at == "" {
		return nil, false
	}
	var service struct{ Tasks link }
	if u.read(u.ctx, "update", string(at), &service) != nil || service.Tasks == "" {
		return nil, false
	}
	list, err := u.collect(u.ctx, "update", string(service.Tasks), maxTasks)
	var out []task
	all := err == nil
	for _, m := range list {
		var t struct {
			ID      link `json:"@odata.id"`
			Start   text `json:"StartTime"`
			Payload struct {
				URI text `json:"TargetUri"`
			}
		}
		uri, err := pathOf(m.uri)
		if m.err != nil || err != nil || decode(m.body, &t) != nil || t.ID == "" {
			all = false
			continue
		}
		out = append(out, task{taskRef{strings.TrimSuffix(uri, "/"), string(t.Start)}, string(t.Payload.URI)})
	}
	return out, all
}

// isUpdate reports whether a task says that it is of a request as this update makes.
func (u *update) isUpdate(t task) bool {
	if t.request == "" {
		return false
	}
	from, err := pathOf(t.request)
	to, terr := pathOf(u.to(u.data.Way, &u.conn.update))
	return err == nil && terr == nil && strings.EqualFold(strings.TrimSuffix(from, "/"), strings.TrimSuffix(to, "/"))
}

// newTask finds the task of a request whose answer was lost, where there is one that was
// not there before.
func (u *update) newTask() {
	now, _ := u.tasks()
	now = slices.DeleteFunc(now, func(t task) bool {
		return slices.ContainsFunc(u.data.Before.Tasks, t.is) ||
			!u.isUpdate(t) && (t.request != "" || u.profile.ilo()) // an iLO makes tasks of much else
	})
	if len(now) == 1 {
		u.data.Task = now[0].taskRef
	}
}
