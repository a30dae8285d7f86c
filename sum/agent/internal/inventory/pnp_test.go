package inventory

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

// port1 is a port of a network adapter, as Windows tells of it.
func port1() pnpDevice {
	return pnpDevice{
		instance: `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\0000d4ffff48df3701`, parent: `PCI\VEN_8086&DEV_2030\3&1&0&00`, setupClass: "Net",
		hardware: []string{`PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02`, `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C`,
			`PCI\VEN_8086&DEV_1572&CC_020000`, `PCI\VEN_8086&DEV_1572&CC_0200`},
		compatible: []string{`PCI\VEN_8086&DEV_1572&REV_02`, `PCI\VEN_8086&DEV_1572`, `PCI\VEN_8086&CC_020000`, `PCI\VEN_8086`, `PCI\CC_020000`, `PCI\CC_0200`},
		service:    "i40ea", maker: "Intel", friendly: "HPE Ethernet 10Gb 2-port 562SFP+ Adapter #2", desc: "HPE Ethernet 10Gb 2-port 562SFP+ Adapter",
		driverVersion: "1.16.202.10", inf: "oem12.inf", located: true, bus: 0x37, address: 1, connection: "{1a}",
	}
}

func TestNetworkAdapterOfWindows(t *testing.T) {
	want := transport.Device{
		ID: `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\0000D4FFFF48DF3701`, Class: "nic", Name: "Ethernet 2", Vendor: "Intel",
		Model: "HPE Ethernet 10Gb 2-port 562SFP+ Adapter", Serial: "48:df:37:00:00:02", Location: "Embedded LOM 1 Port 2 (0000:37:00.1)",
		Driver: "i40ea", DriverVersion: "1.16.202.10",
		HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572", `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02`,
			`PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C`, `PCI\VEN_8086&DEV_1572&CC_020000`, `PCI\VEN_8086&DEV_1572&CC_0200`},
	}
	c := pnpContext{onboard: map[string]string{"0000:37:00.1": "Embedded LOM 1 Port 2"},
		adapters: map[string]adapter{"{1A}": {"Ethernet 2", "48:df:37:00:00:02"}, "": {"of no device", ""}}}
	got, ok := port1().device(c)
	require.True(t, ok)
	require.Equal(t, want, got)

	p := port1()
	p.slot, p.bus, p.address = 3, 0x1_0238, 0x1f_0007
	require.Equal(t, "PCI slot 3 (0102:38:1f.7)", p.location(c.onboard))
	p.slot = 0
	require.Equal(t, "0102:38:1f.7", p.location(c.onboard))
	p.located = false
	require.Empty(t, p.location(c.onboard))

	p = port1()
	p.connection, p.friendly, p.maker = "{2b}", "", "(Standard system devices)"
	got, _ = p.device(c)
	require.Equal(t, p.desc, got.Name)
	require.Empty(t, got.Vendor)
}

func TestDriverVersionsOfWindows(t *testing.T) {
	for _, c := range []struct{ inf, version, want string }{
		{"disk.inf", "10.0.20348.1", ""}, {"disk.inf", "6.3.9600.16384", ""}, {"", "10.0.1.2", ""},
		{"oem4.inf", "10.0.20348.1", "10.0.20348.1"}, {"OEM4.INF", "6.1.2", "6.1.2"},
		{"net1ix64.inf", "4.1.199.0", "4.1.199.0"}, {"net.inf", "10.1.2.3", "10.1.2.3"}, {"net.inf", "6.4.2.3", "6.4.2.3"}, {"", "", ""},
	} {
		require.Equal(t, c.want, pnpDevice{inf: c.inf, driverVersion: c.version}.ownVersion(), c)
	}
}

