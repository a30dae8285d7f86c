package redfish_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

const inventoryPath = "/redfish/v1/UpdateService/FirmwareInventory"

func TestInventory(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["SoftwareInventory"] = ref("/redfish/v1/UpdateService/SoftwareInventory") })
	s.collection("/redfish/v1/UpdateService/SoftwareInventory", "/redfish/v1/UpdateService/SoftwareInventory/1")
	s.set("/redfish/v1/UpdateService/SoftwareInventory/1", obj{"@odata.id": "x", "Id": "1", "Name": "Agent", "Version": 2.5})
	s.collection(inventoryPath, inventoryPath+"/NIC", inventoryPath+"/BMC", inventoryPath+"/Lost", inventoryPath+"/Odd")
	s.set(inventoryPath+"/NIC", obj{"@odata.id": inventoryPath + "/NIC", "Id": "NIC", "Name": "Adapter", "Version": "20.1",
		"SoftwareId": "0x1234", "RelatedItem": []obj{ref("/redfish/v1/Chassis/1/NetworkAdapters/1")}})
	s.set(inventoryPath+"/Odd", []int{1})
	s.collection("/redfish/v1/Chassis", "/redfish/v1/Chassis/1")
	s.set("/redfish/v1/Chassis/1", obj{"@odata.id": "/redfish/v1/Chassis/1", "Id": "1", "Name": "Chassis", "NetworkAdapters": ref("/redfish/v1/Chassis/1/NetworkAdapters")})
	s.collection("/redfish/v1/Chassis/1/NetworkAdapters", "/redfish/v1/Chassis/1/NetworkAdapters/1")
	s.set("/redfish/v1/Chassis/1/NetworkAdapters/1", obj{"@odata.id": "/redfish/v1/Chassis/1/NetworkAdapters/1", "Id": "1", "Name": "Adapter 1",
		"SerialNumber": "N1", "Model": "X710", "Controllers": []obj{{"FirmwarePackageVersion": "20.1"}}})
	s.edit("/redfish/v1/Systems/1", func(o obj) {
		o["Storage"], o["SecureBoot"] = ref("/redfish/v1/Systems/1/Storage"), ref("/redfish/v1/Systems/1/SecureBoot")
		o["TrustedModules"] = []obj{{"InterfaceType": "TPM2_0", "FirmwareVersion": "7.2", "Status": obj{"State": "Enabled"}}}
	})
	s.set("/redfish/v1/Systems/1/SecureBoot", obj{"SecureBootCurrentBoot": "Enabled"})
	s.collection("/redfish/v1/Systems/1/Storage", "/redfish/v1/Systems/1/Storage/1")
	s.set("/redfish/v1/Systems/1/Storage/1", obj{"@odata.id": "/redfish/v1/Systems/1/Storage/1", "Id": "1", "Name": "Storage",
		"Drives":             []obj{ref("/redfish/v1/Systems/1/Storage/1/Drives/1")},
		"StorageControllers": []obj{{"@odata.id": "/redfish/v1/Systems/1/Storage/1#/StorageControllers/0", "MemberId": "0", "Name": "RAID", "FirmwareVersion": "5.1", "Model": "P408"}}})
	s.set("/redfish/v1/Systems/1/Storage/1/Drives/1", obj{"@odata.id": "/redfish/v1/Systems/1/Storage/1/Drives/1", "Id": "1", "Name": "Disk", "Revision": "HPD4", "Model": "MO0004", "SerialNumber": "D1"})

	conn := dial(t, s.endpoint())
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, transport.Identity{Name: "db1", Vendor: "Example", Product: "Box 1", Serial: "S1", UUID: "sys-1", OS: "generic", Version: "1.00"}, inv.Identity)
	yes := true
	require.Equal(t, []transport.Device{
		{ID: "/redfish/v1/Systems/1#/BiosVersion", Class: "bios", Name: "BIOS", Vendor: "Example", Model: "Box 1", Firmware: "1.0", HardwareIDs: []string{"product:Box 1"}},
		{ID: "/redfish/v1/Systems/1/Storage/1#/StorageControllers/0", Class: "storage-controller", Name: "RAID", Model: "P408", Firmware: "5.1", HardwareIDs: []string{"model:P408"}},
		{ID: "/redfish/v1/Systems/1/Storage/1/Drives/1", Class: "disk", Name: "Disk", Model: "MO0004", Serial: "D1", Firmware: "HPD4", HardwareIDs: []string{"model:MO0004"}},
		{ID: inventoryPath + "/BMC", Class: "bmc", Name: "BMC Firmware", Firmware: "1.00", HardwareIDs: []string{"name:BMC Firmware"}, Updateable: &yes},
		{ID: inventoryPath + "/NIC", Class: "nic", Name: "Adapter", Model: "X710", Serial: "N1", Firmware: "20.1", HardwareIDs: []string{"software-id:0x1234", "name:Adapter", "model:X710"}},
	}, inv.Devices, "sorted; the adapter is there once; that nothing is said is not false")
	require.Equal(t, []transport.Software{{Name: "Agent", Version: "2.5", Source: "redfish"}}, inv.Software)
	require.Equal(t, []transport.Problem{{Part: "secure boot", Text: "Enabled"}, {Part: "trusted module", Text: "TPM2_0 7.2, Enabled"}}, inv.Notes)
	require.Len(t, inv.Problems, 2)
	require.Equal(t, inventoryPath+"/Lost", inv.Problems[0].Part)
	require.Contains(t, inv.Problems[0].Text, "ResourceMissingAtURI")
	require.Equal(t, inventoryPath+"/Odd", inv.Problems[1].Part)
}

