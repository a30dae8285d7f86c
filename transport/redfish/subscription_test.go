package redfish_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

const subscriptionsPath = "/redfish/v1/EventService/Subscriptions"

// mailbox is a manager to which targets post.
type mailbox struct {
	t   testing.TB
	srv *httptest.Server

	mu    sync.Mutex
	boxes map[string]transport.ReceiveRequest // by path
	made  int
	posts []string // what came in, taken or not
}

func newMailbox(t testing.TB) *mailbox {
	m := &mailbox{t: t, boxes: map[string]transport.ReceiveRequest{}}
	m.srv = httptest.NewServer(m)
	t.Cleanup(m.srv.Close)
	return m
}

// receive is UpdateOptions.Receive.
func (m *mailbox) receive(_ context.Context, r transport.ReceiveRequest) (transport.Receiving, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made++
	path := "/" + rand.Text()
	m.boxes[path] = r
	return transport.Receiving{URL: m.srv.URL + path, Release: func(context.Context) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.boxes, path)
		return nil
	}}, nil
}

func (m *mailbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	m.mu.Lock()
	box, ok := m.boxes[r.URL.Path]
	if ok {
		m.posts = append(m.posts, string(b))
	}
	m.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if err := box.Handle(r.Context(), strings.NewReader(string(b))); err != nil {
		http.Error(w, "not taken", http.StatusInternalServerError)
	}
}

// open is how many addresses there are, and made how many there were.
func (m *mailbox) count() (open, made, posts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.boxes), m.made, len(m.posts)
}

// watched is an update of one part that the target fetches, and what is told of it.
type watched struct {
	srv    *redfishtest.Server
	box    *mailbox
	states recorder
	pub    *transporttest.Publisher
	uo     transport.UpdateOptions
	p      transport.Payload
	opts   redfish.Options

	mu   sync.Mutex
	told []string // of events
}

func newWatched(t testing.TB, cfg redfishtest.Config, id string, way redfish.Way) *watched {
	w := &watched{srv: simulator(t, cfg), box: newMailbox(t), opts: quick()}
	var err error
	w.pub, err = transporttest.NewPublisher("")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.pub.Close()) })
	w.opts.Way, w.opts.ImageScheme = way, "http"
	fw := w.srv.Firmware(id)
	w.p = transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("image.bin", "100.1", 20_000)}}
	w.uo = transport.UpdateOptions{Devices: []string{deviceOf(t, w.srv, id)}, Publish: w.pub.Publish, Receive: w.box.receive,
		Checkpoint: w.states.keep, Progress: func(p transport.Progress) {
			if p.Phase == "events" {
				w.mu.Lock()
				w.told = append(w.told, p.Text)
				w.mu.Unlock()
			}
		}}
	return w
}

func (w *watched) run(t testing.TB, ctx context.Context) (transport.Result, error) {
	return transport.Update(ctx, dial(t, endpointOf(w.srv, w.opts)), w.p, w.uo)
}

// clean wants nothing left, on the target and here.
func (w *watched) clean(t testing.TB) {
	require.Empty(t, w.srv.Subscriptions())
	open, _, _ := w.box.count()
	require.Zero(t, open)
}

// subscribed is the state of a manager that died with a subscription.
func (w *watched) subscribed(t testing.TB) *transport.State {
	for _, s := range w.states.states {
		if strings.Contains(string(s.Data), `"events":"`) {
			return &s
		}
	}
	require.Fail(t, "no state names the subscription")
	return nil
}