func TestClassesOfWindows(t *testing.T) {
	pci := func(cc, setup, service, inf string) pnpDevice {
		return pnpDevice{instance: `PCI\VEN_1&DEV_2\3`, setupClass: setup, compatible: []string{`PCI\VEN_1`, `PCI\CC_` + cc, `PCI\CC_` + cc[:4]}, service: service, inf: inf}
	}
	for want, devices := range map[string][]pnpDevice{
		"nic": {pci("020000", "Net", "e1i", "net.inf"), pci("028000", "", "", ""), {instance: `USB\VID_1&PID_2\3`, setupClass: "Net"},
			{instance: `VMBUS\{1}\{2}`, setupClass: "Net"}},
		"storage-controller": {pci("010700", "SCSIAdapter", "smartpqi", "oem1.inf"), pci("010601", "HDC", "storahci", "mshdc.inf")},
		"hba":                {pci("0c0400", "SCSIAdapter", "ql2300", "oem2.inf")},
		"disk":               {pci("010802", "SCSIAdapter", "stornvme", "stornvme.inf")},
		"display":            {pci("030000", "Display", "BasicDisplay", "display.inf")},
		"system":             {pci("088000", "System", "hpqilo3", "oem3.inf"), {instance: `ACPI\X\0`, setupClass: "System", inf: "OEM3.INF"}},
		"other":              {pci("088000", "", "", ""), pci("0b4000", "", "", "")},
		"firmware":           {{instance: `UEFI\RES_{1}\0`, setupClass: "Firmware"}, {instance: `ROOT\X`, setupClass: "Firmware"}},
		"": {pci("060400", "System", "pci", "pci.inf"), pci("110100", "System", "x", "machine.inf"), {instance: `SCSI\DISK\1`, setupClass: "DiskDrive"},
			{instance: `ROOT\KDNIC\0000`, setupClass: "Net", inf: "kdnic.inf"}, {instance: `SWD\MSRRAS\1`, setupClass: "Net", inf: "netrasa.inf"},
			{instance: `HID\1`, setupClass: "Mouse", inf: "msmouse.inf"}, {}},
		"net": {{instance: `ROOT\NET\0000`, setupClass: "Net", inf: "oem9.inf"}},
	} {
		for _, p := range devices {
			require.Equal(t, want, p.class(), "%+v", p)
		}
	}
	p := pci("010802", "SCSIAdapter", "stornvme", "stornvme.inf")
	_, ok := p.device(pnpContext{nvme: map[string]bool{`PCI\VEN_1&DEV_2\3`: true}})
	require.False(t, ok, "its disks are listed")
	_, ok = p.device(pnpContext{})
	require.True(t, ok)
}

func TestHardwareIDsOfWindows(t *testing.T) {
	ids := func(hardware ...string) []string { return pnpDevice{hardware: hardware}.hardwareIDs() }
	require.Equal(t, []string{"pci:10df:e300", `PCI\VEN_10DF&DEV_E300&REV_01`}, ids(`PCI\VEN_10DF&DEV_E300&REV_01`))
	require.Equal(t, []string{"pci:10df:e300", `PCI\VEN_10DF&DEV_E300&SUBSYS_00000000`}, ids(`PCI\VEN_10DF&DEV_E300&SUBSYS_00000000`))
	require.Equal(t, []string{`USB\VID_0BDA&PID_8153`}, ids(`USB\Vid_0bda&Pid_8153`))
	require.Empty(t, ids())
}

func TestFirmwareResources(t *testing.T) {
	const guid = "{00112233-4455-6677-8899-AABBCCDDEEFF}"
	p := pnpDevice{instance: `UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}\0`, setupClass: "Firmware", desc: "System Firmware", driverVersion: "1.2.3.4", inf: "oem5.inf",
		hardware: []string{`UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}&REV_10002`, `UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}`}}
	want := transport.Device{ID: `UEFI\RES_` + guid + `\0`, Class: "firmware", Name: "System Firmware", Model: "System Firmware", Firmware: "65538",
		DriverVersion: "1.2.3.4", HardwareIDs: []string{`UEFI\RES_` + guid}}
	got, ok := p.device(pnpContext{})
	require.True(t, ok)
	require.Equal(t, want, got, "as in the hardware ID")
	want.Firmware = "65539"
	c := pnpContext{esrt: map[string]uint32{guid: 65539}}
	got, _ = p.device(c)
	require.Equal(t, want, got, "as in the table")
	require.Empty(t, c.unlisted([]transport.Device{got}))
	require.Equal(t, []transport.Device{{ID: want.ID, Class: "firmware", Firmware: "65539", HardwareIDs: want.HardwareIDs}}, c.unlisted(nil))
	require.Empty(t, pnpDevice{hardware: []string{`UEFI\RES_` + guid}}.firmware(nil))
}

