package redfishtest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// updateRequest is the pull of a profile.
func updateRequest(p redfishtest.Profile, uri string) (path string, body map[string]any) {
	switch p {
	case redfishtest.ILO4:
		return "/redfish/v1/Managers/1/UpdateService/", map[string]any{"Action": "InstallFromURI", "FirmwareURI": uri}
	case redfishtest.RMC:
		return "/redfish/v1/UpdateService/Actions/SDFlexUpdateService.UpdateAll", map[string]any{"ImageURI": uri, "Reinstall": false, "ExcludeNparFw": false}
	}
	return "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate", map[string]any{"ImageURI": uri}
}

// TestPull: every profile fetches an image, writes it, resets and has the new
// version.
func TestPull(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: p})
			c := loggedIn(t, s)
			fw := s.Inventory()[0]
			f := fw.Image("manager.bin", "9.99", 1<<20)
			path, body := updateRequest(p, serveFile(t, f))
			a := c.do("POST", path, body)
			if p == redfishtest.ILO4 {
				require.Equal(t, http.StatusOK, a.status, a.body)
				require.Equal(t, "Success", a.id())
			} else {
				require.Equal(t, http.StatusAccepted, a.status, a.body)
				require.NotEmpty(t, a.header.Get("Location"))
			}
			idle(t, s)
			require.Equal(t, "9.99", s.Firmware(fw.ID).Version, s.Log())
			require.Equal(t, 1, s.Resets())
			require.Equal(t, f.Digest(), s.Flashes()[0].Digest)
			require.Equal(t, http.StatusUnauthorized, c.get("/redfish/v1/Systems").status) // the session died with the reset
			c.login()
			require.Equal(t, http.StatusOK, c.get("/redfish/v1/Systems").status)
		})
	}
}

// TestWrongForm: an iLO says success to a file that it cannot flash.
func TestWrongForm(t *testing.T) {
	for _, p := range []redfishtest.Profile{redfishtest.ILO5, redfishtest.ILO6, redfishtest.ILO7} {
		s := newServer(t, redfishtest.Config{Profile: p})
		c := loggedIn(t, s)
		for _, f := range []transport.File{s.Firmware("4").Package("x.fwpkg", "9", 0), redfishtest.Component("cp1.exe", 5000)} {
			path, body := updateRequest(p, serveFile(t, f))
			require.Equal(t, http.StatusAccepted, c.do("POST", path, body).status)
			idle(t, s)
			state, id := c.state()
			require.Equal(t, "Complete", state)
			require.Contains(t, id, "Success")
		}
		require.Len(t, s.Log(), 2)
		require.Empty(t, s.Flashes())
		require.Empty(t, s.Components())
	}
}

// TestSimpleUpdateRefused: what an iLO does not take.
func TestSimpleUpdateRefused(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	path, _ := updateRequest(redfishtest.ILO5, "")
	for id, body := range map[string]map[string]any{
		"ActionParameterUnknown":      {"ImageURI": "http://127.0.0.1/x", "TPMOverrideFlag": true},
		"ActionParameterMissing":      {},
		"SimpleUpdateInvalidImageURI": {"ImageURI": "ftp://127.0.0.1/x"},
		"InvalidTargetsURI":           {"ImageURI": "http://127.0.0.1/x", "Targets": []string{"/redfish/v1/UpdateService/FirmwareInventory/99"}},
	} {
		a := c.do("POST", path, body)
		require.Equal(t, http.StatusBadRequest, a.status)
		require.Equal(t, id, a.id())
	}
	idle(t, s)
}

// TestTasks: the answers to a request for an update, as one version and the other
// give them.
func TestTasks(t *testing.T) {
	old := redfishtest.Profile(redfishtest.ILO5).Firmware()
	old[0].Version = "2.18 Jun 22 2020"
	for name, c := range map[string]struct {
		cfg    redfishtest.Config
		status int
		task   bool
	}{
		"iLO 5 2.18": {redfishtest.Config{Firmware: old}, 200, false},
		"iLO 5 2.72": {redfishtest.Config{}, 202, true},
		"200":        {redfishtest.Config{Tasks: redfishtest.TasksOK}, 200, true},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Profile = redfishtest.ILO5
			s := newServer(t, c.cfg)
			cl := loggedIn(t, s)
			path, body := updateRequest(redfishtest.ILO5, serveFile(t, s.Firmware("4").Image("x.bin", "9", 0)))
			a := cl.do("POST", path, body)
			require.Equal(t, c.status, a.status)
			idle(t, s)
			monitor, _ := a.json["TaskMonitor"].(string)
			require.Equal(t, c.task, monitor != "")
			if c.task {
				require.Equal(t, "Completed", cl.get(monitor).json["TaskState"])
			} else {
				require.Equal(t, "Success", a.id())
			}
			require.Equal(t, "9", s.Firmware("4").Version)
		})
	}
}

