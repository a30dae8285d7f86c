package redfishtest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

const simpleUpdate = "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate"

// TestRefusedAndOtherwise: an answer that says no to what was not done, and the same
// to what was.
func TestRefusedAndOtherwise(t *testing.T) {
	for _, row := range []struct {
		fault  redfishtest.Fault
		status int
		id     string
		done   bool
	}{
		{redfishtest.Fault{Kind: redfishtest.Refuses}, 502, "", false},
		{redfishtest.Fault{Kind: redfishtest.Refuses, Status: 504}, 504, "", false},
		{redfishtest.Fault{Kind: redfishtest.Refuses, Status: 408}, 408, "", false},
		{redfishtest.Fault{Kind: redfishtest.Refuses, Status: 503, MessageID: "ServiceTemporarilyUnavailable", Delay: 7 * time.Second}, 503, "ServiceTemporarilyUnavailable", false},
		{redfishtest.Fault{Kind: redfishtest.Redirect, Status: 307}, 307, "", false},
		{redfishtest.Fault{Kind: redfishtest.RedirectAway, Location: "https://192.0.2.1/x"}, 308, "", false},
		{redfishtest.Fault{Kind: redfishtest.AnswersOtherwise}, 502, "", true},
		{redfishtest.Fault{Kind: redfishtest.AnswersOtherwise, Status: 504}, 504, "", true},
		{redfishtest.Fault{Kind: redfishtest.AnswersOtherwise, Status: 500, MessageID: "InternalError"}, 500, "InternalError", true},
		{redfishtest.Fault{Kind: redfishtest.AnswersOtherwise, Status: 201, Location: "/redfish/v1/Systems/system"}, 201, "", true},
	} {
		t.Run(fmt.Sprint(row.fault), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{})
			c := loggedIn(t, s)
			row.fault.Method, row.fault.Path, row.fault.Times = "POST", simpleUpdate, 1
			f := s.Inject(row.fault)
			a := c.pull(s.Firmware("NIC").Image("x.bin", "9", 0))
			require.Equal(t, row.status, a.status)
			require.Equal(t, row.id, a.id())
			if row.id == "" {
				require.Empty(t, a.body)
			}
			if row.fault.Kind != redfishtest.Redirect {
				require.Equal(t, row.fault.Location, a.header.Get("Location"))
			}
			if row.fault.Delay > 0 {
				require.Equal(t, "7", a.header.Get("Retry-After"))
			}
			idle(t, s)
			require.Equal(t, row.done, len(s.Flashes()) == 1)
			require.Equal(t, 1, f.Hits())
			require.Equal(t, row.status, s.Requests()[len(s.Requests())-1].Status)
			require.Equal(t, http.StatusAccepted, c.pull(s.Firmware("NIC").Image("x.bin", "9", 0)).status, "it happens once")
		})
	}
}

// TestEarlyAnswer: the answer comes in the middle of an upload, and arrives.
func TestEarlyAnswer(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	b := read(t, s.Firmware("NIC").Image("nic.bin", "8.0", 8<<20))
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.EarlyAnswer, Bytes: 100_000, Method: "POST", Path: "/redfish/v1/UpdateService/update", Times: 1})
	push := func() answer {
		a, err := c.try("POST", "/redfish/v1/UpdateService/update", bytes.NewReader(b), http.Header{"Content-Type": {"application/octet-stream"}})
		require.NoError(t, err)
		return a
	}
	require.Equal(t, http.StatusRequestEntityTooLarge, push().status)
	require.Equal(t, 1, f.Hits())
	require.Equal(t, "Idle", s.State())
	require.Empty(t, s.Flashes())
	require.Equal(t, http.StatusAccepted, push().status)
	idle(t, s)
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
}

// TestTransient401: the session is as good as before.
func TestTransient401(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.Transient401, Path: "/redfish/v1/Systems", Times: 1})
	require.Equal(t, http.StatusUnauthorized, c.get("/redfish/v1/Systems").status)
	require.Equal(t, 1, s.Sessions())
	require.Equal(t, http.StatusOK, c.get("/redfish/v1/Systems").status)
	require.Equal(t, 1, f.Hits())
}

