package redfishtest_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// pull has a service fetch a file.
func (c *client) pull(f transport.File) answer {
	c.t.Helper()
	path, body := updateRequest(c.s.Profile(), serveFile(c.t, f))
	return c.do("POST", path, body)
}

// TestStateLags: what an earlier update left stays visible while the next one is at
// work already.
func TestStateLags(t *testing.T) {
	for _, p := range []redfishtest.Profile{redfishtest.ILO4, redfishtest.ILO5} {
		for _, removed := range []bool{true, false} {
			t.Run(fmt.Sprint(p, " removed ", removed), func(t *testing.T) {
				t.Parallel()
				s := newServer(t, redfishtest.Config{Profile: p})
				c := loggedIn(t, s)
				told := func() string {
					if p == redfishtest.ILO4 {
						state, _ := c.get("/redfish/v1/Managers/1/UpdateService/").json["State"].(string)
						return map[string]string{"ERROR": "Error", "COMPLETED": "Complete", "PROGRESSING": "Updating"}[state]
					}
					state, _ := c.state()
					return state
				}
				s.LeaveState("Error", "FirmwareFlashFailed")
				require.Equal(t, "Error", told())
				hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
				lag := s.Inject(redfishtest.Fault{Kind: redfishtest.StateLags, Delay: map[bool]time.Duration{false: time.Hour}[removed]})
				require.Less(t, c.pull(s.Firmware("4").Image("x.bin", "9", 0)).status, 300)
				happened(t, s, hold)
				require.Equal(t, "Updating", s.State())
				require.Equal(t, "Error", told())
				require.Equal(t, 1, lag.Hits())
				if removed {
					lag.Remove()
				} else {
					s.Advance(2 * time.Hour)
				}
				require.Equal(t, "Updating", told())
				hold.Remove()
				idle(t, s)
				require.Equal(t, "Complete", told())
			})
		}
	}
}

// TestHold: an update stays where a test wants to look at it, in each state.
func TestHold(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	for n, state := range []string{"Uploading", "Verifying", "Updating", "Complete"} {
		hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: state})
		require.Equal(t, http.StatusAccepted, c.pull(s.Firmware("4").Image("x.bin", fmt.Sprint(n+2), 0)).status)
		happened(t, s, hold)
		told, _ := c.state()
		require.Equal(t, state, told)
		require.Equal(t, state, s.State())
		hold.Remove()
		idle(t, s)
		require.Equal(t, fmt.Sprint(n+2), s.Firmware("4").Version)
	}
}

// TestClock: with a pace of an hour nothing happens until the clock is moved.
func TestClock(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Pace: time.Hour})
	c := loggedIn(t, s)
	require.Equal(t, http.StatusAccepted, c.pull(s.Firmware("4").Image("x.bin", "9", 0)).status)
	require.NoError(t, s.Await(t.Context(), func() bool { return s.State() == "Verifying" }))
	for s.State() != "Complete" {
		s.Advance(time.Hour)
	}
	require.Equal(t, "9", s.Firmware("4").Version)
}

// TestMarks: which parameter of an upload comes back, whether it does, and for how
// long.
func TestMarks(t *testing.T) {
	etag, current := map[string]any{"UpdateTarget": true, "ETag": "a"}, map[string]any{"UpdateTarget": true, "UploadCurrentEtag": "b"}
	both := map[string]any{"UpdateTarget": true, "ETag": "a", "UploadCurrentEtag": "b"}
	for _, row := range []struct {
		mark   redfishtest.Mark
		fault  redfishtest.FaultKind
		params map[string]any
		during any
		after  any
	}{
		{redfishtest.MarkEither, "", etag, "a", "a"},
		{redfishtest.MarkEither, "", current, "b", "b"},
		{redfishtest.MarkEither, "", both, "a", "a"},
		{redfishtest.MarkETag, "", both, "a", "a"},
		{redfishtest.MarkETag, "", current, "", ""},
		{redfishtest.MarkUploadCurrentEtag, "", both, "b", "b"},
		{redfishtest.MarkUploadCurrentEtag, "", etag, "", ""},
		{redfishtest.MarkEither, redfishtest.MarkHidden, both, nil, nil},
		{redfishtest.MarkEither, redfishtest.MarkCleared, both, "a", ""},
	} {
		t.Run(fmt.Sprint(row.mark, row.fault, row.params), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Mark: row.mark})
			c := loggedIn(t, s)
			told := func() any { return at(c.get("/redfish/v1/UpdateService/").json, "Oem", "Hpe", "UploadCurrentEtag") }
			if row.fault != "" {
				f := s.Inject(redfishtest.Fault{Kind: row.fault})
				defer func() { require.Positive(t, f.Hits()) }()
			}
			hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
			require.Equal(t, http.StatusOK, c.push(c.key(), parameters(t, row.params), filePart(t, s.Firmware("4").Image("x.bin", "9", 0))).status)
			happened(t, s, hold)
			require.Equal(t, row.during, told())
			hold.Remove()
			idle(t, s)
			require.Equal(t, row.after, told())
		})
	}
}

