package redfish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of what a target posts.
const (
	maxEvent  = 1 << 20 // bytes of one post
	maxEvents = 100     // events of one post, and texts that wait to be told
)

// subscribing is how long it may take to subscribe: it is worth no more.
const subscribing = 30 * time.Second

// subscription has the target post its events while an update lasts (DSP0266, "Eventing";
// DSP2046, "EventDestination"). What it posts is only that it is time to look: events get
// lost. A service that refuses it is asked now and then, as ever.
type subscription struct {
	u    *update
	mark string // its Context, by which it is found again
	at   string // its resource, if that is known and there is no other with the mark
	in   *transport.Receiving
	late bool // it may still be made, and would not end by itself

	mu    sync.Mutex
	texts []string // of events, that were not told yet
}

// eventService is what is used of an EventService.
type eventService struct {
	Enabled       flag  `json:"ServiceEnabled"`
	Types         texts `json:"EventTypesForSubscription"`
	Subscriptions link
}

// types are those of the events that tell of an update, of those that the service knows;
// services of a later version of the schema have none.
func (e *eventService) types() []string {
	var out []string
	for _, t := range []string{"StatusChange", "ResourceUpdated", "Alert"} {
		if slices.ContainsFunc(e.Types, func(s string) bool { return strings.EqualFold(s, t) }) {
			out = append(out, t)
		}
	}
	return out
}

// subscribe subscribes to events, where they can be received. The error is for what ends
// the update.
func (u *update) subscribe() (*subscription, error) {
	s := &subscription{u: u}
	u.events = s
	ctx, cancel := context.WithTimeout(u.ctx, subscribing)
	defer cancel()
	if u.data.Events != "" { // of a run that is dead, and whose URL nobody answers
		if _, err := u.unsubscribe(ctx, u.data.Events, "", ""); err == nil {
			u.data.Events = ""
		}
	}
	alone := u.data.Events == ""
	if mode := u.s.opts.Events; u.opts.Receive == nil || u.root.Events == "" || mode == EventsNever || mode == EventsAuto && !u.data.Way.pulls() {
		return s, u.ended()
	}
	err := s.open(ctx)
	if !alone {
		s.at = ""
	}
	if u.unkept != nil {
		return s, u.unkept
	}
	if gone := u.ended(); gone != nil {
		return s, gone
	}
	if err != nil {
		u.progress("events", 0, 0, clip("the target posts no events, and is asked now and then: "+s.hide(err.Error()), maxText))
	}
	return s, nil
}

// ended is why nothing more can be done, or nil.
func (u *update) ended() error {
	if err := u.ctx.Err(); err != nil {
		return u.s.fail(u.ctx, request{op: "update", path: u.payload.Name}, err)
	}
	return nil
}

// open makes the subscription. Whoever goes on after a crash finds it by its mark.
func (s *subscription) open(ctx context.Context) error {
	u := s.u
	var service eventService
	if err := u.read(ctx, "events", string(u.root.Events), &service); err != nil {
		return err
	}
	if on := service.Enabled.value; on != nil && !*on {
		return errors.New("its event service is off (ServiceEnabled)")
	}
	to, err := pathOf(string(service.Subscriptions))
	if err != nil {
		return errors.New("its event service takes no subscriptions")
	}
	if u.data.Events == "" {
		u.data.Events = rand.Text()
	}
	s.mark = u.data.Events
	in, err := u.opts.Receive(ctx, transport.ReceiveRequest{TLS: u.secure(), MaxBytes: maxEvent, Handle: s.take})
	if err != nil {
		return err
	}
	s.in = &in
	if err := u.checkpoint(u.phase, u.sent); err != nil {
		return err
	}
	body := map[string]any{"Destination": in.URL, "Context": s.mark, "Protocol": "Redfish",
		// One that nobody answers any more ends by itself.
		"DeliveryRetryPolicy": "TerminateAfterRetries"}
	if types := service.types(); len(types) > 0 {
		body["EventTypes"] = types
	}
	rep, err := u.post(ctx, to, body)
	if err == nil && rep.status == http.StatusBadRequest { // EventDestination before 1.6 has no such policy
		delete(body, "DeliveryRetryPolicy")
		rep, err = u.post(ctx, to, body)
	}
	if err != nil { // it may be there all the same
		s.late = body["DeliveryRetryPolicy"] == nil && !errors.Is(err, transport.ErrUnreachable)
		return err
	}
	if !rep.ok() {
		return u.refused("events", to, rep)
	}
	var made struct {
		ID link `json:"@odata.id"`
	}
	_ = decode(rep.body, &made)
	for _, at := range []string{rep.header.Get("Location"), string(made.ID)} {
		if p, err := pathOf(at); err == nil && s.at == "" && strings.HasPrefix(p, strings.TrimSuffix(to, "/")+"/") {
			s.at = p
		}
	}
	return nil
}