// TestSynchronousPull: the answer comes when all is done, and says what became of it.
func TestSynchronousPull(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: p})
			c := loggedIn(t, s)
			f := s.Inject(redfishtest.Fault{Kind: redfishtest.SynchronousPull})
			fw := s.Inventory()[len(s.Inventory())-1]
			if p.Firmware()[0].Name[:3] == "iLO" {
				fw = s.Firmware("4")
			}
			a := c.pull(fw.Image("x.bin", "9", 0))
			require.Contains(t, []int{http.StatusOK, http.StatusNoContent}, a.status, a.body)
			require.Empty(t, a.header.Get("Location"))
			require.NotEmpty(t, s.Flashes())
			require.Equal(t, 1, f.Hits())
			require.Empty(t, c.s.Requests()[len(c.s.Requests())-1].Header.Get("Location"))
			idle(t, s)
			if s.Resets() > 0 {
				c.login()
			}
			s.Inject(redfishtest.Fault{Kind: redfishtest.PullFails})
			require.GreaterOrEqual(t, c.pull(fw.Image("x.bin", "10", 0)).status, 400)
		})
	}
	// A client that goes away leaves the update at work.
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	s.Inject(redfishtest.Fault{Kind: redfishtest.SynchronousPull})
	hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
	gone := make(chan struct{})
	uri := serveFile(t, s.Firmware("NIC").Image("x.bin", "9", 0))
	go func() {
		defer close(gone)
		_, _ = c.try("POST", simpleUpdate, strings.NewReader(`{"ImageURI":"`+uri+`"}`), nil)
	}()
	happened(t, s, hold)
	s.CloseConnections()
	<-gone
	hold.Remove()
	idle(t, s)
	require.Equal(t, "9", s.Firmware("NIC").Version)
}

// TestPullFaults: the service gets another file, or not all of it.
func TestPullFaults(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	for _, kind := range []redfishtest.FaultKind{redfishtest.PullMissing, redfishtest.PullTruncated} {
		f := s.Inject(redfishtest.Fault{Kind: kind, Bytes: 1000, Times: 1})
		image := s.Firmware("4").Image("x.bin", "9", 100_000)
		var asked []string
		files := serveOnly(t, image, func(path string) { asked = append(asked, path) })
		path, body := updateRequest(redfishtest.ILO5, files)
		require.Equal(t, http.StatusAccepted, c.do("POST", path, body).status)
		idle(t, s)
		_, id := c.state()
		require.Equal(t, "iLO.2.14.UnableToDownloadImage", id)
		require.Equal(t, 1, f.Hits())
		require.Len(t, asked, 1)
	}
	require.Empty(t, s.Flashes())
}

// TestPushTargets: what a raw push is for is a setting of the service.
func TestPushTargets(t *testing.T) {
	fw := redfishtest.Profile(redfishtest.Generic).Firmware()
	twin := fw[2]
	twin.ID = "NIC2"
	s := newServer(t, redfishtest.Config{PushTargets: true, Firmware: append(fw, twin)})
	c := loggedIn(t, s)
	const update = "/redfish/v1/UpdateService"
	targets := func() any { return c.get(update).json["HttpPushUriTargets"] }
	push := func(version string) {
		a, err := c.try("POST", update+"/update", bytes.NewReader(read(t, fw[2].Image("x.bin", version, 0))), http.Header{"Content-Type": {"application/octet-stream"}})
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, a.status)
		idle(t, s)
	}
	require.Equal(t, []any{}, targets())
	one := update + "/FirmwareInventory/NIC2"
	require.Equal(t, http.StatusNoContent, c.do("PATCH", update, map[string]any{"HttpPushUriTargets": []string{one}, "HttpPushUriTargetsBusy": true}).status)
	require.Equal(t, []any{one}, targets())
	uris, busy := s.PushTargets()
	require.Equal(t, []string{one}, uris)
	require.True(t, busy)
	push("8")
	require.Equal(t, []string{"7.10.64", "8"}, []string{s.Firmware("NIC").Version, s.Firmware("NIC2").Version})
	s.SetPushTargets(nil, false)
	require.Equal(t, []any{false, []any{}}, []any{c.get(update).json["HttpPushUriTargetsBusy"], targets()})
	push("9")
	require.Equal(t, []string{"9", "9"}, []string{s.Firmware("NIC").Version, s.Firmware("NIC2").Version})
	when := map[string]any{"HttpPushUriOptions": map[string]any{"HttpPushUriApplyTime": map[string]any{"ApplyTime": "OnReset"}}}
	require.Equal(t, http.StatusNoContent, c.do("PATCH", update, when).status)
	push("10")
	require.Equal(t, "9", s.Firmware("NIC").Version)
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "10", s.Firmware("NIC").Version)
	for _, bad := range []map[string]any{
		{"HttpPushUriTargets": []string{"/elsewhere"}}, {"HttpPushUriTargets": []any{1}}, {"HttpPushUriTargets": "x"}, {"HttpPushUriTargetsBusy": "x"},
		{"HttpPushUri": "/x"}, {"HttpPushUriOptions": 1},
	} {
		require.Equal(t, http.StatusBadRequest, c.do("PATCH", update, bad).status, bad)
	}
	plain := loggedIn(t, newServer(t, redfishtest.Config{}))
	require.NotContains(t, plain.get(update).json, "HttpPushUriTargets")
	require.Equal(t, http.StatusBadRequest, plain.do("PATCH", update, map[string]any{"HttpPushUriTargetsBusy": true}).status)
}

