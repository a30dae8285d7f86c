package inventory

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// structure makes one of SMBIOS, whose formatted area begins after the header.
func structure(kind byte, formatted []byte, texts ...string) []byte {
	b := append([]byte{kind, byte(4 + len(formatted)), 1, 0}, formatted...)
	for _, s := range texts {
		b = append(append(b, s...), 0)
	}
	if len(texts) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// smbiosTable is that of a made-up ProLiant.
func smbiosTable() []byte {
	bios := make([]byte, 20)
	copy(bios, []byte{1, 2, 0, 0, 3})
	bios[16], bios[17] = 2, 36
	system := append([]byte{1, 2, 0, 3}, // then the UUID of the specification's example
		0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 6, 4, 5)
	var table []byte
	for _, s := range [][]byte{
		structure(0, bios, "HPE", "U30", "07/16/2020"),
		structure(1, system, "HPE", "ProLiant DL380 Gen10", "CZ1234ABCD      ", "868703-B21", "ProLiant"),
		structure(2, []byte{1, 2, 0, 3}, "HPE", "ProLiant DL380 Gen10", "PWBX0"),
		structure(3, []byte{1, 2, 0, 2, 0}, "HPE", "CZ1234ABCD"),
		structure(17, make([]byte, 36)),
		structure(2, []byte{1, 2, 0, 3}, "Other", "Riser", "X"),
		structure(41, []byte{1, 0x85, 2, 0, 0, 0x37, 1}, "Embedded LOM 1 Port 2"),
		structure(41, []byte{1, 0x85, 2, 1, 0, 0xff, 0xff}, "Other segment"),
		structure(41, []byte{1, 0x85}, "Too short"),
		structure(127, nil),
		{1, 2, 3},
	} {
		table = append(table, s...)
	}
	return table
}

func TestSMBIOS(t *testing.T) {
	want := smbios{
		biosVendor: "HPE", biosVersion: "U30", biosRelease: "2.36", biosDate: "07/16/2020",
		vendor: "HPE", product: "ProLiant DL380 Gen10", serial: "CZ1234ABCD", uuid: "00112233-4455-6677-8899-aabbccddeeff",
		board:   smbiosPart{"HPE", "ProLiant DL380 Gen10", "", "PWBX0"},
		chassis: smbiosPart{"HPE", "", "", "CZ1234ABCD"},
		onboard: map[string]string{"0000:37:00.1": "Embedded LOM 1 Port 2", "0001:ff:1f.7": "Other segment"},
	}
	got, err := parseSMBIOS(smbiosTable(), 3, 2)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, "HPE ProLiant DL380 Gen10, serial number PWBX0", got.board.String())
	require.Empty(t, smbiosPart{}.String())

	raw := binary.LittleEndian.AppendUint32([]byte{0, 2, 6, 0}, uint32(len(smbiosTable())))
	raw = append(raw, smbiosTable()...)
	got, err = parseRawSMBIOS(raw)
	require.NoError(t, err)
	require.Equal(t, want, got)
	raw[2] = 5
	got, err = parseRawSMBIOS(raw)
	require.NoError(t, err)
	require.Equal(t, "33221100-5544-7766-8899-aabbccddeeff", got.uuid, "before SMBIOS 2.6")
	for n := range raw {
		_, err := parseRawSMBIOS(raw[:n])
		require.ErrorIs(t, err, errTruncated)
	}
}

func TestSMBIOSThatIsCutShort(t *testing.T) {
	table := smbiosTable()
	for n := range table {
		_, err := parseSMBIOS(table[:n], 3, 0)
		if err != nil {
			require.ErrorIs(t, err, errTruncated)
		}
	}
	got, err := parseSMBIOS(table[:strings.Index(string(table), "Too short")+3], 3, 0)
	require.ErrorIs(t, err, errTruncated)
	require.Equal(t, "U30", got.biosVersion, "what was found is kept")
	_, err = parseSMBIOS(make([]byte, maxSMBIOS+1), 3, 0)
	require.ErrorIs(t, err, errTooLong)
	_, err = parseSMBIOS([]byte(strings.Repeat("\x7e\x04\x00\x00\x00\x00", maxStructures+1)), 3, 0)
	require.ErrorIs(t, err, errTooLong)
}

func TestSMBIOSWithoutValues(t *testing.T) {
	for _, fill := range []byte{0, 0xff} {
		system := []byte{9, 0, 0, 2} // a text that is not there
		for range 16 {
			system = append(system, fill)
		}
		got, err := parseSMBIOS(append(structure(1, system, "Vendor", "S\x01N"), structure(0, []byte{1}, "B")...), 3, 0)
		require.NoError(t, err)
		require.Equal(t, smbios{serial: "SN", biosVendor: "B"}, got)
	}
}

func TestBIOSVersion(t *testing.T) {
	require.Equal(t, "U30 2.36 07/16/2020", biosVersion("HPE", "U30", "2.36", "07/16/2020"))
	require.Equal(t, "2.4.1", biosVersion("Other Inc.", "2.4.1", "2.4", "07/01/2015"))
}

// TestSMBIOSOfThisHost compares with what the kernel of Linux makes of the same bytes.
func TestSMBIOSOfThisHost(t *testing.T) {
	table, err := os.ReadFile("/sys/firmware/dmi/tables/DMI")
	if err != nil {
		t.Skip("this host shows no tables of SMBIOS: ", err)
	}
	entry, err := os.ReadFile("/sys/firmware/dmi/tables/smbios_entry_point")
	require.NoError(t, err)
	version := entry[6:8] // of _SM_
	if strings.HasPrefix(string(entry), "_SM3_") {
		version = entry[7:9]
	}
	got, err := parseSMBIOS(table, version[0], version[1])
	require.NoError(t, err)
	for name, value := range map[string]string{
		"bios_vendor": got.biosVendor, "bios_version": got.biosVersion, "bios_date": got.biosDate, "bios_release": got.biosRelease,
		"sys_vendor": got.vendor, "product_name": got.product, "product_serial": got.serial, "product_uuid": got.uuid,
		"board_vendor": got.board.vendor, "board_name": got.board.product, "board_serial": got.board.serial,
		"chassis_vendor": got.chassis.vendor, "chassis_serial": got.chassis.serial,
	} {
		want, err := os.ReadFile("/sys/class/dmi/id/" + name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, clean(string(want)), value, name)
	}
}

func FuzzSMBIOS(f *testing.F) {
	table := smbiosTable()
	f.Add(append(binary.LittleEndian.AppendUint32([]byte{0, 3, 2, 0}, uint32(len(table))), table...))
	f.Add([]byte{0, 2, 4, 0, 6, 0, 0, 0, 0, 4, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := parseRawSMBIOS(b)
		for _, s := range []string{got.vendor, got.serial, got.biosVersion, got.board.product, got.chassis.serial} {
			require.Equal(t, s, clean(s))
		}
		require.Contains(t, []int{0, 36}, len(got.uuid))
	})
}
