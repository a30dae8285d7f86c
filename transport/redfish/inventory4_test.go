package redfish_test

import (
	"net/http"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// newILO4 is an iLO 4: its firmware inventory is a list of the system's.
func newILO4(t testing.TB) *service {
	s := newService(t, nil)
	s.edit("/redfish/v1", func(o obj) { o["Oem"] = obj{"Hp": obj{"Manager": []obj{{"ManagerType": "iLO 4"}}}} })
	s.set("/redfish/v1/UpdateService", obj{"@odata.id": "/redfish/v1/UpdateService", "State": "IDLE",
		"Actions": obj{"#HpiLOFirmwareUpdate.InstallFromURI": obj{"target": "/redfish/v1/install"}}})
	s.set("/redfish/v1/Systems/1/FirmwareInventory", obj{"Current": obj{
		"SystemRomActive": []obj{{"Name": "System ROM", "Location": "System Board", "VersionString": "P89 v2.40"}},
		"Unnamed":         []obj{{"VersionString": "1"}}}})
	return s
}

// The systems of an iLO 4 are found where its root does not link them, or links them as it
// did once.
func TestFirmwareOfILO4(t *testing.T) {
	for name, change := range map[string]func(obj){
		"linked":     func(obj) {},
		"in Links":   func(o obj) { o["Systems"], o["Links"] = nil, obj{"Systems": obj{"href": "/redfish/v1/Servers"}} },
		"not linked": func(o obj) { o["Systems"] = nil },
	} {
		s := newILO4(t)
		s.edit("/redfish/v1", change)
		s.collection("/redfish/v1/Servers", "/redfish/v1/Systems/1")
		if name == "in Links" {
			s.set("/redfish/v1/Systems", nil)
		}
		conn := dial(t, s.endpoint())
		require.True(t, conn.Caps().Has(transport.CapReboot), name)
		inv, err := transport.ReadInventory(t.Context(), conn)
		require.NoError(t, err, name)
		require.Empty(t, inv.Problems, name)
		require.Equal(t, "S1", inv.Identity.Serial, name)
		require.Equal(t, []transport.Device{
			{ID: "System ROM @ System Board", Class: "bios", Name: "System ROM", Location: "System Board", Firmware: "P89 v2.40",
				HardwareIDs: []string{"name:System ROM", "product:Box 1"}},
			{ID: "Unnamed", Class: "firmware", Firmware: "1"},
		}, inv.Devices, name)
	}
}

// Where the list cannot be read, what is said is why, and not that there is no such device.
func TestFirmwareOfILO4CannotBeRead(t *testing.T) {
	p := image("2.50")
	p.Name = "System ROM"
	for _, path := range []string{"/redfish/v1/Systems", "/redfish/v1/Systems/1", "/redfish/v1/Systems/1/FirmwareInventory"} {
		for _, devices := range [][]string{nil, {"System ROM @ System Board"}} {
			s := newILO4(t)
			conn := dial(t, s.endpoint())
			s.handle("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
				fault(w, http.StatusServiceUnavailable, "Base.1.4.ServiceTemporarilyUnavailable")
			})
			_, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Devices: devices})
			require.ErrorIs(t, err, transport.ErrBusy, "%s %v", path, devices)
			require.Zero(t, s.seen("POST /redfish/v1/install"))
		}
	}
}