// A target that fetches posts what becomes of the update while that lasts: the driver
// looks when there is news, whatever its interval is, and nothing is left when the caller
// gives up.
func TestSubscription(t *testing.T) {
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		way     redfish.Way
		look    string
	}{
		{redfishtest.Generic, "NIC", redfish.WaySimpleUpdate, "/redfish/v1/TaskService/Tasks/1"},
		{redfishtest.ILO4, "1", redfish.WayInstallFromURI, "/redfish/v1/Managers/1/UpdateService"},
		{redfishtest.ILO5, "4", redfish.WayAddFromURI, "/redfish/v1/UpdateService/"},
		{redfishtest.ILO6, "4", redfish.WayAddFromURI, "/redfish/v1/UpdateService/"},
		{redfishtest.RMC, "RMC", redfish.WayUpdateAll, "/redfish/v1/UpdateService"},
	} {
		t.Run(string(c.profile), func(t *testing.T) {
			t.Parallel()
			w := newWatched(t, redfishtest.Config{Profile: c.profile, Pace: 20 * time.Millisecond}, c.id, c.way)
			w.opts.PollInterval = time.Hour
			hold := w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := w.run(t, ctx)
				done <- err
			}()
			require.NoError(t, w.srv.Await(t.Context(), func() bool { return hold.Hits() > 0 }))
			require.Len(t, w.srv.Subscriptions(), 1)
			hold.Remove()
			require.Eventually(t, func() bool { _, _, posts := w.box.count(); return posts > 0 }, 20*time.Second, time.Millisecond)
			looks := func() int { return w.srv.Count("GET", c.look) }
			seen := looks()
			require.Eventually(t, func() bool { return looks() > seen }, 20*time.Second, time.Millisecond)
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
			require.NotNil(t, w.subscribed(t), "a state names it")
			w.clean(t)
		})
	}
}

// Whatever becomes of an update, and of the events, no subscription is left, and the
// outcome is what it is without.
func TestSubscriptionEnds(t *testing.T) {
	type F = redfishtest.Fault
	for _, c := range []struct {
		name    string
		faults  []F
		change  func(w *watched)
		verdict transport.Verdict
		told    string // "-": nothing
		posts   int    // requests to subscribe
	}{
		{"applied", nil, nil, transport.VerdictApplied, "TaskEvent", 1},
		{"failed", []F{{Kind: redfishtest.FlashFails}}, nil, transport.VerdictFailed, "", 1},
		{"refused", []F{{Kind: redfishtest.BadSignature}}, nil, transport.VerdictFailed, "", 1},
		{"one too many", []F{{Kind: redfishtest.SubscriptionLimit}}, nil, transport.VerdictApplied, "CreateLimitReachedForResource", 2},
		{"forbidden", []F{{Kind: redfishtest.Refuses, Method: "POST", Path: subscriptionsPath, Status: 403}}, nil, transport.VerdictApplied, "posts no events", 1},
		{"never posts", []F{{Kind: redfishtest.NeverPosts}}, nil, transport.VerdictApplied, "-", 1},
		{"posts garbage", []F{{Kind: redfishtest.PostsGarbage}}, nil, transport.VerdictApplied, "-", 1},
		{"posts much garbage", []F{{Kind: redfishtest.PostsGarbage, Bytes: 3 << 20}}, nil, transport.VerdictApplied, "-", 1},
		{"posts for another", []F{{Kind: redfishtest.PostsOther}}, nil, transport.VerdictApplied, "-", 1},
		{"the answer is lost", []F{{Kind: redfishtest.ResetAnswered, Method: "POST", Path: subscriptionsPath}}, nil, transport.VerdictApplied, "posts no events", 1},
		{"busy at the end", []F{{Kind: redfishtest.Unavailable, Method: "DELETE", Path: subscriptionsPath, Times: 2}}, nil, transport.VerdictApplied, "TaskEvent", 1},
		{"where it is nobody says", []F{{Kind: redfishtest.ForgetsLocation, Method: "POST", Path: subscriptionsPath}}, nil, transport.VerdictApplied, "TaskEvent", 1},
		{"no service of events", []F{{Kind: redfishtest.Refuses, Path: "/redfish/v1/EventService", Status: 404}}, nil, transport.VerdictApplied, "posts no events", 0},
		{"nowhere to post", nil, func(w *watched) {
			w.uo.Receive = func(context.Context, transport.ReceiveRequest) (transport.Receiving, error) {
				return transport.Receiving{}, errors.New("the port is taken")
			}
		}, transport.VerdictApplied, "the port is taken", 0},
		{"not received", nil, func(w *watched) { w.uo.Receive = nil }, transport.VerdictApplied, "-", 0},
		{"not wanted", nil, func(w *watched) { w.opts.Events = redfish.EventsNever }, transport.VerdictApplied, "-", 0},
		{"pushed", nil, func(w *watched) { w.opts.Way = redfish.WayMultipart }, transport.VerdictApplied, "-", 0},
		{"pushed, and wanted", nil, func(w *watched) { w.opts.Way, w.opts.Events = redfish.WayMultipart, redfish.EventsAlways },
			transport.VerdictApplied, "TaskEvent", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWatched(t, redfishtest.Config{Pace: 10 * time.Millisecond}, "NIC", redfish.WaySimpleUpdate)
			var injected []*redfishtest.Injected
			for _, f := range c.faults {
				injected = append(injected, w.srv.Inject(f))
			}
			posts := len(c.faults) == 1 && slices.Contains([]redfishtest.FaultKind{redfishtest.NeverPosts, redfishtest.PostsGarbage, redfishtest.PostsOther}, c.faults[0].Kind)
			if c.change != nil {
				c.change(w)
			}
			if c.told == "TaskEvent" {
				hold := w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
				heard := w.uo.Progress
				w.uo.Progress = func(p transport.Progress) {
					if heard(p); p.Phase == "events" {
						hold.Remove() // it ends when something was posted
					}
				}
			}
			if posts {
				hold := w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
				heard := w.uo.Progress
				w.uo.Progress = func(p transport.Progress) {
					heard(p)
					_, _, came := w.box.count()
					if injected[0].Hits() > 0 && (came > 0 || c.faults[0].Kind == redfishtest.NeverPosts) {
						hold.Remove() // it ends when there was something to post
					}
				}
			}
			res, err := w.run(t, t.Context())
			require.NoError(t, err)
			for _, i := range injected {
				require.Positive(t, i.Hits(), "the fault has happened")
			}
			require.Equal(t, c.verdict, res.Verdict, "%+v", res)
			require.NotContains(t, res.Text, "subscription")
			told := strings.Join(w.told, "\n")
			if c.told == "-" {
				require.Empty(t, told)
			}
			require.Contains(t, told, strings.TrimPrefix(c.told, "-"))
			require.Equal(t, c.posts, w.srv.Count("POST", subscriptionsPath))
			w.clean(t)
		})
	}
}

