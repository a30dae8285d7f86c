package inventory

import (
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

func TestWindowsReleaseNames(t *testing.T) {
	for _, c := range []struct {
		in           windowsRelease
		name, kernel string
	}{
		{windowsRelease{"Windows Server 2022 Standard", "21H2", "2009", "Server", 10, 0, 20348, 2340}, "Windows Server 2022 Standard 21H2", "10.0.20348.2340"},
		{windowsRelease{"Windows Server 2019 Datacenter", "", "1809", "Server Core", 10, 0, 17763, 1}, "Windows Server 2019 Datacenter 1809 (Server Core)", "10.0.17763.1"},
		{windowsRelease{"Windows Server 2012 R2 Standard", "", "", "Server", 6, 3, 9600, 0}, "Windows Server 2012 R2 Standard", "6.3.9600"},
		{windowsRelease{"Windows 10 Pro", "22H2", "2009", "Client", 10, 0, 19045, 4170}, "Windows 10 Pro 22H2", "10.0.19045.4170"},
		{windowsRelease{"Windows 10 Pro", "23H2", "2009", "Client", 10, 0, 22631, 3296}, "Windows 11 Pro 23H2", "10.0.22631.3296"},
		{windowsRelease{"Windows 10 Pro", "", "", "Client", 10, 0, 22000, 0}, "Windows 11 Pro", "10.0.22000"},
		{windowsRelease{"Windows 10 Pro", "", "", "Client", 10, 0, 21999, 0}, "Windows 10 Pro", "10.0.21999"},
		{windowsRelease{"Windows Server 2025 Standard", "24H2", "2009", "Server", 10, 0, 26100, 0}, "Windows Server 2025 Standard 24H2", "10.0.26100"},
	} {
		require.Equal(t, c.name, c.in.name())
		require.Equal(t, c.kernel, c.in.kernel())
	}
	require.Equal(t, "amd64", goarch(0x8664))
	require.Equal(t, "arm64", goarch(0xaa64))
	require.Equal(t, "386", goarch(0x14c))
	require.Empty(t, goarch(0))
}

const infFile = "; a comment = x\r\n[Manufacturer]\r\nDriverVer=01/01/2001,9.9\r\n[ Version ]\r\nSignature = \"$WINDOWS NT$\"\r\n" +
	"driverver = 07/16/2020 , 2.1.18.45 ; of the release\r\n[Strings]\r\nDriverVer=1,1\r\n"

func TestINFVersion(t *testing.T) {
	utf16File := func(order binary.AppendByteOrder, s string) string {
		b := order.AppendUint16(nil, 0xfeff)
		for _, c := range utf16.Encode([]rune(s)) {
			b = order.AppendUint16(b, c)
		}
		return string(b)
	}
	for name, in := range map[string]string{
		"bytes": infFile, "UTF-8": "\ufeff" + infFile, "UTF-16LE": utf16File(binary.LittleEndian, infFile),
		"UTF-16BE": utf16File(binary.BigEndian, infFile), "lines of Unix": strings.ReplaceAll(infFile, "\r", ""),
	} {
		v, err := infVersion(strings.NewReader(in))
		require.NoError(t, err, name)
		require.Equal(t, "2.1.18.45", v, name)
	}
	for _, in := range []string{"", "[Version]\nDriverVer=07/16/2020", "[Version", "\xff\xfe\x00"} {
		v, err := infVersion(strings.NewReader(in))
		require.NoError(t, err, in)
		require.Empty(t, v, in)
	}
	_, err := infVersion(strings.NewReader("[Version]\nDriverVer=07/16/2020,%Ver%"))
	require.ErrorContains(t, err, "names no version")
}

func FuzzINF(f *testing.F) {
	f.Add([]byte(infFile))
	f.Add([]byte("\xff\xfe[\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _ := infVersion(strings.NewReader(string(b)))
		require.Empty(t, strings.Trim(v, "0123456789."))
	})
}

// deviceDescriptor is a STORAGE_DEVICE_DESCRIPTOR.
func deviceDescriptor(bus uint32, texts ...string) []byte {
	b := make([]byte, 36)
	binary.LittleEndian.PutUint32(b[28:], bus)
	for i, s := range texts {
		if s != "" {
			binary.LittleEndian.PutUint32(b[12+4*i:], uint32(len(b)))
			b = append(append(b, s...), 0)
		}
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

func TestStorageDescriptor(t *testing.T) {
	b := deviceDescriptor(10, "HPE     ", "MB4000JEFNC     ", "HPD5", "  S1  ")
	got, err := parseStorageDevice(b)
	require.NoError(t, err)
	require.Equal(t, storageDevice{bus: 10, vendor: "HPE", product: "MB4000JEFNC", revision: "HPD5", serial: "S1"}, got)
	for n := range b {
		got, err := parseStorageDevice(b[:n])
		if n < 36 {
			require.ErrorIs(t, err, errTruncated)
		} else {
			require.NoError(t, err)
			require.LessOrEqual(t, len(got.serial), 2)
		}
	}
	binary.LittleEndian.PutUint32(b[24:], 0xffffffff) // some adapters say so that there is none
	got, err = parseStorageDevice(b)
	require.NoError(t, err)
	require.Empty(t, got.serial)
}

func FuzzStorageDescriptor(f *testing.F) {
	f.Add(deviceDescriptor(17, "NVMe", "MO000400JWDKU", "HPK1", "S4X"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _ := parseStorageDevice(b)
		require.Equal(t, s.serial, clean(s.serial))
	})
}

func TestUninstallEntries(t *testing.T) {
	const code = "{0a1b2c3d-0000-1111-2222-333344445555}"
	const upper = "{0A1B2C3D-0000-1111-2222-333344445555}"
	for name, c := range map[string]struct {
		in   uninstallEntry
		want []transport.Software
	}{
		"program": {uninstallEntry{key: "ISUT", display: "Integrated Smart Update Tools", publisher: "HPE", version: "4.1", arch: "amd64"}, []transport.Software{
			{ID: "ISUT", Name: "ISUT", Vendor: "HPE", Version: "4.1", Arch: "amd64", Source: "uninstall"},
			{ID: "ISUT", Name: "Integrated Smart Update Tools", Vendor: "HPE", Version: "4.1", Arch: "amd64", Source: "program"}}},
		"package": {uninstallEntry{key: code, display: "Agent", version: "1.2.3", packed: 0x01020003, msi: true, arch: "386"}, []transport.Software{
			{ID: upper, Name: upper, Version: "1.2.3", Arch: "386", Source: "msi"},
			{ID: upper, Name: "Agent", Version: "1.2.3", Arch: "386", Source: "program"}}},
		"package without names":   {uninstallEntry{key: code, packed: 0x0c220038, msi: true}, []transport.Software{{ID: upper, Name: upper, Version: "12.34.56", Source: "msi"}}},
		"package with an odd key": {uninstallEntry{key: "x", display: "X", msi: true}, []transport.Software{{ID: "x", Name: "x", Source: "uninstall"}, {ID: "x", Name: "X", Source: "program"}}},
		"bundle": {uninstallEntry{key: code, display: "Setup", version: "1.0.0.0"}, []transport.Software{
			{ID: code, Name: code, Version: "1.0.0.0", Source: "uninstall"}, {ID: code, Name: "Setup", Version: "1.0.0.0", Source: "program"}}},
		"settings": {uninstallEntry{key: "AddressBook"}, nil},
		"update":   {uninstallEntry{key: "KB1", display: "Update", parent: "OperatingSystem"}, nil},
		"hotfix":   {uninstallEntry{key: "KB1", display: "Update", releaseType: "Hotfix"}, nil},
	} {
		require.Equal(t, c.want, c.in.software(), name)
	}
}
