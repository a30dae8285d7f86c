package inventory

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/transport"
)

// tree makes a file system of the files in m; a value "-> x" is a symbolic link.
func tree(t *testing.T, m map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range m {
		full := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if len(content) > 3 && content[:3] == "-> " {
			require.NoError(t, os.Symlink(content[3:], full))
			continue
		}
		require.NoError(t, os.WriteFile(full, []byte(content), 0o644))
	}
	return root
}

// proliant is a made-up server: a two-port adapter with SR-IOV, a smart array,
// two Fibre Channel adapters, an NVMe drive, a drive behind the array with two
// paths, and things that must not be reported.
func proliant() map[string]string {
	m := map[string]string{
		"etc/os-release":                    "# a comment\nNAME=\"Some Linux\"\nPRETTY_NAME=\"Some Linux 9 (\\\"Nine\\\")\"\n",
		"proc/sys/kernel/hostname":          "db7\n",
		"proc/sys/kernel/osrelease":         "5.14.0-1.el9\n",
		"proc/sys/kernel/random/boot_id":    "11111111-2222-3333-4444-555555555555\n",
		"sys/class/dmi/id/sys_vendor":       "HPE\n",
		"sys/class/dmi/id/product_name":     "ProLiant DL380 Gen10\n",
		"sys/class/dmi/id/product_serial":   "CZ1234ABCD      \n",
		"sys/class/dmi/id/product_uuid":     "35363150-3030-5A43-3132-333441424344\n",
		"sys/class/dmi/id/bios_vendor":      "HPE\n",
		"sys/class/dmi/id/bios_version":     "U30\n",
		"sys/class/dmi/id/bios_release":     "2.36\n",
		"sys/class/dmi/id/bios_date":        "07/16/2020\n",
		"sys/module/i40e/version":           "2.17.15\n",
		"sys/module/smartpqi/version":       "2.1.18-045\n",
		"sys/bus/pci/slots/3/address":       "0000:37:00\n",
		"sys/bus/pci/devices/not-a-pci-one": "-> ../../../devices/x",
		"var/lib/dpkg/status":               "Package: hello\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.10-3\n",
		"usr/share/misc/pci.ids": "8086  Intel Corporation\n\t1572  Ethernet Controller X710 for 10GbE SFP+\n" +
			"\t\t103c 22fd  Ethernet 10Gb 2-port 562SFP+ Adapter\n9005  Adaptec\n\t028f  Smart Storage PQI SAS\nC 02  Network controller\n",
		// Under ghw's path for links, the parent of the block device does not matter.
		"run/udev/data/b8:0":  "E:ID_MODEL=MB4000\nE:ID_SERIAL_SHORT=S1\nE:ID_WWN=0x5000c500aaaa0001\n",
		"run/udev/data/b8:16": "E:ID_MODEL=MB4000\nE:ID_SERIAL_SHORT=S1\nE:ID_WWN=0x5000c500aaaa0001\n",
	}
	pci := func(addr, class, vendor, device, subVendor, subDevice, driver string) string {
		dir := "sys/devices/pci0000:00/" + addr
		m[dir+"/class"], m[dir+"/vendor"], m[dir+"/device"] = class, vendor, device
		if subVendor != "" {
			m[dir+"/subsystem_vendor"], m[dir+"/subsystem_device"] = subVendor, subDevice
		}
		m[dir+"/subsystem"] = "-> ../../../bus/pci"
		if driver != "" {
			m[dir+"/driver"] = "-> ../../../bus/pci/drivers/" + driver
		}
		m["sys/bus/pci/devices/"+addr] = "-> ../../../devices/pci0000:00/" + addr
		return dir
	}
	net := func(pciDir, name, mac string) {
		dir := pciDir + "/net/" + name
		m[dir+"/address"], m[dir+"/addr_assign_type"] = mac+"\n", "0\n"
		m[dir+"/device"] = "-> ../.." // the same as in sysfs, relative to net/<name>
		m["sys/class/net/"+name] = "-> ../../" + dir[len("sys/"):]
	}
	nic := pci("0000:37:00.0", "0x020000", "0x8086", "0x1572", "0x103c", "0x22fd", "i40e")
	net(nic, "ens3f0", "48:df:37:00:00:01")
	port2 := pci("0000:37:00.1", "0x020000", "0x8086", "0x1572", "0x103c", "0x22fd", "i40e")
	net(port2, "ens3f1", "48:df:37:00:00:02")
	m[port2+"/label"] = "Embedded LOM 1 Port 2\n"
	vf := pci("0000:37:02.0", "0x020000", "0x8086", "0x154c", "0x103c", "0x0000", "iavf")
	net(vf, "ens3f0v0", "02:00:00:00:00:01")
	m[vf+"/physfn"] = "-> ../0000:37:00.0"
	m["sys/devices/virtual/net/br0/address"] = "02:00:00:00:00:02\n"
	m["sys/class/net/br0"] = "-> ../../devices/virtual/net/br0"
	m["sys/devices/platform/eth9/net/eth9/addr_assign_type"] = "3\n"
	m["sys/devices/platform/eth9/net/eth9/device"] = "-> ../.."
	m["sys/class/net/eth9"] = "-> ../../devices/platform/eth9/net/eth9"

	scsi := func(pciDir, host string, attrs map[string]string) {
		for k, v := range attrs {
			m[pciDir+"/"+host+"/scsi_host/"+host+"/"+k] = v + "\n"
		}
		m["sys/class/scsi_host/"+host] = "-> ../../" + pciDir[len("sys/"):] + "/" + host + "/scsi_host/" + host
	}
	scsi(pci("0000:5c:00.0", "0x010700", "0x9005", "0x028f", "0x103c", "0x0654", "smartpqi"), "host0",
		map[string]string{"firmware_version": "4.11", "model": "P408i-a", "serial_number": "PEYHC0"})
	scsi(pci("0000:86:00.0", "0x0c0400", "0x1077", "0x2261", "0x1590", "0x00f9", "qla2xxx"), "host1",
		map[string]string{"fw_version": "8.08.05 (d0d5)", "model_name": "SN1100Q", "driver_version": "10.02.00.106-k"})
	lpfc := pci("0000:87:00.0", "0x0c0400", "0x10df", "0xe300", "", "", "lpfc")
	scsi(lpfc, "host2", map[string]string{"modelname": "SN1200E2P"})
	m[lpfc+"/host2/fc_host/host2/symbolic_name"] = "Emulex SN1200E2P FV12.0.1183.5 DV14.2\n"
	m["sys/class/fc_host/host2"] = "-> ../../devices/pci0000:00/0000:87:00.0/host2/fc_host/host2"
	pci("0000:88:00.0", "0x030000", "0x102b", "0x0538", "", "", "mgag200") // graphics
	pci("0000:89:00.0", "0x010400", "?", "?", "", "", "")

	nvme := pci("0000:d8:00.0", "0x010802", "0x144d", "0xa824", "0x1590", "0x02ba", "nvme")
	for k, v := range map[string]string{"model": "MO000400JWDKU   ", "serial": "S4X", "firmware_rev": "HPK1"} {
		m[nvme+"/nvme/nvme0/"+k] = v + "\n"
	}
	m[nvme+"/nvme/nvme0/device"] = "-> ../.."
	m["sys/class/nvme/nvme0"] = "-> ../../devices/pci0000:00/0000:d8:00.0/nvme/nvme0"
	m["sys/block/nvme0n1/size"] = "100\n"
	m["sys/class/nvme/nvme1/transport"] = "tcp\n"

	for name, dev := range map[string]string{"sda": "8:0", "sdb": "8:16"} {
		m["sys/block/"+name+"/dev"] = dev + "\n"
		m["sys/block/"+name+"/size"] = "1000\n"
		m["sys/block/"+name+"/device/vendor"] = "HPE     \n"
		m["sys/block/"+name+"/device/model"] = "MB4000JEFNC     \n"
		m["sys/block/"+name+"/device/rev"] = "HPD5\n"
	}
	m["sys/block/dm-0/size"], m["sys/block/sr0/size"] = "10\n", "0\n"
	return m
}