// TestAddFromURI: an iLO fetches a component and its signature, from where it was
// told.
func TestAddFromURI(t *testing.T) {
	for _, other := range []bool{false, true} {
		s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO6, OtherActions: other})
		c := loggedIn(t, s)
		us := c.get("/redfish/v1/UpdateService").json
		where := []string{"Oem", "Hpe", "Actions"}
		if other {
			where = []string{"Actions", "Oem", "Hpe"}
		}
		target, _ := at(us, append(where, "#HpeiLOUpdateServiceExt.AddFromUri", "target")...).(string)
		require.NotEmpty(t, target)
		comp := redfishtest.Component("cp1.exe", 5000)
		sigs, err := redfishtest.Sign(comp)
		require.NoError(t, err)
		a := c.do("POST", target, map[string]any{"ImageURI": serveFile(t, comp), "CompSigURI": serveFile(t, sigs[0]), "UpdateRepository": true, "UpdateTarget": false})
		require.Equal(t, http.StatusAccepted, a.status, a.body)
		idle(t, s)
		require.Equal(t, []string{"cp1.exe"}, s.Components(), s.Log())
		a = c.do("POST", target, map[string]any{"ImageURI": serveFile(t, s.Firmware("4").Package("x.fwpkg", "9", 0)), "UpdateRepository": false, "UpdateTarget": true})
		require.Equal(t, http.StatusAccepted, a.status, a.body)
		idle(t, s)
		require.Equal(t, "9", s.Firmware("4").Version)
	}
}

// TestPullFailures: an image that is not there, is cut short, or leads elsewhere.
func TestPullFailures(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	img := read(t, s.Firmware("4").Image("x.bin", "9", 100_000))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("it follows to another host")
		_, _ = w.Write(img)
	}))
	defer elsewhere.Close()
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/short":
			w.Header().Set("Content-Length", fmt.Sprint(len(img)))
			_, _ = w.Write(img[:50_000])
		case "/away":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer files.Close()
	for _, name := range []string{"/missing", "/short", "/away"} {
		path, body := updateRequest(redfishtest.ILO5, files.URL+name)
		require.Equal(t, http.StatusAccepted, c.do("POST", path, body).status)
		idle(t, s)
		state, id := c.state()
		require.Equal(t, "Error", state)
		require.Equal(t, "iLO.2.14.UnableToDownloadImage", id)
	}
	require.Empty(t, s.Flashes())
}

// TestRMC: one bundle for all, without those that are left out, and none that is
// there already.
func TestRMC(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.RMC, OtherActions: true})
	c := loggedIn(t, s)
	target, _ := at(c.get("/redfish/v1/UpdateService").json, "Actions", "Oem", "#SD.UpdateAll", "target").(string)
	require.NotEmpty(t, target)
	uri := serveFile(t, s.Firmware("RMC").Image("sd.bin", "3.10.0", 0))
	run := func(body map[string]any) map[string]any {
		body["ImageURI"] = uri
		a := c.do("POST", target, body)
		require.Equal(t, http.StatusAccepted, a.status, a.body)
		idle(t, s)
		c.login()
		return c.get(a.json["@odata.id"].(string)).json // it outlives the reset
	}
	task := run(map[string]any{"ExcludeNparFw": true})
	require.Equal(t, []any{"Completed", "OK"}, []any{task["TaskState"], task["TaskStatus"]})
	require.Equal(t, "3.10.0", s.Firmware("RMC").Version)
	require.Empty(t, s.Firmware("BIOS-Partition1").Staged)
	run(map[string]any{})
	require.Equal(t, "3.10.0", s.Firmware("BIOS-Partition1").Staged)
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "3.10.0", s.Firmware("BIOS-Partition1").Version)
	n := len(s.Flashes())
	run(map[string]any{})
	require.Len(t, s.Flashes(), n)
	run(map[string]any{"Reinstall": true})
	require.Len(t, s.Flashes(), n+3)
	uri += ".missing"
	s.Inject(redfishtest.Fault{Kind: redfishtest.PullFails})
	task = run(map[string]any{"Reinstall": true})
	require.Equal(t, []any{"Completed", "Warning"}, []any{task["TaskState"], task["TaskStatus"]})
	require.Contains(t, task["Messages"].([]any)[0].(map[string]any)["MessageId"], "FirmwareUpdateDownloadFailure")
}

// TestILO4: its update service is the manager's, and its inventory the system's.
func TestILO4(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO4})
	c := loggedIn(t, s)
	require.NotContains(t, c.get("/redfish/v1").json, "UpdateService")
	require.Equal(t, http.StatusNotFound, c.get("/redfish/v1/UpdateService").status)
	update := func() map[string]any { return c.get("/redfish/v1/Managers/1/UpdateService").json }
	require.Equal(t, []any{"IDLE", "NONE"}, []any{update()["State"], update()["Flags"]})
	tpm := s.Inject(redfishtest.Fault{Kind: redfishtest.TPM})
	path, body := updateRequest(redfishtest.ILO4, serveFile(t, s.Firmware("2").Image("rom.bin", "P89 v2.80", 0)))
	require.Equal(t, "FWFlashTPMOverrideFlagRequired", c.do("POST", path, body).id())
	require.Equal(t, 1, tpm.Hits())
	body["TPMOverrideFlag"] = true
	require.Equal(t, http.StatusOK, c.do("POST", path, body).status)
	idle(t, s)
	require.Equal(t, []any{"COMPLETED", "REQUEST_SYSTEM_WARM_BOOT"}, []any{update()["State"], update()["Flags"]})
	require.NoError(t, s.Reboot(t.Context(), true))
	rom := at(c.get("/redfish/v1/Systems/1/FirmwareInventory").json, "Current", "SystemRomActive").([]any)[0].(map[string]any)
	require.Equal(t, "P89 v2.80", rom["VersionString"])
}