func TestDisksOfWindows(t *testing.T) {
	drive := pnpDevice{instance: `SCSI\Disk&Ven_HPE&Prod_MB4000\5&1&0&000100`, service: "disk", setupClass: "DiskDrive", driverVersion: "10.0.20348.1", inf: "disk.inf"}
	function := pnpDevice{instance: `PCI\VEN_144D&DEV_A824\4`, service: "nvmemaker", driverVersion: "10.0.2", inf: "oem4.inf", located: true, bus: 0xd8,
		hardware: []string{`PCI\VEN_144D&DEV_A824&SUBSYS_02BA1590&CC_010802`}}
	sas := storageDevice{10, "HPE", "MB4000JEFNC", "HPD5", "S1"}
	bogus := storageDevice{8, "HPE", "LOGICAL VOLUME", "4.11", "0000"}
	got := diskDevices([]windowsDisk{
		{name: "PhysicalDrive0", says: sas, dev: drive, parent: pnpDevice{instance: `PCI\X\1`, compatible: []string{`PCI\CC_0107`}}},
		{name: "PhysicalDrive2", says: storageDevice{17, "NVMe", "MO000400JWDKU", "HPK1", "S4X."}, dev: drive, parent: function},
		{name: "PhysicalDrive3", says: bogus, dev: pnpDevice{instance: `scsi\disk\3`}},
		{name: "PhysicalDrive4", says: bogus},
		{name: "PhysicalDrive5", says: storageDevice{bus: busFileBacked, serial: "S5"}},
		{name: "PhysicalDrive6", says: storageDevice{bus: busStorageSpaces, serial: "S6"}},
	}, map[string]string{"0000:d8:00.0": "NVMe Drive 1"})
	require.Equal(t, []transport.Device{
		{ID: "disk:S1", Class: "disk", Name: "PhysicalDrive0", Vendor: "HPE", Model: "MB4000JEFNC", Serial: "S1", Firmware: "HPD5",
			Driver: "disk", HardwareIDs: []string{"model:MB4000JEFNC"}},
		{ID: "disk:S4X.", Class: "disk", Name: "PhysicalDrive2", Model: "MO000400JWDKU", Serial: "S4X.", Firmware: "HPK1", Driver: "nvmemaker", DriverVersion: "10.0.2",
			Location: "NVMe Drive 1 (0000:d8:00.0)", HardwareIDs: []string{"model:MO000400JWDKU", "pci:144d:a824:1590:02ba", "pci:144d:a824",
				`PCI\VEN_144D&DEV_A824&SUBSYS_02BA1590&CC_010802`}},
		{ID: `disk:SCSI\DISK\3`, Class: "disk", Name: "PhysicalDrive3", Vendor: "HPE", Model: "LOGICAL VOLUME", Serial: "0000", Firmware: "4.11", HardwareIDs: []string{"model:LOGICAL VOLUME"}},
		{ID: "disk:PhysicalDrive4", Class: "disk", Name: "PhysicalDrive4", Vendor: "HPE", Model: "LOGICAL VOLUME", Serial: "0000", Firmware: "4.11", HardwareIDs: []string{"model:LOGICAL VOLUME"}},
	}, got)
}

func FuzzPnP(f *testing.F) {
	f.Add(`PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\3`, `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&CC_0200`, "Net", "oem1.inf", uint32(1), uint32(2))
	f.Add(`UEFI\RES_{}\0`, `UEFI\RES_{00112233-4455-6677-8899-AABBCCDDEEFF}&REV_1`, "Firmware", "", uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, instance, hardware, setup, inf string, bus, address uint32) {
		p := pnpDevice{instance: instance, hardware: []string{hardware}, setupClass: setup, inf: inf, located: true, bus: bus, address: address}
		if d, ok := p.device(pnpContext{}); ok {
			require.NotEmpty(t, d.Class)
		}
	})
}
