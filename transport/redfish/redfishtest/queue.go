package redfishtest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"
)

// QueueItem is an entry of the update task queue of an iLO.
type QueueItem struct {
	Name, Command, Filename string
	UpdatableBy             []string
	// State is Pending, InProgress, Complete, Canceled, Expired or Exception.
	State string
}

// Queue returns the update task queue, in order.
func (s *Server) Queue() []QueueItem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []QueueItem
	for _, i := range s.repo.queue {
		out = append(out, QueueItem{i.Name, i.Command, i.Filename, i.UpdatableBy, i.state})
	}
	return out
}

// Enqueue puts an item at the end of the queue, as if somebody else had: State ""
// means Pending, Command "" ApplyUpdate, UpdatableBy nil the Bmc.
func (s *Server) Enqueue(q QueueItem) {
	i := &item{Name: q.Name, Command: q.Command, Filename: q.Filename, UpdatableBy: q.UpdatableBy, state: q.State}
	i.complete()
	s.mu.Lock()
	i.created = s.now()
	s.repo.queue = append(s.repo.queue, i)
	s.notify()
	s.mu.Unlock()
	s.kick()
}

// queueLimit is how many items fit the queue.
const queueLimit = 64

// item is an entry of the queue, or of the sequence of an install set.
type item struct {
	Name            string
	Command         string
	Filename        string `json:",omitempty"`
	Component       string `json:"-"` // in requests, an older name of Filename
	UpdatableBy     []string
	WaitTimeSeconds int  `json:",omitempty"`
	TPMOverride     bool `json:",omitempty"`

	id            string
	state         string
	result        string // the last segment of a MessageId
	done          bool   // it was carried out, whatever the state says
	created       time.Time
	after, expire time.Time
	window        string // its Id
	targets       []string
}

func (i *item) complete() {
	i.id = nameID(i.Name)
	if i.Command == "" {
		i.Command = "ApplyUpdate"
	}
	if i.state == "" {
		i.state = "Pending"
	}
	if len(i.UpdatableBy) == 0 {
		i.UpdatableBy = []string{"Bmc"}
	}
}

// s.mu is held.
func (s *Server) itemObject(i *item) object {
	by := make([]any, len(i.UpdatableBy))
	for n, v := range i.UpdatableBy {
		by[n] = v
	}
	o := object{
		"Id": i.id, "Name": i.Name, "State": i.state, "Command": i.Command, "UpdatableBy": by, "TPMOverride": i.TPMOverride,
		"Created": stamp(i.created), "Modified": stamp(i.created), "UpdateRecoverySet": false, "CreatedBy": s.cfg.User,
	}
	if i.Filename != "" {
		o["Filename"] = i.Filename
	}
	if i.WaitTimeSeconds > 0 {
		o["WaitTimeSeconds"] = i.WaitTimeSeconds
	}
	if i.result != "" {
		o["Result"] = object{"MessageId": s.cfg.Profile.full(i.result), "MessageArgs": []any{}}
	}
	after, expire := s.times(i)
	if !after.IsZero() {
		o["StartAfter"] = stamp(after)
	}
	if !expire.IsZero() {
		o["Expire"] = stamp(expire)
	}
	if i.window != "" {
		o["MaintenanceWindow"] = i.window
	}
	return o
}

// times are when an item may start and must have started. s.mu is held.
func (s *Server) times(i *item) (after, expire time.Time) {
	for _, w := range s.repo.windows {
		if w.id == i.window {
			return w.after, w.expire
		}
	}
	return i.after, i.expire
}

// readItem reads an item of a request. s.mu is held.
func (s *Server) readItem(o object) (*item, error) {
	i := &item{created: s.now()}
	if b, err := json.Marshal(o); err != nil || json.Unmarshal(b, i) != nil {
		return nil, bad("PropertyValueNotInList")
	}
	if i.Filename == "" {
		i.Filename = text(o, "Component")
	}
	i.complete()
	if i.Name == "" {
		return nil, bad("PropertyMissing", "Name")
	}
	if !slices.Contains([]string{"ApplyUpdate", "ResetServer", "ResetBmc", "Wait"}, i.Command) {
		return nil, bad("PropertyValueNotInList", i.Command, "Command")
	}
	if i.Command == "ApplyUpdate" && s.repo.component(i.Filename) == nil {
		return nil, bad("PropertyValueNotInList", i.Filename, "Filename")
	}
	if i.WaitTimeSeconds < 0 || i.WaitTimeSeconds > 3600 {
		return nil, bad("PropertyValueNotInList", "WaitTimeSeconds")
	}
	return i, s.schedule(i, o)
}