// post posts a resource to a collection.
func (c *conn) post(ctx context.Context, to string, v any) (*reply, error) {
	r, err := jsonRequest("events", http.MethodPost, to, v)
	if err != nil {
		return nil, err
	}
	return c.s.do(ctx, r)
}

// take takes a post. One that is not of this subscription is left alone: to refuse it
// would only have the target repeat it.
func (s *subscription) take(_ context.Context, body io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(body, maxEvent+1))
	if err != nil {
		return err
	}
	told, ok := readEvents(data, s.mark)
	if !ok {
		return nil
	}
	s.mu.Lock()
	for _, t := range told {
		if len(s.texts) < maxEvents && !slices.Contains(s.texts, t) {
			s.texts = append(s.texts, t)
		}
	}
	s.mu.Unlock()
	s.u.news()
	return nil
}

// readEvents returns what a post says (DSP2046, "Event"), and whether it is one for mark.
func readEvents(data []byte, mark string) (told []string, ok bool) {
	var e struct {
		Context text
		Events  []struct{ message }
	}
	if len(data) > maxEvent || decode(data, &e) != nil || len(e.Events) == 0 {
		return nil, false
	}
	if e.Context != "" && string(e.Context) != mark {
		return nil, false
	}
	for _, m := range e.Events[:min(len(e.Events), maxEvents)] {
		// That a resource is another now says nothing to people, and how far a task is
		// the next look tells.
		if t := m.String(); t != "" && !strings.HasPrefix(m.id(), "ResourceEvent.") && m.key() != "TaskProgressChanged" {
			told = append(told, clip(t, 1024))
		}
	}
	return told, true
}

// tell tells the caller what was posted since it was last called.
func (s *subscription) tell() {
	if s == nil {
		return
	}
	s.mu.Lock()
	told := s.texts
	s.texts = nil
	s.mu.Unlock()
	for _, t := range told {
		s.u.progress("events", 0, 0, t)
	}
}

// end removes the subscription, and then what it posts to. It returns what stays on the
// target, in words, or "".
func (s *subscription) end() (left string) {
	u := s.u
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), farewell)
	defer cancel()
	if u.data.Events != "" {
		to := ""
		if s.in != nil {
			to = s.in.URL
		}
		gone, err := u.unsubscribe(ctx, u.data.Events, s.at, to)
		for err != nil && (ofTheLine(err) || errors.Is(err, transport.ErrBusy)) && u.s.ctx.Err() == nil && rest(ctx, min(u.s.opts.PollInterval, time.Second)) {
			gone, err = u.unsubscribe(ctx, u.data.Events, s.at, to) // it may be starting anew
		}
		const may = "an event subscription with the Context %s may be left on the target, and can be deleted there: %s"
		switch {
		case err != nil:
			left = fmt.Sprintf(may, u.data.Events, s.hide(err.Error()))
		case s.late && !gone:
			left = fmt.Sprintf(may, u.data.Events, "it was not there, and the answer to the request for it was lost")
		default:
			u.data.Events = ""
		}
	}
	if s.in != nil {
		if err := s.in.Release(ctx); err != nil {
			u.progress("events", 0, 0, clip("closing the address for events: "+s.hide(err.Error()), maxText))
		}
	}
	s.tell()
	return clip(left, maxText)
}

// hide takes the address that the target posts to, which nobody else is to know, out of
// what the target says.
func (s *subscription) hide(text string) string {
	if s.in == nil {
		return text
	}
	text = strings.ReplaceAll(text, s.in.URL, redacted)
	if at, err := url.Parse(s.in.URL); err == nil && len(strings.Trim(at.Path, "/")) > 0 {
		text = strings.ReplaceAll(text, strings.Trim(at.Path, "/"), redacted)
	}
	return text
}

// rest waits, and reports whether ctx goes on.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// unsubscribe deletes the subscription with a mark, which at and to are of, if they are
// known, and reports whether there was one: after a reset, names may be those of others.
func (c *conn) unsubscribe(ctx context.Context, mark, at, to string) (was bool, err error) {
	var sub struct{ Context, Destination text }
	ours := func() bool { return string(sub.Context) == mark || to != "" && string(sub.Destination) == to }
	if at != "" {
		err := c.read(ctx, "events", at, &sub)
		if err == nil && ours() {
			return true, c.remove(ctx, at)
		}
		if err != nil && !answered(err) {
			return false, err
		}
	}
	var service eventService
	if c.root.Events == "" {
		return false, nil
	}
	if err := c.read(ctx, "events", string(c.root.Events), &service); err != nil {
		return false, err
	}
	list, err := c.members(ctx, "events", string(service.Subscriptions))
	if err != nil {
		return false, err
	}
	for _, m := range list {
		sub.Context, sub.Destination = "", ""
		switch {
		case errors.Is(m.err, fs.ErrNotExist): // it has ended meanwhile
		case m.err != nil:
			err = m.err // it may be the one
		case decode(m.body, &sub) == nil && ours():
			if err := c.remove(ctx, m.uri); err != nil {
				return was, err
			}
			was = true
		}
	}
	return was, err
}