// TestMarkOfCutUpload: nothing stays of an upload that was cut.
func TestMarkOfCutUpload(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	cut := s.Inject(redfishtest.Fault{Kind: redfishtest.ResetAt, Bytes: 10_000, Path: "/cgi-bin/uploadFile", Times: 1})
	body, kind := form(t, c.key(), parameters(t, map[string]any{"UpdateTarget": true, "ETag": "mine"}), filePart(t, s.Firmware("4").Image("x.bin", "9", 50_000)))
	_, err := c.try("POST", "/cgi-bin/uploadFile", body, http.Header{"Content-Type": {kind}, "Cookie": {"sessionKey=" + c.token}})
	require.Error(t, err)
	require.Equal(t, 1, cut.Hits())
	idle(t, s)
	require.Equal(t, "", at(c.get("/redfish/v1/UpdateService/").json, "Oem", "Hpe", "UploadCurrentEtag"))
	require.Equal(t, "Idle", s.State())
}

// TestResetRequired: what waits for the host says so, and may be listed as if it ran.
func TestResetRequired(t *testing.T) {
	for _, row := range []struct {
		profile  redfishtest.Profile
		id, says string
	}{
		{redfishtest.ILO5, "2", "SystemResetRequired"}, {redfishtest.ILO5, "4", "Success"}, {redfishtest.ILO5, "1", "Success"},
		{redfishtest.Generic, "BIOS", "ResetRequired"}, {redfishtest.Generic, "PSU", "ResetRequired"}, {redfishtest.Generic, "NIC", "Success"},
	} {
		t.Run(fmt.Sprint(row.profile, row.id), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: row.profile})
			c := loggedIn(t, s)
			says := s.Inject(redfishtest.Fault{Kind: redfishtest.ResetRequired})
			lists := s.Inject(redfishtest.Fault{Kind: redfishtest.ListsAtOnce})
			hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Complete"})
			before := s.Firmware(row.id).Version
			a := c.pull(s.Firmware(row.id).Image("x.bin", "9", 0))
			require.Equal(t, http.StatusAccepted, a.status, a.body)
			happened(t, s, hold)
			message := c.get(a.json["@odata.id"].(string)).json["Messages"].([]any)[0].(map[string]any)
			require.Regexp(t, `\.`+row.says+"$", message["MessageId"])
			if row.profile == redfishtest.ILO5 {
				_, id := c.state()
				require.Regexp(t, `\.`+row.says+"$", id)
			}
			if row.id == "PSU" {
				require.Equal(t, []any{"/redfish/v1/Systems/system/Actions/ComputerSystem.Reset", "PowerCycle"}, message["MessageArgs"])
			}
			if row.says != "Success" {
				require.Equal(t, 1, says.Hits())
				require.Equal(t, before, s.Firmware(row.id).Version)
				require.Equal(t, "9", c.get("/redfish/v1/UpdateService/FirmwareInventory/" + row.id).json["Version"])
				require.Positive(t, lists.Hits())
				lists.Remove()
				require.Equal(t, before, c.get("/redfish/v1/UpdateService/FirmwareInventory/" + row.id).json["Version"])
			}
		})
	}
}

