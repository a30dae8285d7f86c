package redfishtest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
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
