package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
)

// TestWine runs the tests for Windows under Wine, which is not Windows: see the package
// documentation for what that shows.
func TestWine(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: -short leaves out tests with real processes")
	}
	// The go command keeps results as long as files are the same that it has built or the
	// test has read, and those for Windows alone are none of the former.
	sources, err := filepath.Glob("*_windows*.go")
	require.NoError(t, err)
	for _, file := range sources {
		_, err := os.ReadFile(file)
		require.NoError(t, err)
	}
	l := &wineLab{Wine: realtest.NewWine(t)}
	l.tests = filepath.Join(l.Dir, "inventory.test.exe")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", l.tests, ".")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))

	bare := l.run(t)
	require.Empty(t, bare.Inventory.Software)
	l.sameFirmware(t, bare.Inventory.Identity)

	// A server, as far as the registry makes one.
	nic := someInterface(t)
	require.Contains(t, bare.Connections, nic.Name)
	l.importRegistry(t, strings.NewReplacer("CONNECTION", bare.Connections[nic.Name], "NIC_ID", multiString(`PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C`),
		"NIC_CLASS", multiString(`PCI\CC_0200`), "ROM_ID", multiString(`UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}&REV_10002`,
			`UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}`)).Replace(serverRegistry))
	require.NoError(t, os.WriteFile(filepath.Join(l.C(), "windows", "inf", "oem7.inf"), []byte(infFile), 0o600))
	inv := l.run(t).Inventory

	require.Equal(t, "Windows Server 2022 Standard 21H2 (Server Core)", inv.Identity.Version)
	require.Regexp(t, `\.2340$`, inv.Identity.Kernel)
	require.Equal(t, "amd64", inv.Identity.Arch)
	if bare.Inventory.Identity.Vendor == "" { // else the firmware tells
		require.Equal(t, "HPE", inv.Identity.Vendor)
		require.Equal(t, "ProLiant DL380 Gen10", inv.Identity.Product)
		require.Contains(t, inv.Devices, transport.Device{ID: "bios", Class: "bios", Name: "System BIOS", Vendor: "HPE", Firmware: "U30",
			HardwareIDs: []string{"product:ProLiant DL380 Gen10"}})
		require.Contains(t, inv.Notes, transport.Problem{Part: "bios", Text: "date: 07/16/2020"})
	}
	require.Contains(t, inv.Devices, transport.Device{
		ID: `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\3&1&0&00`, Class: "nic", Name: nic.Name, Vendor: "Intel",
		Model: "Ethernet 10Gb 2-port 562SFP+ Adapter", Serial: nic.HardwareAddr.String(), Driver: "i40ea", DriverVersion: "1.16.202.10",
		HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572", `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C`},
	})
	const guid = "{00112233-4455-6677-8899-AABBCCDDEEFF}"
	require.Contains(t, inv.Devices, transport.Device{ID: `UEFI\RES_` + guid + `\0`, Class: "firmware", Name: "System Firmware", Model: "System Firmware",
		Firmware: "65538", HardwareIDs: []string{`UEFI\RES_` + guid}})
	require.Equal(t, []transport.Software{
		{Name: "oem7.inf", Version: "2.1.18.45", Source: "inf"},
		{ID: "{0A1B2C3D-0000-1111-2222-333344445555}", Name: "{0A1B2C3D-0000-1111-2222-333344445555}", Version: "1.2.3", Arch: "amd64", Source: "msi"},
		{ID: "{0A1B2C3D-0000-1111-2222-333344445555}", Name: "Agentless Management", Version: "1.2.3", Arch: "amd64", Source: "program"},
		{ID: "ISUT", Name: "Integrated Smart Update Tools", Version: "4.1.0.0", Arch: "amd64", Source: "program"},
		{ID: "Old", Name: "Old Program", Version: "7", Arch: "386", Source: "program"},
		{ID: "ISUT", Name: "ISUT", Version: "4.1.0.0", Arch: "amd64", Source: "uninstall"},
		{ID: "Old", Name: "Old", Version: "7", Arch: "386", Source: "uninstall"},
	}, inv.Software)
	require.Equal(t, bare.Inventory.Problems, inv.Problems)
	for _, p := range inv.Problems {
		require.Equal(t, "boot: process System: Invalid parameter.", p.Text, "Wine has no such process")
	}
}

// seenOnWindows is what TestWindows writes.
type seenOnWindows struct {
	Inventory   *transport.Inventory `json:"inventory"`
	Connections map[string]string    `json:"connections"`
}

type wineLab struct {
	*realtest.Wine
	tests string
}

// run runs the tests for Windows.
func (l *wineLab) run(t *testing.T) (seen seenOnWindows) {
	t.Helper()
	file := filepath.Join(l.Dir, "seen.json")
	cmd := l.Command(t.Context(), l.tests, "-test.v", "-test.timeout=5m", "-test.run=^TestWindows")
	cmd.Env = append(cmd.Env, "INVENTORY_FILE="+l.Path(file))
	out, err := cmd.CombinedOutput()
	if !errors.Is(err, exec.ErrWaitDelay) { // what Wine has started with it may stay
		require.NoError(t, err, string(out))
	}
	require.Contains(t, string(out), "\nPASS")
	require.Contains(t, string(out), "--- PASS: TestWindows ")
	require.NotContains(t, string(out), "--- SKIP")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &seen))
	require.NoError(t, os.Remove(file))
	return seen
}