// TestFlags: what an iLO 4 says of what waits.
func TestFlags(t *testing.T) {
	all := redfishtest.Profile(redfishtest.ILO4).Firmware()
	for i, want := range []string{"RESET_ILO", "REQUEST_SYSTEM_WARM_BOOT", "DEFERRED_AUX_PWR_CYCLE", "NONE", "", "REQUEST_SYSTEM_COLD_BOOT"} {
		if want == "" {
			continue // not for the management processor
		}
		fw := all
		if want == "REQUEST_SYSTEM_COLD_BOOT" {
			fw = append([]redfishtest.Firmware(nil), all...)
			fw[i].Activation = transport.ActivationPowerCycle
		}
		s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO4, Firmware: fw})
		c := loggedIn(t, s)
		hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Complete"})
		require.Equal(t, http.StatusOK, c.pull(fw[i].Image("x.bin", "9", 0)).status)
		happened(t, s, hold)
		manager := c.get("/redfish/v1/Managers/1/").json
		link, _ := at(manager, "Oem", "Hp", "Links", "UpdateService", "@odata.id").(string)
		require.Equal(t, want, c.get(link).json["Flags"])
	}
}

// TestLastResetTime: it changes with each reset, if it is there.
func TestLastResetTime(t *testing.T) {
	s := newServer(t, redfishtest.Config{LastResetTime: true})
	seen := map[any]bool{}
	for range 3 {
		c := loggedIn(t, s)
		when := c.get("/redfish/v1/Managers/bmc").json["LastResetTime"]
		require.Equal(t, when, c.get("/redfish/v1/Managers/bmc").json["LastResetTime"])
		seen[when] = true
		require.NoError(t, s.Reset(t.Context()))
	}
	require.Len(t, seen, 3)
	const host = "/redfish/v1/Systems/"
	c := loggedIn(t, s)
	members := c.get(host).json["Members"].([]any)
	system := members[0].(map[string]any)["@odata.id"].(string)
	clear(seen)
	for range 3 {
		when := c.get(system).json["LastResetTime"]
		require.NotNil(t, when)
		require.Equal(t, when, c.get(system).json["LastResetTime"])
		seen[when] = true
		require.NoError(t, s.Reboot(t.Context(), false))
	}
	require.Len(t, seen, 3)
	silent := loggedIn(t, newServer(t, redfishtest.Config{}))
	require.NotContains(t, silent.get("/redfish/v1/Managers/bmc").json, "LastResetTime")
	require.NotContains(t, silent.get(system).json, "LastResetTime")
}

const tasks = "/redfish/v1/TaskService/Tasks"

// TestTaskList: what becomes of tasks in the list.
func TestTaskList(t *testing.T) {
	s := newServer(t, redfishtest.Config{TaskPayload: true})
	c := loggedIn(t, s)
	count := func() int { return len(c.get(tasks).json["Members"].([]any)) }
	uri := s.AddTask("Backup", "/redfish/v1/Managers/bmc/Actions/Backup")
	require.Equal(t, "Completed", c.get(uri).json["TaskState"])
	require.Equal(t, "/redfish/v1/Managers/bmc/Actions/Backup", at(c.get(uri).json, "Payload", "TargetUri"))
	a := c.pull(s.Firmware("NIC").Image("x.bin", "9", 0))
	idle(t, s)
	require.Equal(t, "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate", at(c.get(a.json["@odata.id"].(string)).json, "Payload", "TargetUri"))
	require.Equal(t, 2, count())

	pruned := s.Inject(redfishtest.Fault{Kind: redfishtest.TasksPruned, Bytes: 1})
	require.Equal(t, 1, count())
	require.Equal(t, http.StatusNotFound, c.get(uri).status)
	require.Equal(t, http.StatusOK, c.get(a.header.Get("Location")).status)
	require.Positive(t, pruned.Hits())
	pruned.Remove()

	require.NoError(t, s.Reset(t.Context()))
	c.login()
	require.Equal(t, 2, count(), "they outlive a reset")
	reused := s.Inject(redfishtest.Fault{Kind: redfishtest.TaskNumbersReused})
	require.NoError(t, s.Reset(t.Context()))
	c.login()
	require.Zero(t, count())
	require.Equal(t, uri, s.AddTask("Another", ""))
	require.Equal(t, 1, reused.Hits())

	for range 1500 {
		s.AddTask("x", "")
	}
	require.Equal(t, 1501, count())
	paged := s.Inject(redfishtest.Fault{Kind: redfishtest.PagedMembers, Bytes: 500})
	pages := 0
	for path := tasks; path != ""; pages++ {
		path, _ = c.get(path).json["Members@odata.nextLink"].(string)
	}
	require.Equal(t, 4, pages)
	require.Equal(t, 4, paged.Hits())
	s.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Status: 500, Path: tasks + "?"})
	require.Equal(t, http.StatusOK, c.get(tasks).status)
	require.Equal(t, http.StatusInternalServerError, c.get(tasks+"?%24skip=500").status)
}