// A request to subscribe whose answer is lost may be carried out when nobody looks any more:
// where the subscription would not end by itself, that is said.
func TestSubscriptionThatMayCome(t *testing.T) {
	for _, ends := range []bool{true, false} {
		w := newWatched(t, redfishtest.Config{}, "NIC", redfish.WaySimpleUpdate)
		skip := 0
		if !ends {
			skip = 1
			w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "POST", Path: subscriptionsPath, Status: 400, Times: 1})
		}
		f := w.srv.Inject(redfishtest.Fault{Kind: redfishtest.ResetAt, Bytes: 1, Method: "POST", Path: subscriptionsPath, Skip: skip, Times: 1})
		res, err := w.run(t, t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, f.Hits())
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Equal(t, !ends, strings.Contains(res.Text, "an event subscription with the Context"), res.Text)
		w.clean(t)
	}
}

// What a service says of the address that it was to post to is told without the address,
// which is good for whoever has it.
func TestSubscriptionKeepsItsAddress(t *testing.T) {
	s := newService(t, nil)
	s.pusher(0)
	const events = "/redfish/v1/EventService"
	s.edit("/redfish/v1", func(o obj) { o["EventService"] = ref(events) })
	s.set(events, obj{"Subscriptions": ref(events + "/Subscriptions")})
	s.collection(events + "/Subscriptions")
	s.handle("POST "+events+"/Subscriptions", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Destination string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		at, _ := url.Parse(in.Destination)
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(obj{"error": obj{"@Message.ExtendedInfo": []obj{{"MessageId": "Base.1.4.PropertyValueFormatError",
			"Message": in.Destination + " is nowhere, nor is " + at.Path, "MessageArgs": []string{in.Destination, at.Path}}}}})
	})
	box := newMailbox(t)
	var told []string
	token := ""
	opts := quick()
	opts.Way, opts.Events = redfish.WayHTTPPush, redfish.EventsAlways
	ep := s.endpoint()
	ep.Options = opts
	_, err := transport.Update(t.Context(), dial(t, ep), image("2.00"), transport.UpdateOptions{
		Receive: func(ctx context.Context, r transport.ReceiveRequest) (transport.Receiving, error) {
			in, err := box.receive(ctx, r)
			token = in.URL[strings.LastIndexByte(in.URL, '/')+1:]
			return in, err
		},
		Progress: func(p transport.Progress) { told = append(told, p.Text) }})
	require.NoError(t, err)
	all := strings.Join(told, "\n")
	require.Contains(t, all, "PropertyValueFormatError")
	require.Contains(t, all, "is nowhere")
	require.NotEmpty(t, token)
	require.NotContains(t, all, token)
}