// TestNoApplyTime: a service that does not know the annotation does not list it.
func TestNoApplyTime(t *testing.T) {
	for _, no := range []bool{false, true} {
		s := newServer(t, redfishtest.Config{NoApplyTime: no})
		c := loggedIn(t, s)
		update := c.get("/redfish/v1/UpdateService")
		require.Equal(t, no, !strings.Contains(update.body, "OperationApplyTime"))
		uri := serveFile(t, s.Firmware("NIC").Image("x.bin", "9", 0))
		a := c.do("POST", simpleUpdate, map[string]any{"ImageURI": uri, "@Redfish.OperationApplyTime": "Immediate"})
		params, file := updateParts(t, s.Firmware("NIC").Image("x.bin", "9", 0), `{"@Redfish.OperationApplyTime":"Immediate"}`)
		if no {
			require.Equal(t, "ActionParameterUnknown", a.id())
			require.Equal(t, "ActionParameterUnknown", c.upload(params, file).id())
			params.content = []byte("{}")
		} else {
			require.Equal(t, http.StatusAccepted, a.status)
			idle(t, s)
		}
		require.Equal(t, http.StatusAccepted, c.upload(params, file).status)
		idle(t, s)
		require.Equal(t, "9", s.Firmware("NIC").Version)
	}
}

// TestCutSections: a section that was cut is sent again, and the whole is right, or
// those before it are gone as well.
func TestCutSections(t *testing.T) {
	f := redfishtest.Component("cp2.zip", redfishtest.SectionSize+100_000)
	sections, err := redfishtest.Sections(f)
	require.NoError(t, err)
	sigs, err := redfishtest.Sign(f)
	require.NoError(t, err)
	for _, forgets := range []bool{false, true} {
		t.Run(fmt.Sprint("forgets ", forgets), func(t *testing.T) {
			s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
			c := loggedIn(t, s)
			forms := make([]*bytes.Buffer, 2)
			var kinds [2]string
			for i := range forms {
				forms[i], kinds[i] = form(t, c.key(), parameters(t, map[string]any{"UpdateRepository": true, "Section": i}),
					field{name: "compsig", file: sigs[i].Name, content: read(t, sigs[i])}, filePart(t, sections[i]))
			}
			send := func(i int, cut int64) bool {
				if cut > 0 {
					f := s.Inject(redfishtest.Fault{Kind: redfishtest.ResetAt, Bytes: cut, Path: "/cgi-bin/uploadFile", Times: 1})
					defer func() { require.Equal(t, 1, f.Hits()) }()
				}
				_, err := c.try("POST", "/cgi-bin/uploadFile", bytes.NewReader(forms[i].Bytes()), http.Header{"Content-Type": {kinds[i]}, "Cookie": {"sessionKey=" + c.token}})
				require.Equal(t, cut > 0, err != nil)
				idle(t, s)
				return s.State() == "Complete"
			}
			if forgets {
				f := s.Inject(redfishtest.Fault{Kind: redfishtest.ForgetsSections})
				defer func() { require.Positive(t, f.Hits()) }()
			}
			require.False(t, send(0, 200_000))
			require.True(t, send(0, 0))
			require.False(t, send(1, 50_000))
			require.Equal(t, !forgets, send(1, 0), "the section that was cut")
			if forgets {
				require.True(t, send(0, 0))
				require.True(t, send(1, 0))
			}
			require.Equal(t, []string{"cp2.zip"}, s.Components(), s.Log())
			kept := c.get("/redfish/v1/UpdateService/ComponentRepository/?$expand=.").json["Members"].([]any)[0].(map[string]any)
			require.EqualValues(t, f.Size, kept["SizeBytes"], "nothing of it is there twice")
		})
	}
}

// TestBounds: what is deeper or larger than requests are is refused.
func TestBounds(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	nested := func(n int) string {
		return `{"ImageURI":"http://127.0.0.1/x","Targets":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	for _, row := range []struct {
		body, id string
	}{
		{nested(31), ""}, {nested(32), "MalformedJSON"}, {nested(100_000), "MalformedJSON"},
		{`{"ImageURI":"` + strings.Repeat("x", 1<<20) + `"}`, "MalformedJSON"},
	} {
		s.Inject(redfishtest.Fault{Kind: redfishtest.PullFails})
		a, err := c.try("POST", simpleUpdate, strings.NewReader(row.body), nil)
		require.NoError(t, err)
		require.Equal(t, row.id, a.id())
		idle(t, s)
	}
}