// TestNoTasks: a service that makes none for what is pushed, or for nothing.
func TestNoTasks(t *testing.T) {
	for _, all := range []bool{false, true} {
		cfg := redfishtest.Config{PushTasks: redfishtest.TasksNone}
		if all {
			cfg = redfishtest.Config{Tasks: redfishtest.TasksNone}
		}
		s := newServer(t, cfg)
		c := loggedIn(t, s)
		params, file := updateParts(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0), "{}")
		a := c.upload(params, file)
		require.Equal(t, http.StatusNoContent, a.status)
		require.Empty(t, a.header.Get("Location"))
		idle(t, s)
		require.Equal(t, "8.0", s.Firmware("NIC").Version)
		require.Empty(t, c.get(tasks).json["Members"])
		a = c.pull(s.Firmware("NIC").Image("nic.bin", "8.1", 0))
		require.Equal(t, map[bool]int{false: http.StatusAccepted, true: http.StatusNoContent}[all], a.status)
		idle(t, s)
		require.Len(t, c.get(tasks).json["Members"], map[bool]int{false: 1, true: 0}[all])
	}
}

// TestTaskStates: tasks that run as Interrupted, and those that end as Completed
// without being OK.
func TestTaskStates(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
	interrupted := s.Inject(redfishtest.Fault{Kind: redfishtest.TaskInterrupted})
	a := c.pull(s.Firmware("NIC").Image("x.bin", "8", 0))
	happened(t, s, hold)
	task := func() map[string]any { return c.get(a.json["@odata.id"].(string)).json }
	require.Equal(t, "Interrupted", task()["TaskState"])
	require.Positive(t, interrupted.Hits())
	require.Equal(t, http.StatusAccepted, c.get(a.header.Get("Location")).status)
	interrupted.Remove()
	require.Equal(t, "Running", task()["TaskState"])
	hold.Remove()
	idle(t, s)
	for kind, status := range map[redfishtest.FaultKind]string{redfishtest.TaskWarning: "Warning", redfishtest.TaskCritical: "Critical"} {
		f := s.Inject(redfishtest.Fault{Kind: kind, MessageID: "ApplyFailed"})
		a = c.pull(s.Firmware("NIC").Image("x.bin", "9", 0))
		idle(t, s)
		require.Equal(t, []any{"Completed", status}, []any{task()["TaskState"], task()["TaskStatus"]})
		require.Contains(t, task()["Messages"].([]any)[0].(map[string]any)["MessageId"], "ApplyFailed")
		require.Equal(t, 1, f.Hits())
		f.Remove()
	}
	require.Equal(t, "9", s.Firmware("NIC").Version)
}

// TestRenamedEntry: an entry has another name after the update, and an adapter is
// where adapters are.
func TestRenamedEntry(t *testing.T) {
	fw := redfishtest.Profile(redfishtest.Generic).Firmware()
	fw[2].Adapter = true
	s := newServer(t, redfishtest.Config{Firmware: fw})
	c := loggedIn(t, s)
	require.Equal(t, http.StatusNotFound, c.get("/redfish/v1/UpdateService/FirmwareInventory/NIC").status)
	adapter := c.get("/redfish/v1/Chassis/chassis/NetworkAdapters/NIC").json
	require.Equal(t, "7.10.64", adapter["Controllers"].([]any)[0].(map[string]any)["FirmwarePackageVersion"])
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.RenamesEntry})
	require.Equal(t, http.StatusAccepted, c.pull(s.Firmware("BMC").Image("x.bin", "9.0", 0)).status)
	idle(t, s)
	c.login()
	require.Equal(t, http.StatusNotFound, c.get("/redfish/v1/UpdateService/FirmwareInventory/BMC").status)
	require.Equal(t, "9.0", c.get("/redfish/v1/UpdateService/FirmwareInventory/BMC-9.0").json["Version"])
	require.Equal(t, 1, f.Hits())
}
