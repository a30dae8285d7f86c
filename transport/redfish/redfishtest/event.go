package redfishtest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	eventPath         = "/redfish/v1/EventService"
	subscriptionsPath = eventPath + "/Subscriptions"
	ssePath           = eventPath + "/SSE"
)

// eventState are those who want to hear of events. s.mu guards it.
type eventState struct {
	number    int
	streams   map[chan []byte]bool
	listeners []*subscriber
}

// subscriber is a destination to which events are posted.
type subscriber struct {
	id, destination, context string
	once                     bool // TerminateAfterRetries
	events                   chan []byte
	stop                     context.CancelFunc
}

// sse reports whether the service has a stream of events.
func (s *Server) sse() bool { return s.cfg.Profile == Generic }

// eventTree adds the event service. s.mu is held.
func (s *Server) eventTree(t *tree) {
	o := object{
		"Name": "Event Service", "ServiceEnabled": true, "Subscriptions": t.link(subscriptionsPath), "Status": object{"State": "Enabled", "Health": "OK"},
		"DeliveryRetryAttempts": retries, "DeliveryRetryIntervalSeconds": 30, "EventTypesForSubscription": []any{"StatusChange", "ResourceUpdated", "Alert"},
	}
	if s.sse() {
		o["ServerSentEventUri"] = ssePath
	}
	t.add(eventPath, "#EventService.v1_7_0.EventService", o)
	var members []string
	for _, l := range s.events.listeners {
		path := subscriptionsPath + "/" + l.id
		members = append(members, path)
		t.add(path, "#EventDestination.v1_8_0.EventDestination", object{
			"Id": l.id, "Name": "Event subscription", "Destination": l.destination, "Context": l.context, "Protocol": "Redfish",
		})
	}
	t.collection(subscriptionsPath, "EventDestinationCollection", "Event Subscriptions", members...)
}

// taskEvent tells of a task. s.mu is held.
func (s *Server) taskEvent(t *task, id string) {
	if t != nil {
		s.event("StatusChange", "TaskEvent.1.0."+id, t.name, tasksPath(t.id), t.id, fmt.Sprint(t.percent))
	}
}

// stateEvent tells that the update service says something else now. s.mu is held.
func (s *Server) stateEvent() {
	path := updatePath
	if s.cfg.Profile == ILO4 {
		path = ilo4UpdatePath
	}
	s.event("ResourceUpdated", "ResourceEvent.1.0.ResourceChanged", "One or more resource properties have changed.", path)
}

// event tells all who want to hear of it. s.mu is held.
func (s *Server) event(kind, id, text, origin string, args ...string) {
	if len(s.events.streams)+len(s.events.listeners) == 0 {
		return
	}
	s.events.number++
	n := s.events.number
	o := object{
		"@odata.type": "#Event.v1_7_0.Event", "Id": fmt.Sprint(n), "Name": "Event", "Context": "",
		"Events": []any{object{
			"EventId": fmt.Sprint(n), "EventType": kind, "MemberId": "0", "MessageId": id, "MessageArgs": append([]string{}, args...),
			"Message": text, "EventTimestamp": stamp(s.now()), "Severity": "OK",
			"OriginOfCondition": object{"@odata.id": origin + s.cfg.Profile.slash()},
		}},
	}
	send := func(c chan []byte, b []byte) {
		select {
		case c <- b:
		default: // it does not keep up
		}
	}
	b := bytes.TrimSpace(encode(o))
	for c := range s.events.streams {
		send(c, fmt.Appendf(nil, "id: %d\ndata: %s\n\n", n, b))
	}
	for _, l := range s.events.listeners {
		o["Context"] = l.context
		send(l.events, encode(o))
	}
}

// dropSubscribers ends streams: their connections break. s.mu is held.
func (s *Server) dropSubscribers() {
	for c := range s.events.streams {
		delete(s.events.streams, c)
		close(c)
	}
}