// iLO numbers its entries anew when a card was added: what is told of them is not.
func TestNamesOfILOStayTheSame(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1", func(o obj) {
		o["Vendor"] = "HPE"
		o["Oem"] = obj{"Hpe": obj{"Manager": []obj{{"ManagerType": "iLO 5", "ManagerFirmwareVersion": "2.46"}}}}
	})
	entries := func(names ...string) {
		var uris []string
		for i, n := range names {
			uri := fmt.Sprintf("%s/%d", inventoryPath, i+1)
			uris = append(uris, uri)
			s.set(uri, obj{"@odata.id": uri, "Id": fmt.Sprint(i + 1), "Name": n, "Version": "1", "Oem": obj{"Hpe": obj{"DeviceContext": "Slot 1", "DeviceClass": "AB", "Targets": []string{"T-1"}}}})
		}
		s.collection(inventoryPath, uris...)
	}
	conn := dial(t, s.endpoint())
	read := func() (ids []string) {
		inv, err := transport.ReadInventory(t.Context(), conn)
		require.NoError(t, err)
		require.Equal(t, "ilo5", inv.Identity.OS)
		for _, d := range inv.Devices {
			if d.Class != "bios" {
				ids = append(ids, d.ID)
				require.Equal(t, []string{"hpe-target:t-1", "hpe-class:ab"}, d.HardwareIDs)
			}
		}
		return ids
	}
	entries("iLO 5", "Disk", "Disk")
	require.Equal(t, []string{"Disk @ Slot 1", "Disk @ Slot 1 #2", "iLO 5 @ Slot 1"}, read())
	entries("NIC", "iLO 5", "Disk", "Disk")
	require.Equal(t, []string{"Disk @ Slot 1", "Disk @ Slot 1 #2", "NIC @ Slot 1", "iLO 5 @ Slot 1"}, read())
}