// What is asked for is what the service knows, and ends by itself where that can be said.
func TestSubscriptionBody(t *testing.T) {
	for _, profile := range []redfishtest.Profile{redfishtest.ILO5, redfishtest.ILO4} {
		w := newWatched(t, redfishtest.Config{Profile: profile}, "1", redfish.WayAuto)
		w.opts.Events = redfish.EventsAlways
		_, err := w.run(t, t.Context())
		require.NoError(t, err)
		var bodies []map[string]any
		for _, r := range w.srv.Requests() {
			if r.Method == "POST" && strings.HasPrefix(strings.ToLower(r.Path), strings.ToLower(subscriptionsPath)) {
				var b map[string]any
				require.NoError(t, json.Unmarshal([]byte(r.JSON), &b))
				bodies = append(bodies, b)
			}
		}
		require.Len(t, bodies, map[redfishtest.Profile]int{redfishtest.ILO5: 1, redfishtest.ILO4: 2}[profile])
		require.Equal(t, "TerminateAfterRetries", bodies[0]["DeliveryRetryPolicy"])
		last := bodies[len(bodies)-1]
		require.Equal(t, profile == redfishtest.ILO5, last["DeliveryRetryPolicy"] != nil)
		require.Equal(t, "Redfish", last["Protocol"])
		require.Equal(t, []any{"StatusChange", "ResourceUpdated", "Alert"}, last["EventTypes"])
		require.True(t, strings.HasPrefix(last["Destination"].(string), w.box.srv.URL+"/"), "%v", last)
		require.GreaterOrEqual(t, len(last["Context"].(string)), 26)
		w.clean(t)
	}
}

// What a dead manager has subscribed to is removed by whoever resumes or undoes the
// update, and that of others stays.
func TestSubscriptionLeft(t *testing.T) {
	for _, how := range []string{"undone", "resumed", "resumed, not wanted", "resumed, after a refusal"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWatched(t, redfishtest.Config{Pace: 10 * time.Millisecond}, "NIC", redfish.WaySimpleUpdate)
			other := newMailbox(t)
			foreign := "http" + strings.TrimPrefix(other.srv.URL, "http") + "/other"
			subscribeTo(t, w.srv, foreign, "of somebody else")
			// It does not end by itself.
			w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "POST", Path: subscriptionsPath, Status: 400, Times: 1})
			kept := w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "DELETE", Path: subscriptionsPath, Status: 500})
			res, err := w.run(t, t.Context())
			require.NoError(t, err)
			require.Equal(t, transport.VerdictApplied, res.Verdict)
			require.Contains(t, res.Text, "an event subscription with the Context")
			require.Len(t, w.srv.Subscriptions(), 2)
			open, made, _ := w.box.count()
			require.Equal(t, []int{0, 1}, []int{open, made}, "nobody answers it any more")
			state := w.subscribed(t)
			if how != "resumed, after a refusal" {
				kept.Remove()
			}
			switch how {
			case "undone":
				conn := dial(t, endpointOf(w.srv, w.opts))
				require.NoError(t, transport.Undo(t.Context(), conn, *state))
				require.NoError(t, transport.Undo(t.Context(), conn, *state), "it is not there any more")
			case "resumed, not wanted":
				w.opts.Events = redfish.EventsNever
				fallthrough
			default:
				w.uo.Resume = state
				w.uo.Rewrite = true
				if how == "resumed, after a refusal" {
					// Once when it begins: the second time both go.
					kept.Remove()
					w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "DELETE", Path: subscriptionsPath, Status: 500, Times: 1})
				}
				_, err := w.run(t, t.Context())
				require.NoError(t, err)
				_, made, _ := w.box.count()
				require.Equal(t, how != "resumed, not wanted", made == 2)
			}
			require.Equal(t, []string{foreign}, w.srv.Subscriptions())
			open, _, _ = w.box.count()
			require.Zero(t, open)
		})
	}
}

