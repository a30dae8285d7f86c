package redfishtest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// upload is a multipart push of DSP0266.
func (c *client) upload(parts ...field) answer {
	c.t.Helper()
	body, kind := form(c.t, parts...)
	a, err := c.try("POST", "/redfish/v1/UpdateService/update-multipart", body, http.Header{"Content-Type": {kind}})
	require.NoError(c.t, err)
	return a
}

func updateParts(t testing.TB, f transport.File, params string) (p, file field) {
	return field{name: "UpdateParameters", content: []byte(params)}, field{name: "UpdateFile", file: f.Name, content: read(t, f)}
}

// TestMultipart: the parameters come first, the task has a monitor.
func TestMultipart(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	params, file := updateParts(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0), `{"Targets":["/redfish/v1/UpdateService/FirmwareInventory/NIC"]}`)
	require.Equal(t, http.StatusBadRequest, c.upload(file, params).status)
	require.Equal(t, http.StatusBadRequest, c.upload(file).status)
	require.Equal(t, http.StatusBadRequest, c.upload(field{name: "Parameters", content: []byte("{}")}, file).status)
	require.Equal(t, http.StatusBadRequest, c.upload(field{name: "UpdateParameters", content: []byte("{")}, file).status)
	a := c.upload(params, file)
	require.Equal(t, http.StatusAccepted, a.status, a.body)
	monitor := a.header.Get("Location")
	require.Equal(t, monitor, a.json["TaskMonitor"])
	idle(t, s)
	m := c.get(monitor)
	require.Equal(t, http.StatusOK, m.status)
	require.Equal(t, "Completed", m.json["TaskState"])
	require.Equal(t, "OK", c.get(a.json["@odata.id"].(string)).json["TaskStatus"])
	require.Equal(t, "8.0", s.Firmware("NIC").Version)

	other, file2 := updateParts(t, s.Firmware("NIC").Image("nic.bin", "9.0", 0), `{"Targets":["/redfish/v1/UpdateService/FirmwareInventory/BIOS"]}`)
	a = c.upload(other, file2)
	idle(t, s)
	m = c.get(a.header.Get("Location"))
	require.Equal(t, http.StatusBadRequest, m.status)
	require.Equal(t, "UpdateInvalidFile", m.id())
	require.Equal(t, "Exception", c.get(a.json["@odata.id"].(string)).json["TaskState"])
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
}

// TestRawPush: HttpPushUri takes the file as it is.
func TestRawPush(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	b := read(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0))
	a, err := c.try("POST", "/redfish/v1/UpdateService/update", bytes.NewReader(b), http.Header{"Content-Type": {"text/plain"}})
	require.NoError(t, err)
	require.Equal(t, http.StatusUnsupportedMediaType, a.status)
	a, err = c.try("POST", "/redfish/v1/UpdateService/update", bytes.NewReader(b), http.Header{"Content-Type": {"application/octet-stream"}})
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, a.status)
	idle(t, s)
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
}

// TestApplyTimes: what is to be applied later is not applied before.
func TestApplyTimes(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	params, file := updateParts(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0), `{"@Redfish.OperationApplyTime":"OnReset"}`)
	require.Equal(t, http.StatusAccepted, c.upload(params, file).status)
	idle(t, s)
	require.Empty(t, s.Flashes())
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "8.0", s.Firmware("NIC").Version)

	params, file = updateParts(t, s.Firmware("NIC").Image("nic.bin", "8.1", 0), `{"@Redfish.OperationApplyTime":"OnStartUpdateRequest"}`)
	require.Equal(t, http.StatusAccepted, c.upload(params, file).status)
	idle(t, s)
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
	start := "/redfish/v1/UpdateService/Actions/UpdateService.StartUpdate"
	require.Equal(t, http.StatusAccepted, c.do("POST", start, map[string]any{}).status)
	idle(t, s)
	require.Equal(t, "8.1", s.Firmware("NIC").Version)
	require.Equal(t, http.StatusConflict, c.do("POST", start, map[string]any{}).status)
	params.content = []byte(`{"@Redfish.OperationApplyTime":"Never"}`)
	require.Equal(t, http.StatusBadRequest, c.upload(params, file).status)
}

// TestActivation: what is staged waits for what activates it, and for nothing
// less.
func TestActivation(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	for _, id := range []string{"BIOS", "PSU"} {
		params, file := updateParts(t, s.Firmware(id).Image("x.bin", "9", 0), "{}")
		require.Equal(t, http.StatusAccepted, c.upload(params, file).status)
		idle(t, s)
		require.Equal(t, "9", s.Firmware(id).Staged)
		require.NotEqual(t, "9", s.Firmware(id).Version)
	}
	require.NoError(t, s.Reset(t.Context()))
	require.Equal(t, "2.1", s.Firmware("BIOS").Version)
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "9", s.Firmware("BIOS").Version)
	require.Equal(t, "00.1D", s.Firmware("PSU").Version)
	c.login()
	system := "/redfish/v1/Systems/system"
	reset := system + "/Actions/ComputerSystem.Reset"
	require.Equal(t, http.StatusNoContent, c.do("POST", reset, map[string]any{"ResetType": "ForceOff"}).status)
	idle(t, s)
	require.Equal(t, "Off", c.get(system).json["PowerState"])
	require.Equal(t, "00.1D", s.Firmware("PSU").Version)
	require.Equal(t, http.StatusBadRequest, c.do("POST", reset, map[string]any{"ResetType": "ForceRestart"}).status)
	require.Equal(t, http.StatusNoContent, c.do("POST", reset, map[string]any{"ResetType": "On"}).status)
	idle(t, s)
	require.Equal(t, "9", s.Firmware("PSU").Version)
	require.Equal(t, 3, s.Boots())
}

// TestEvents: tasks are told of on the stream and to subscribers, until the
// subscription ends.
func TestEvents(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+"/redfish/v1/EventService/SSE", nil)
	require.NoError(t, err)
	req.Header.Set("X-Auth-Token", c.token)
	resp, err := c.http.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))

	posts := make(chan string, 100)
	listener := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		posts <- string(b)
	}))
	defer listener.Close()
	sub := c.do("POST", "/redfish/v1/EventService/Subscriptions", map[string]any{"Destination": listener.URL + "/x", "Context": "mine", "Protocol": "Redfish"})
	require.Equal(t, http.StatusCreated, sub.status)

	_, body := updateRequest(redfishtest.Generic, serveFile(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0)))
	require.Equal(t, http.StatusAccepted, c.do("POST", "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate", body).status)
	lines := bufio.NewScanner(resp.Body)
	var last map[string]any
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(data), &last))
		if strings.Contains(data, "TaskCompletedOK") {
			break
		}
	}
	require.Equal(t, "/redfish/v1/TaskService/Tasks/"+last["Events"].([]any)[0].(map[string]any)["MessageArgs"].([]any)[0].(string),
		at(last["Events"].([]any)[0].(map[string]any), "OriginOfCondition", "@odata.id"))
	for {
		select {
		case p := <-posts:
			require.Contains(t, p, `"Context":"mine"`)
			if !strings.Contains(p, "TaskCompletedOK") {
				continue
			}
		case <-time.After(time.Minute):
			t.Fatal("the subscriber heard nothing")
		}
		break
	}
	require.Equal(t, http.StatusNoContent, c.do("DELETE", sub.header.Get("Location"), nil).status)
	require.Equal(t, http.StatusNotFound, c.do("DELETE", sub.header.Get("Location"), nil).status)
	require.NoError(t, s.Reset(t.Context()))
	for lines.Scan() {
	}
	require.Error(t, lines.Err(), "the reset breaks the stream")
}
