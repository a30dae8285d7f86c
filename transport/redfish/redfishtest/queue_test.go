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

const (
	queue = "/redfish/v1/UpdateService/UpdateTaskQueue/"
	sets  = "/redfish/v1/UpdateService/InstallSets/"
)

// keep puts a file into the repository.
func (c *client) keep(f transport.File) {
	c.t.Helper()
	require.Equal(c.t, http.StatusOK, c.push(c.key(), parameters(c.t, map[string]any{"UpdateRepository": true}), filePart(c.t, f)).status)
	idle(c.t, c.s)
	require.Contains(c.t, c.s.Components(), f.Name, c.s.Log())
}

func (c *client) enqueue(name, file string, by ...string) answer {
	c.t.Helper()
	return c.do("POST", queue, map[string]any{"Name": name, "Command": "ApplyUpdate", "Filename": file, "UpdatableBy": by})
}

func states(s *redfishtest.Server) (out []string) {
	for _, i := range s.Queue() {
		out = append(out, i.Name+" "+i.State)
	}
	return out
}

// TestQueueOrder: nobody goes past an item that waits for another, and the host's
// firmware does what is for it when it boots.
func TestQueueOrder(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	c.keep(s.Firmware("4").Image("pmc.bin", "2.0", 0))
	c.keep(s.Firmware("5").Package("raid.fwpkg", "5.0", 0))
	require.Equal(t, http.StatusCreated, c.enqueue("raid", "raid.fwpkg", "Uefi").status)
	require.Equal(t, http.StatusCreated, c.enqueue("pmc", "pmc.bin", "Bmc").status)
	require.Equal(t, "ResourceAlreadyExists", c.enqueue("pmc", "pmc.bin", "Bmc").id())
	require.Equal(t, http.StatusBadRequest, c.enqueue("x", "missing.bin", "Bmc").status)
	idle(t, s)
	require.Equal(t, []string{"raid Pending", "pmc Pending"}, states(s))
	require.Empty(t, s.Flashes())

	require.NoError(t, s.Reboot(t.Context(), false))
	idle(t, s)
	require.Equal(t, []string{"raid Complete", "pmc Complete"}, states(s))
	require.Equal(t, "5.0", s.Firmware("5").Version)
	require.Equal(t, "2.0", s.Firmware("4").Version)
	require.Equal(t, "Uefi", s.Flashes()[0].By)

	// A failure stays at the head until it is removed.
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.QueueItemFails, Times: 1})
	a := c.enqueue("bad", "pmc.bin", "Bmc")
	require.Equal(t, http.StatusCreated, a.status)
	idle(t, s)
	require.Equal(t, http.StatusCreated, c.enqueue("behind", "pmc.bin", "Bmc").status)
	idle(t, s)
	require.Equal(t, []string{"raid Complete", "pmc Complete", "bad Exception", "behind Pending"}, states(s))
	require.Equal(t, 1, f.Hits())
	require.Equal(t, http.StatusOK, c.do("DELETE", a.header.Get("Location"), nil).status)
	idle(t, s)
	require.Equal(t, []string{"raid Complete", "pmc Complete", "behind Complete"}, states(s))
}

// TestQueueTimes: an item begins not before its time, and not after it.
func TestQueueTimes(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	c.keep(s.Firmware("4").Image("pmc.bin", "2.0", 0))
	at := func(name string, d time.Duration, key string) answer {
		return c.do("POST", queue, map[string]any{"Name": name, "Command": "ApplyUpdate", "Filename": "pmc.bin", "UpdatableBy": []string{"Bmc"},
			key: time.Now().Add(d).UTC().Format(time.RFC3339Nano)})
	}
	require.Equal(t, http.StatusCreated, at("soon", time.Hour, "StartAfter").status)
	idle(t, s)
	require.Equal(t, []string{"soon Pending"}, states(s))
	s.Advance(2 * time.Hour)
	require.NoError(t, s.Await(t.Context(), func() bool { return states(s)[0] == "soon Complete" }))
	require.Equal(t, http.StatusCreated, at("late", -time.Hour, "Expire").status)
	idle(t, s)
	require.Equal(t, []string{"soon Complete", "late Expired"}, states(s))
	require.Len(t, s.Flashes(), 1)
}