// schedule reads when an item may start. s.mu is held.
func (s *Server) schedule(i *item, o object) (err error) {
	if i.after, err = readMoment(o, "StartAfter"); err != nil {
		return err
	}
	if i.expire, err = readMoment(o, "Expire"); err != nil {
		return err
	}
	i.window = text(o, "MaintenanceWindow")
	if i.window != "" && !slices.ContainsFunc(s.repo.windows, func(w *window) bool { return w.id == i.window }) {
		return bad("PropertyValueNotInList", i.window, "MaintenanceWindow")
	}
	if after, _ := s.times(i); after.After(s.now()) {
		s.wg.Go(func() { // the caller is a handler
			if s.sleepUntil(s.ctx, after) == nil {
				s.kick()
			}
		})
	}
	return nil
}

// newItem puts an item at the end of the queue.
func (s *Server) newItem(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		i, err := s.readItem(o)
		if err != nil {
			return err
		}
		if err := s.addItem(r, i); err != nil {
			return err
		}
		i.targets = list(o, "Targets")
		s.created(x, queuePath+"/"+i.id)
		return nil
	}(); err != nil {
		return err
	}
	s.kick()
	return nil
}

// addItem appends an item whose name must be new. s.mu is held.
func (s *Server) addItem(r *http.Request, i *item) error {
	if len(s.repo.queue) >= queueLimit || s.faultLocked(QueueFull, r) != nil {
		return bad("UpdateTaskQueueFull")
	}
	if slices.ContainsFunc(s.repo.queue, func(o *item) bool { return o.Name == i.Name }) {
		return bad("ResourceAlreadyExists", i.Name)
	}
	s.repo.queue = append(s.repo.queue, i)
	return nil
}

// head returns the item that is first of those that are not done, if an agent may
// begin it now. Nobody goes past an item that waits for another agent, is at work,
// has failed or has expired. s.mu is held.
func (s *Server) head(agent string) *item {
	for _, i := range s.repo.queue {
		if i.done || i.state == "Complete" || i.state == "Canceled" {
			continue
		}
		after, expire := s.times(i)
		now := s.now()
		if i.state == "Pending" && !expire.IsZero() && now.After(expire) {
			i.state = "Expired"
		}
		if i.state != "Pending" || !slices.Contains(i.UpdatableBy, agent) || now.Before(after) {
			return nil
		}
		return i
	}
	return nil
}

// next is the item that the service itself does next. s.mu is held.
func (s *Server) next() *item { return s.head("Bmc") }

// kick begins the next item, if there is one.
func (s *Server) kick() {
	s.mu.Lock()
	if s.closed || s.down {
		s.mu.Unlock()
		return
	}
	i := s.next()
	if i == nil || s.begin(nil) != nil {
		s.mu.Unlock()
		return
	}
	i.state = "InProgress"
	s.notify()
	s.wg.Add(1) // for launch: Close may wait already otherwise
	s.mu.Unlock()
	defer s.wg.Done()
	s.launch(nil, func(ctx context.Context) error {
		err := s.carryOut(ctx, i, "Bmc")
		s.endItem(i, err, false)
		return err
	})
}

// carryOut does what an item is for.
func (s *Server) carryOut(ctx context.Context, i *item, agent string) error {
	switch i.Command {
	case "Wait":
		return s.pause(ctx, float64(i.WaitTimeSeconds))
	case "ResetBmc":
		s.mu.Lock()
		s.flash.reset = true
		s.mu.Unlock()
		return s.pause(ctx, 1)
	case "ResetServer":
		if agent == "Uefi" {
			return nil // it is booting
		}
		return s.power("ForceRestart")
	}
	s.mu.Lock()
	c := s.repo.component(i.Filename)
	s.mu.Unlock()
	if c == nil {
		return bad("UpdateInvalidFile")
	}
	if err := s.tpm(nil, i.TPMOverride); err != nil {
		return err
	}
	if f := s.fault(QueueItemFails, nil); f != nil {
		if f.MessageID != "" {
			return bad(f.MessageID)
		}
		return bad("FirmwareFlashFailed")
	}
	return s.write(ctx, c.content, agent, i.targets)
}

// endItem tells what became of an item. Pending is what iLO 7 may say of one that
// the firmware of the host has done.
func (s *Server) endItem(i *item, err error, uefi bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.done = err == nil
	switch {
	case err != nil:
		i.state, i.result = "Exception", "InternalError"
		var m *message
		if errors.As(err, &m) {
			i.result = m.id
		}
	case s.faultLocked(QueueItemStaysStuck, nil) != nil, uefi && s.cfg.Profile == ILO7:
		i.state = "Pending"
	default:
		i.state, i.result = "Complete", "Success"
	}
	s.notify()
}

// bootQueue is the part of the host's firmware: it does its items, in order.
func (s *Server) bootQueue(ctx context.Context) error {
	for {
		s.mu.Lock()
		i := s.head("Uefi")
		if i == nil {
			s.mu.Unlock()
			return nil
		}
		i.state = "InProgress"
		s.notify()
		s.mu.Unlock()
		err := s.carryOut(ctx, i, "Uefi")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.endItem(i, err, true)
	}
}
