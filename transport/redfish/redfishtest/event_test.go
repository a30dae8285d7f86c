package redfishtest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestPostedState: who has subscribed hears of an update that makes no task, also
// where his listener was away for a moment.
func TestPostedState(t *testing.T) {
	for _, p := range []redfishtest.Profile{redfishtest.ILO4, redfishtest.ILO5, redfishtest.RMC} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: p})
			c := loggedIn(t, s)
			posts := make(chan map[string]any, 100)
			var asked atomic.Int32
			listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) <= 2 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				var e map[string]any
				b, _ := io.ReadAll(r.Body)
				if json.Unmarshal(b, &e) == nil {
					posts <- e
				}
			}))
			t.Cleanup(listener.Close)
			const subscriptions = "/redfish/v1/EventService/Subscriptions/"
			require.Equal(t, http.StatusCreated, c.do("POST", subscriptions, map[string]any{"Destination": listener.URL, "Context": "mine"}).status)
			hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Complete"})
			fw := s.Inventory()[1]
			require.Less(t, c.pull(fw.Image("x.bin", "9", 0)).status, 300)
			happened(t, s, hold)
			changes := 0
			for changes < 3 {
				select {
				case e := <-posts:
					require.Equal(t, "mine", e["Context"])
					one := e["Events"].([]any)[0].(map[string]any)
					if one["MessageId"] == "ResourceEvent.1.0.ResourceChanged" {
						changes++
						origin, _ := at(one, "OriginOfCondition", "@odata.id").(string)
						require.Equal(t, http.StatusOK, c.get(origin).status)
					}
				case <-time.After(time.Minute):
					t.Fatal("nobody posts")
				}
			}
			require.Len(t, c.get(subscriptions).json["Members"], 1)
		})
	}
}

// TestPostFaults: what goes wrong with subscriptions and with what is posted to them.
func TestPostFaults(t *testing.T) {
	const subscriptions = "/redfish/v1/EventService/Subscriptions"
	subscribed := func(t *testing.T, cfg redfishtest.Config, faults ...redfishtest.Fault) (s *redfishtest.Server, made answer, posts chan string, away *atomic.Bool) {
		s = newServer(t, cfg)
		c := loggedIn(t, s)
		posts, away = make(chan string, 100), new(atomic.Bool)
		listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if away.Load() {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			posts <- string(b)
		}))
		t.Cleanup(listener.Close)
		for _, f := range faults {
			s.Inject(f)
		}
		made = c.do("POST", subscriptions, map[string]any{"Destination": listener.URL + "/x", "Context": "mine", "DeliveryRetryPolicy": "TerminateAfterRetries"})
		if made.status == http.StatusCreated {
			require.Equal(t, []string{listener.URL + "/x"}, s.Subscriptions())
		} else {
			require.Empty(t, s.Subscriptions())
		}
		return s, made, posts, away
	}
	push := func(t *testing.T, s *redfishtest.Server) {
		fw := s.Inventory()[0]
		require.Less(t, loggedIn(t, s).pull(fw.Image("x.bin", "9", 0)).status, 300)
		require.NoError(t, s.Idle(t.Context()))
	}
	next := func(t *testing.T, posts chan string) string {
		select {
		case p := <-posts:
			return p
		case <-time.After(time.Minute):
			t.Fatal("nobody posts")
			return ""
		}
	}
	t.Run("limit", func(t *testing.T) {
		_, made, _, _ := subscribed(t, redfishtest.Config{}, redfishtest.Fault{Kind: redfishtest.SubscriptionLimit})
		require.Equal(t, http.StatusBadRequest, made.status)
		require.Equal(t, "CreateLimitReachedForResource", made.id())
	})
	t.Run("no policy", func(t *testing.T) {
		_, made, _, _ := subscribed(t, redfishtest.Config{Profile: redfishtest.ILO4})
		require.Equal(t, "PropertyUnknown", made.id())
	})
	t.Run("garbage, once", func(t *testing.T) {
		s, _, posts, _ := subscribed(t, redfishtest.Config{}, redfishtest.Fault{Kind: redfishtest.PostsGarbage, Bytes: 100, Times: 1})
		push(t, s)
		require.Equal(t, strings.Repeat("[", 100), next(t, posts))
		require.Contains(t, next(t, posts), `"mine"`)
	})
	t.Run("for another, once", func(t *testing.T) {
		s, _, posts, _ := subscribed(t, redfishtest.Config{}, redfishtest.Fault{Kind: redfishtest.PostsOther, Times: 1})
		push(t, s)
		first := next(t, posts)
		require.Contains(t, first, `"another"`)
		require.NotContains(t, first, "mine")
		require.Contains(t, next(t, posts), `"mine"`)
	})
	t.Run("never", func(t *testing.T) {
		s, _, posts, _ := subscribed(t, redfishtest.Config{})
		f := s.Inject(redfishtest.Fault{Kind: redfishtest.NeverPosts})
		push(t, s)
		require.NoError(t, s.Await(t.Context(), func() bool { return f.Hits() > 0 }))
		require.Empty(t, posts)
	})
	t.Run("nobody there", func(t *testing.T) {
		s, _, _, away := subscribed(t, redfishtest.Config{})
		away.Store(true)
		push(t, s)
		require.NoError(t, s.Await(t.Context(), func() bool { return len(s.Subscriptions()) == 0 }), "it is to end by that")
	})
}
