package redfishtest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestCapture: what a service says can be served without it, and does not change.
func TestCapture(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			live := newServer(t, redfishtest.Config{Profile: p})
			capture, err := live.Capture()
			require.NoError(t, err)
			b, err := json.Marshal(capture)
			require.NoError(t, err)
			capture, err = redfishtest.ReadCapture(strings.NewReader(string(b)))
			require.NoError(t, err)

			s := newServer(t, redfishtest.Config{Capture: capture})
			require.Equal(t, p, s.Profile())
			c := newClient(t, s)
			require.Equal(t, http.StatusUnauthorized, c.get("/redfish/v1/Systems").status)
			c.login()
			for path := range capture.Resources {
				a := c.get(path)
				require.Equal(t, http.StatusOK, a.status, path)
				delete(a.json, "@odata.etag")
				var stored map[string]any
				require.NoError(t, json.Unmarshal(capture.Resources[path], &stored))
				require.Equal(t, stored, a.json)
			}
			path, body := updateRequest(p, "http://127.0.0.1:9/x")
			if p == redfishtest.ILO4 {
				path += "Actions/HpiLOFirmwareUpdate.InstallFromURI/"
			}
			require.Less(t, c.do("POST", path, body).status, 300)
			require.Equal(t, 1, s.Count("POST", path))
			require.Equal(t, http.StatusMethodNotAllowed, c.do("PATCH", "/redfish/v1/Systems", map[string]any{}).status)
			require.Equal(t, http.StatusNotFound, c.do("POST", "/redfish/v1/Nothing", map[string]any{}).status)
			require.Equal(t, http.StatusNotFound, c.get("/redfish/v1/Nothing").status)
			require.Empty(t, s.Flashes())
		})
	}
}

// TestResources: each resource is the same, asked for alone or made with all others.
func TestResources(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: p, LastResetTime: true})
			c := newClient(t, s)
			c.login()
			s.AddTask("update", "/redfish/v1/UpdateService")
			if p == redfishtest.ILO5 || p == redfishtest.ILO6 || p == redfishtest.ILO7 {
				s.Enqueue(redfishtest.QueueItem{Name: "a", State: "Exception"})
				s.LeaveState("Error", "FirmwareFlashFailed")
			}
			without := func(o map[string]any) map[string]any {
				delete(o, "@odata.etag")
				if hpe, ok := at(o, "Oem", "Hpe").(map[string]any); ok {
					delete(hpe, "CurrentTime")
				}
				instances, _ := o["Instances"].([]any)
				for _, i := range instances {
					delete(i.(map[string]any), "ETag") // that of what tells the time, too
				}
				return o
			}
			capture, err := s.Capture()
			require.NoError(t, err)
			for path, text := range capture.Resources {
				var want map[string]any
				require.NoError(t, json.Unmarshal(text, &want))
				a := c.get(path)
				require.Equal(t, http.StatusOK, a.status, path)
				require.Equal(t, without(want), without(a.json), path)
				require.Equal(t, http.StatusNotFound, c.get(strings.TrimSuffix(path, "/")+"/Nothing").status)
			}
			for _, collection := range []string{"/redfish/v1/Systems", "/redfish/v1/Managers", "/redfish/v1/TaskService/Tasks", "/redfish/v1/UpdateService/FirmwareInventory"} {
				members, _ := c.get(collection + "?$expand=.").json["Members"].([]any)
				for _, m := range members {
					path, _ := at(m.(map[string]any), "@odata.id").(string)
					if full := p != redfishtest.ILO4 && p != redfishtest.RMC; full {
						require.Equal(t, without(c.get(path).json), without(m.(map[string]any)))
					}
				}
			}
		})
	}
}

func TestCaptureRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "no version": `{"resources":{"/redfish/v1":{}}}`, "another version": `{"version":2,"resources":{"/redfish/v1":{}}}`,
		"no root": `{"version":1,"resources":{"/redfish/v1/Systems":{}}}`, "no object": `{"version":1,"resources":{"/redfish/v1":[]}}`,
		"null": `{"version":1,"resources":{"/redfish/v1":null}}`, "elsewhere": `{"version":1,"resources":{"/redfish/v1":{},"/etc/passwd":{}}}`,
		"deep": `{"version":1,"resources":{"/redfish/v1":` + strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200) + "}}",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := redfishtest.ReadCapture(strings.NewReader(text))
			require.Error(t, err)
		})
	}
	_, err := redfishtest.NewServer(redfishtest.Config{Capture: &redfishtest.Capture{Version: 1}})
	require.Error(t, err)
}