func TestMadeUpServer(t *testing.T) {
	asked := map[string]int{}
	o := Options{parts: host{tree(t, proliant())}.parts(func(ifname string) (driverInfo, error) {
		asked[ifname]++
		switch ifname {
		case "ens3f0":
			return driverInfo{"i40e", "2.17.15", "10.52.22"}, nil
		case "ens3f1":
			return driverInfo{}, unix.EPERM
		}
		return driverInfo{"platnet", "5.14.0-1.el9", "N/A"}, nil
	})}
	inv := o.Collect(context.Background())
	require.Equal(t, map[string]int{"ens3f0": 1, "ens3f1": 1, "eth9": 1}, asked)
	require.Equal(t, transport.Identity{
		Name: "db7", Vendor: "HPE", Product: "ProLiant DL380 Gen10", Serial: "CZ1234ABCD",
		UUID: "35363150-3030-5a43-3132-333441424344", OS: "linux", Version: `Some Linux 9 ("Nine")`,
		Kernel: "5.14.0-1.el9", Arch: inv.Identity.Arch, BootID: "11111111-2222-3333-4444-555555555555",
	}, inv.Identity)
	require.Equal(t, []transport.Device{
		{ID: "bios", Class: "bios", Name: "System BIOS", Vendor: "HPE", Firmware: "U30 2.36 07/16/2020",
			HardwareIDs: []string{"product:ProLiant DL380 Gen10"}},
		{ID: "0000:d8:00.0", Class: "disk", Name: "nvme0", Model: "MO000400JWDKU", Serial: "S4X", Firmware: "HPK1", Driver: "nvme",
			HardwareIDs: []string{"model:MO000400JWDKU", "pci:144d:a824:1590:02ba", "pci:144d:a824"}},
		{ID: "disk:0x5000c500aaaa0001", Class: "disk", Name: "sda,sdb", Vendor: "HPE", Model: "MB4000JEFNC", Serial: "S1", Firmware: "HPD5",
			HardwareIDs: []string{"model:MB4000JEFNC"}},
		{ID: "0000:86:00.0", Class: "hba", Name: "host1", Model: "SN1100Q", Firmware: "8.08.05", Driver: "qla2xxx", DriverVersion: "10.02.00.106-k",
			HardwareIDs: []string{"pci:1077:2261:1590:00f9", "pci:1077:2261"}},
		{ID: "0000:87:00.0", Class: "hba", Name: "host2", Model: "SN1200E2P", Firmware: "12.0.1183.5", Driver: "lpfc",
			HardwareIDs: []string{"pci:10df:e300"}},
		{ID: "0000:37:00.0", Class: "nic", Name: "ens3f0", Vendor: "Intel Corporation", Model: "Ethernet 10Gb 2-port 562SFP+ Adapter",
			Serial: "48:df:37:00:00:01", Location: "PCI slot 3", Firmware: "10.52.22", Driver: "i40e", DriverVersion: "2.17.15",
			HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572"}},
		{ID: "0000:37:00.1", Class: "nic", Name: "ens3f1", Vendor: "Intel Corporation", Model: "Ethernet 10Gb 2-port 562SFP+ Adapter",
			Serial: "48:df:37:00:00:02", Location: "Embedded LOM 1 Port 2", Driver: "i40e", DriverVersion: "2.17.15",
			HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572"}},
		{ID: "net:eth9", Class: "nic", Name: "eth9", Driver: "platnet"},
		{ID: "0000:5c:00.0", Class: "storage-controller", Name: "host0", Vendor: "Adaptec", Model: "P408i-a", Serial: "PEYHC0",
			Firmware: "4.11", Driver: "smartpqi", DriverVersion: "2.1.18-045",
			HardwareIDs: []string{"pci:9005:028f:103c:0654", "pci:9005:028f"}},
	}, inv.Devices)
	require.Equal(t, []transport.Software{{Name: "hello", Version: "2.10-3", Arch: "amd64", Source: "dpkg"}}, inv.Software)
	require.Equal(t, []transport.Problem{
		{Part: "controllers", Text: "PCI function 0000:89:00.0 does not tell its vendor and device"},
		{Part: "network", Text: "ens3f1: driver and firmware: operation not permitted"},
	}, inv.Problems)
	require.Equal(t, inv, o.Collect(context.Background()), "the same host gives the same inventory")
}

func TestBrokenTrees(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  transport.Problem
	}{
		"empty":                {nil, transport.Problem{Part: "identity", Text: "no os-release file"}},
		"network is a file":    {map[string]string{"sys/class/net": "x"}, transport.Problem{Part: "network"}},
		"blocks are a file":    {map[string]string{"sys/block": "x"}, transport.Problem{Part: "disks"}},
		"functions are a file": {map[string]string{"sys/bus/pci/devices": "x"}, transport.Problem{Part: "controllers"}},
		"status is a folder":   {map[string]string{"var/lib/dpkg/status/x": "x"}, transport.Problem{Part: "dpkg"}},
		"foreign rpm database": {map[string]string{"var/lib/rpm/Packages": "x"}, transport.Problem{Part: "rpm"}},
	} {
		t.Run(name, func(t *testing.T) {
			inv := Options{Root: tree(t, c.files)}.Collect(context.Background())
			require.Equal(t, "linux", inv.Identity.OS)
			require.Empty(t, inv.Devices)
			for _, p := range inv.Problems {
				if p.Part == c.want.Part && (c.want.Text == "" || p.Text == c.want.Text) {
					return
				}
			}
			require.Fail(t, "no such problem", "%v in %v", c.want, inv.Problems)
		})
	}
}

func TestNamesDatabaseThatIsBroken(t *testing.T) {
	files := proliant()
	files["usr/share/misc/pci.ids"] = "8\n" // stops the library
	inv := Options{Root: tree(t, files)}.Collect(context.Background())
	require.Len(t, inv.Devices, 9)
	for _, d := range inv.Devices {
		require.NotEqual(t, "Adaptec", d.Vendor)
	}
}

func TestVersionsInTexts(t *testing.T) {
	for in, want := range map[string]string{
		"8.08.05 (d0d5)": "8.08.05", "11.4.204.33, sli-4:2:c": "11.4.204.33", "20.00.07.00": "20.00.07.00", "": "",
	} {
		require.Equal(t, want, firmwareVersion(in))
	}
	for in, want := range map[string]string{
		"QLE2692 FW:v8.08.05 DVR:v10.01": "8.08.05", "Emulex X FV12.0.1 DV14.2": "12.0.1", "port": "",
	} {
		require.Equal(t, want, symbolicFirmware(in))
	}
	require.Equal(t, "14.2.0.8", driverVersion("Emulex LightPulse Fibre Channel SCSI driver 14.2.0.8"))
	require.Equal(t, "10.02-k", driverVersion("10.02-k"))
	require.Equal(t, "P70 07/01/2015", biosVersion("HP", "P70", "", "07/01/2015"))
	require.Equal(t, "2.4.1", biosVersion("Other Inc.", "2.4.1", "2.4", "07/01/2015"))
}