// TestInstallSets: there are at most eight, of different names, and what one is
// made of is locked.
func TestInstallSets(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO6})
	c := loggedIn(t, s)
	c.keep(s.Firmware("4").Image("pmc.bin", "2.0", 0))
	set := func(name string) map[string]any {
		return map[string]any{"Name": name, "IsRecovery": false, "Sequence": []any{
			map[string]any{"Name": "step of " + name, "Command": "ApplyUpdate", "Filename": "pmc.bin", "UpdatableBy": []string{"Bmc"}},
		}}
	}
	var first string
	for i := range 8 {
		a := c.do("POST", sets, set(fmt.Sprint("set ", i)))
		require.Equal(t, http.StatusCreated, a.status, a.body)
		if i == 0 {
			first = a.header.Get("Location")
		}
	}
	require.Equal(t, "CreateLimitReachedForResource", c.do("POST", sets, set("set 8")).id())
	require.Equal(t, http.StatusOK, c.do("DELETE", sets+c.get(sets + "?$expand=.").json["Members"].([]any)[7].(map[string]any)["Id"].(string), nil).status)
	require.Equal(t, "ResourceAlreadyExists", c.do("POST", sets, set("set 0")).id())
	comp := c.get("/redfish/v1/UpdateService/ComponentRepository/?$expand=.").json["Members"].([]any)[0].(map[string]any)
	require.Equal(t, true, comp["Locked"])
	require.Equal(t, "FirmwareFileLocked", c.do("DELETE", comp["@odata.id"].(string), nil).id())

	require.Equal(t, http.StatusOK, c.do("PATCH", first, map[string]any{"Name": "renamed"}).status)
	require.Equal(t, http.StatusNotFound, c.get(first).status, "the Id follows from the name")
	require.Contains(t, s.InstallSets(), "renamed")

	s.Enqueue(redfishtest.QueueItem{Name: "old", Filename: "pmc.bin", State: "Exception"})
	members := c.get(sets + "?$expand=.").json["Members"].([]any)
	target := at(members[1].(map[string]any), "Actions", "#HpeComponentInstallSet.Invoke", "target").(string)
	require.Equal(t, http.StatusOK, c.do("POST", target, map[string]any{}).status)
	idle(t, s)
	require.Equal(t, []string{"old Exception", "step of set 1 Pending"}, states(s))
	require.Equal(t, http.StatusBadRequest, c.do("POST", target, map[string]any{}).status, "the item is there already")
	require.Equal(t, http.StatusOK, c.do("POST", target, map[string]any{"ClearTaskQueue": true}).status)
	idle(t, s)
	require.Equal(t, []string{"step of set 1 Complete"}, states(s))
	require.Equal(t, "2.0", s.Firmware("4").Version)
}

// TestRecoverySet: the recovery set takes its own right.
func TestRecoverySet(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Accounts: []redfishtest.Account{{User: "op", Password: "p", Role: redfishtest.NoRecovery}}})
	c := loggedIn(t, s)
	op := newClient(t, s)
	op.token = op.do("POST", "/redfish/v1/SessionService/Sessions", map[string]any{"UserName": "op", "Password": "p"}).header.Get("X-Auth-Token")
	recovery := map[string]any{"Name": "r", "IsRecovery": true, "Sequence": []any{}}
	require.Equal(t, http.StatusForbidden, op.do("POST", sets, recovery).status)
	a := c.do("POST", sets, recovery)
	require.Equal(t, http.StatusCreated, a.status)
	require.Equal(t, http.StatusForbidden, op.do("DELETE", a.header.Get("Location"), nil).status)
	require.Equal(t, http.StatusOK, c.do("POST", "/redfish/v1/UpdateService/Actions/Oem/Hpe/HpeiLOUpdateServiceExt.DeleteInstallSets/", map[string]any{}).status)
	require.Equal(t, []string{"r"}, s.InstallSets(), "an action for all spares it")
	require.Equal(t, http.StatusOK, c.do("DELETE", a.header.Get("Location"), nil).status)
}

// TestILO7Queue: an item that the host's firmware has done may stay Pending.
func TestILO7Queue(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO7})
	c := loggedIn(t, s)
	c.keep(s.Firmware("5").Package("raid.fwpkg", "5.0", 0))
	require.Equal(t, http.StatusCreated, c.enqueue("raid", "raid.fwpkg", "Uefi").status)
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "5.0", s.Firmware("5").Version)
	require.Equal(t, []string{"raid Pending"}, states(s))
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Len(t, s.Flashes(), 1)
}