// Nothing is subscribed to, and nothing sent, where the state cannot be kept.
func TestSubscriptionUnkept(t *testing.T) {
	w := newWatched(t, redfishtest.Config{}, "NIC", redfish.WaySimpleUpdate)
	w.uo.Checkpoint = func(_ context.Context, s transport.State) error {
		if strings.Contains(string(s.Data), `"events":"`) {
			return errors.New("the disk is full")
		}
		return nil
	}
	_, err := w.run(t, t.Context())
	require.ErrorContains(t, err, "the disk is full")
	require.Zero(t, w.srv.Count("POST", subscriptionsPath))
	require.Empty(t, w.srv.Flashes())
	w.clean(t)
}

// subscribeTo makes a subscription by hand.
func subscribeTo(t testing.TB, srv *redfishtest.Server, url, mark string) {
	body, err := json.Marshal(map[string]any{"Destination": url, "Context": mark})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL()+subscriptionsPath, strings.NewReader(string(body)))
	require.NoError(t, err)
	req.SetBasicAuth(srv.User(), srv.Password())
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusCreated, resp.StatusCode)
}

// An iLO comes to the manager by http, and a Superdome Flex by https, to fetch and to
// post, unless the caller says otherwise; nothing is sent before there is an offer.
func TestImageScheme(t *testing.T) {
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		way     redfish.Way
		scheme  string
		tls     bool
	}{
		{redfishtest.Generic, "NIC", redfish.WaySimpleUpdate, "", false},
		{redfishtest.ILO4, "1", redfish.WayInstallFromURI, "", false},
		{redfishtest.ILO5, "4", redfish.WayAddFromURI, "", false},
		{redfishtest.ILO5, "4", redfish.WayAddFromURI, "https", true},
		{redfishtest.ILO6, "4", redfish.WaySimpleUpdate, "", false},
		{redfishtest.RMC, "RMC", redfish.WayUpdateAll, "", true},
		{redfishtest.RMC, "RMC", redfish.WayUpdateAll, "http", false},
	} {
		w := newWatched(t, redfishtest.Config{Profile: c.profile}, c.id, c.way)
		w.opts.ImageScheme = c.scheme
		var fetch []bool
		w.uo.Publish = func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
			fetch = append(fetch, r.TLS)
			r.TLS = false // which this publisher has not
			return w.pub.Publish(ctx, r)
		}
		var posts []bool
		w.uo.Receive = func(_ context.Context, r transport.ReceiveRequest) (transport.Receiving, error) {
			posts = append(posts, r.TLS)
			return transport.Receiving{}, errors.ErrUnsupported
		}
		res, err := w.run(t, t.Context())
		require.NoError(t, err)
		require.NotEqual(t, transport.VerdictFailed, res.Verdict)
		require.Equal(t, []bool{c.tls}, fetch, "%s %s", c.profile, c.scheme)
		require.Equal(t, []bool{c.tls}, posts, "%s %s", c.profile, c.scheme)

		w.uo.Publish = func(context.Context, transport.PublishRequest) (transport.Published, error) {
			return transport.Published{}, transport.ErrBusy
		}
		flashes := len(w.srv.Flashes())
		w.uo.Rewrite = true
		_, err = w.run(t, t.Context())
		require.ErrorIs(t, err, transport.ErrBusy)
		require.Len(t, w.srv.Flashes(), flashes)
	}
}