// Where the service expands, the whole collection is one request; where it says so and
// does not, it is read one by one; references among the members are followed.
func TestExpand(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1", func(o obj) { o["ProtocolFeaturesSupported"] = obj{"ExpandQuery": obj{"NoLinks": true}} })
	for i := range 5 {
		uri := fmt.Sprintf("%s/%d", inventoryPath, i)
		s.set(uri, obj{"@odata.id": uri, "Id": fmt.Sprint(i), "Name": fmt.Sprint("part ", i), "Version": "1"})
	}
	conn := dial(t, s.endpoint())
	s.handle("GET "+inventoryPath, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.RawQuery == "$expand=.":
			fmt.Fprintf(w, `{"Members":[{"@odata.id":"%[1]s/0","Id":"0","Name":"part 0"},{"@odata.id":"%[1]s/1"}],"Members@odata.nextLink":"%[1]s?$skip=2"}`, inventoryPath)
		default:
			fmt.Fprintf(w, `{"Members":[{"@odata.id":"%[1]s/2","Id":"2","Name":"part 2"}]}`, inventoryPath)
		}
	})
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Empty(t, inv.Problems)
	require.Len(t, inv.Devices, 4)
	require.Equal(t, 1, s.seen("GET "+inventoryPath+"/"), "one was a reference only")

	s.handle("GET "+inventoryPath, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			fault(w, http.StatusBadRequest, "Base.1.4.QueryNotSupported")
			return
		}
		fmt.Fprintf(w, `{"Members":[{"@odata.id":"%[1]s/0"},{"@odata.id":"%[1]s/1"}]}`, inventoryPath)
	})
	inv, err = transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, inv.Devices, 3)

	s.handle("GET "+inventoryPath, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"Members":[],"Members@odata.nextLink":"%s?$skip=1"}`, inventoryPath)
	})
	inv, err = transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.Contains(t, inv.Problems[0].Text, "do not end")
}

// An adapter that the firmware inventory lists without a reference is one device, and of
// two equal ones each is its own.
func TestAdapterIsListedOnce(t *testing.T) {
	s := newService(t, nil)
	s.collection("/redfish/v1/Chassis", "/redfish/v1/Chassis/1")
	const adapters = "/redfish/v1/Chassis/1/NetworkAdapters"
	s.set("/redfish/v1/Chassis/1", obj{"@odata.id": "/redfish/v1/Chassis/1", "Id": "1", "Name": "Chassis", "NetworkAdapters": ref(adapters)})
	s.collection(adapters, adapters+"/1")
	s.set(adapters+"/1", obj{"@odata.id": adapters + "/1", "Id": "1", "Name": "Ethernet 331i", "SerialNumber": "N1", "Controllers": []obj{{"FirmwarePackageVersion": "20.1"}}})
	count := func() (nics int, serial string) {
		inv, err := transport.ReadInventory(t.Context(), dial(t, s.endpoint()))
		require.NoError(t, err)
		for _, d := range inv.Devices {
			if d.Class == transport.ClassNIC {
				nics++
				serial += d.Serial
			}
		}
		return nics, serial
	}
	for i, want := range []int{1, 1, 3} {
		var members []string
		for n := range i {
			at := fmt.Sprint(inventoryPath, "/NIC", n)
			members = append(members, at)
			s.set(at, obj{"@odata.id": at, "Id": fmt.Sprint("NIC", n), "Name": "HPE Ethernet 331i Adapter - NIC", "Version": "20.1"})
		}
		s.collection(inventoryPath, members...)
		nics, serial := count()
		require.Equal(t, want, nics)
		require.Equal(t, "N1", serial)
	}
}

// Of several partitions each has its own firmware.
func TestFirmwareOfPartitions(t *testing.T) {
	s := newService(t, nil)
	s.collection("/redfish/v1/Systems", "/redfish/v1/Systems/Partition1", "/redfish/v1/Systems/Partition2")
	var members []string
	for _, n := range []string{"1", "2"} {
		s.set("/redfish/v1/Systems/Partition"+n, obj{"@odata.id": "/redfish/v1/Systems/Partition" + n, "Id": "Partition" + n, "Name": "x", "Model": "Flex " + n})
		at := inventoryPath + "/BIOS-Partition" + n
		members = append(members, at)
		s.set(at, obj{"@odata.id": at, "Id": "BIOS-Partition" + n, "Name": "System ROM", "Version": "3.0"})
	}
	s.collection(inventoryPath, members...)
	inv, err := transport.ReadInventory(t.Context(), dial(t, s.endpoint()))
	require.NoError(t, err)
	require.Len(t, inv.Devices, 2)
	for i, d := range inv.Devices {
		require.Equal(t, []string{"name:System ROM", fmt.Sprint("product:Flex ", i+1)}, d.HardwareIDs)
	}
	require.Empty(t, inv.Identity.BootID)
}