// importRegistry imports a file of the form that regedit has.
func (l *wineLab) importRegistry(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(l.Dir, "server.reg")
	b := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune("Windows Registry Editor Version 5.00\r\n" + strings.ReplaceAll(text, "\n", "\r\n"))) {
		b = append(b, byte(c), byte(c>>8))
	}
	require.NoError(t, os.WriteFile(file, b, 0o600))
	out, err := l.Command(t.Context(), "regedit.exe", "/S", l.Path(file)).CombinedOutput()
	if !errors.Is(err, exec.ErrWaitDelay) {
		require.NoError(t, err, string(out))
	}
}

// sameFirmware compares with what this host says of its firmware, as far as it may be
// read. Wine puts it into tables of SMBIOS, and where there is no UUID that of the
// system's installation.
func (l *wineLab) sameFirmware(t *testing.T, id transport.Identity) {
	t.Helper()
	read := func(name string) string {
		b, _ := os.ReadFile(name)
		return strings.ToLower(clean(string(b)))
	}
	if installation := read("/etc/machine-id"); installation != "" {
		require.Contains(t, []string{installation, strings.ReplaceAll(read(dmiDir+"/product_uuid"), "-", "")}, strings.ReplaceAll(id.UUID, "-", ""))
	}
	for name, got := range map[string]string{"sys_vendor": id.Vendor, "product_name": id.Product, "product_serial": id.Serial} {
		if want := read(filepath.Join(dmiDir, name)); want != "" {
			require.Equal(t, want, strings.ToLower(got), name)
		}
	}
}

// someInterface returns an interface of this host, with a hardware address if there is
// one that has it.
func someInterface(t *testing.T) (nic net.Interface) {
	t.Helper()
	all, err := net.Interfaces()
	require.NoError(t, err)
	for _, nic = range all {
		if len(nic.HardwareAddr) == 6 {
			break
		}
	}
	return nic
}

// multiString is a REG_MULTI_SZ in a file of regedit.
func multiString(list ...string) string {
	var b strings.Builder
	b.WriteString("hex(7):")
	for _, c := range utf16.Encode([]rune(strings.Join(list, "\x00") + "\x00")) {
		fmt.Fprintf(&b, "%02x,%02x,", byte(c), byte(c>>8))
	}
	return b.String() + "00,00"
}

// serverRegistry is what the registry of a made-up server has. PCI functions are not
// made up in full: Wine has no property for the number of a bus.
const serverRegistry = `
[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows Server 2022 Standard"
"DisplayVersion"="21H2"
"InstallationType"="Server Core"
"UBR"=dword:00000924

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\ISUT]
"DisplayName"="Integrated Smart Update Tools"
"DisplayVersion"="4.1.0.0"

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\{0a1b2c3d-0000-1111-2222-333344445555}]
"DisplayName"="Agentless Management"
"DisplayVersion"="1.2.3"
"WindowsInstaller"=dword:00000001

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\KB1]
"DisplayName"="Update"
"ParentKeyName"="ISUT"

[HKEY_LOCAL_MACHINE\SOFTWARE\Wow6432Node\Microsoft\Windows\CurrentVersion\Uninstall\Old]
"DisplayName"="Old Program"
"DisplayVersion"="7"

[HKEY_CURRENT_USER\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\Mine]
"DisplayName"="A user's own"

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Enum\PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\3&1&0&00]
"Class"="Net"
"ClassGUID"="{4d36e972-e325-11ce-bfc1-08002be10318}"
"DeviceDesc"="Ethernet 10Gb 2-port 562SFP+ Adapter"
"FriendlyName"="Ethernet 10Gb 2-port 562SFP+ Adapter #2"
"Mfg"="Intel"
"Service"="i40ea"
"Driver"="{4d36e972-e325-11ce-bfc1-08002be10318}\\0007"
"HardwareID"=NIC_ID
"CompatibleIDs"=NIC_CLASS
"UINumber"=dword:00000003
"Address"=dword:00000001

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Control\Class\{4d36e972-e325-11ce-bfc1-08002be10318}\0007]
"DriverVersion"="1.16.202.10"
"InfPath"="oem7.inf"
"NetCfgInstanceId"="CONNECTION"

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Enum\UEFI\RES_{00112233-4455-6677-8899-aabbccddeeff}\0]
"Class"="Firmware"
"ClassGUID"="{f2e7dd72-6468-4e36-b6f1-6488f42c1b52}"
"DeviceDesc"="System Firmware"
"HardwareID"=ROM_ID

[HKEY_LOCAL_MACHINE\HARDWARE\DESCRIPTION\System\BIOS]
"SystemManufacturer"="HPE"
"SystemProductName"="ProLiant DL380 Gen10"
"BIOSVendor"="HPE"
"BIOSVersion"="U30"
"BIOSReleaseDate"="07/16/2020"
`