// stream is the event stream (DSP0266, 12.8.3).
func (s *Server) stream(x *exchange, r *http.Request) {
	c := make(chan []byte, 64)
	s.mu.Lock()
	if s.events.streams == nil {
		s.events.streams = make(map[chan []byte]bool)
	}
	s.events.streams[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.events.streams, c)
		s.mu.Unlock()
	}()
	x.Header().Set("Content-Type", "text/event-stream")
	x.Header().Set("Cache-Control", "no-cache")
	x.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(x)
	_, _ = fmt.Fprint(x, ": stream\n\n")
	_ = flush.Flush()
	for {
		select {
		case b, ok := <-c:
			if !ok {
				s.abort(r)
				return
			}
			if _, err := x.Write(b); err != nil || flush.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// subscribe makes a subscription: events are posted to its destination.
func (s *Server) subscribe(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	u, err := url.Parse(text(o, "Destination"))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return bad("PropertyValueNotInList", text(o, "Destination"), "Destination")
	}
	if _, ok := o["DeliveryRetryPolicy"]; ok && s.cfg.Profile == ILO4 {
		return bad("PropertyUnknown", "DeliveryRetryPolicy") // it came with EventDestination 1.6
	}
	if s.fault(SubscriptionLimit, r) != nil {
		return bad("CreateLimitReachedForResource")
	}
	ctx, stop := context.WithCancel(s.ctx)
	l := &subscriber{destination: u.String(), context: text(o, "Context"), events: make(chan []byte, 64), stop: stop,
		once: text(o, "DeliveryRetryPolicy") == "TerminateAfterRetries"}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers++
	l.id = fmt.Sprint(s.numbers)
	s.events.listeners = append(s.events.listeners, l)
	s.wg.Go(func() { s.deliver(ctx, u, l) })
	s.created(x, subscriptionsPath+"/"+l.id)
	return nil
}

// retries is how often an event is posted again that could not be delivered.
const retries = 3

// deliver posts the events of a subscription, again after one step of Config.Pace
// where that fails. What cannot be delivered is lost, and ends a subscription that is
// to end by that.
func (s *Server) deliver(ctx context.Context, u *url.URL, l *subscriber) {
	c := s.client(u)
	defer c.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-l.events:
			if s.fault(NeverPosts, nil) != nil {
				continue
			}
			if f := s.fault(PostsGarbage, nil); f != nil {
				n := int(f.Bytes)
				if n <= 0 {
					n = 64
				}
				b = bytes.Repeat([]byte("["), n)
			} else if s.fault(PostsOther, nil) != nil {
				b = bytes.Replace(b, []byte(l.context), []byte("another"), 1)
			}
			err := post(ctx, c, u, b)
			for n := 0; n < retries && err != nil && s.pause(ctx, 1) == nil; n++ {
				err = post(ctx, c, u, b)
			}
			if err != nil {
				s.log("an event is lost", "destination", u.Redacted(), "err", err)
				if l.once && ctx.Err() == nil {
					s.terminate(l)
					return
				}
			}
		}
	}
}

func post(ctx context.Context, c *http.Client, u *url.URL, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("redfishtest: %s: %s", u.Redacted(), resp.Status)
	}
	return nil
}

// Subscriptions returns the destinations of events.
func (s *Server) Subscriptions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, len(s.events.listeners))
	for i, l := range s.events.listeners {
		out[i] = l.destination
	}
	return out
}

// terminate ends a subscription that nobody answers.
func (s *Server) terminate(l *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.stop()
	s.events.listeners = slices.DeleteFunc(s.events.listeners, func(o *subscriber) bool { return o == l })
	s.notify()
}

// unsubscribe ends a subscription.
func (s *Server) unsubscribe(x *exchange, id string) error {
	s.mu.Lock()
	n := slices.IndexFunc(s.events.listeners, func(l *subscriber) bool { return strings.EqualFold(l.id, id) })
	if n >= 0 {
		s.events.listeners[n].stop()
		s.events.listeners = slices.Delete(s.events.listeners, n, n+1)
	}
	s.mu.Unlock()
	if n < 0 {
		return &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{id}}
	}
	s.success(x)
	return nil
}
