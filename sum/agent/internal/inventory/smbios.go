package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Bounds of the tables of SMBIOS. Those of large servers have some 100 kB.
const (
	maxSMBIOS     = 4 << 20
	maxStructures = 64 << 10
)

// smbios is what an inventory takes from the tables of the system firmware, as
// DMTF DSP0134, System Management BIOS Reference Specification, lays them out.
type smbios struct {
	biosVendor, biosVersion, biosRelease, biosDate string

	vendor, product, serial string
	uuid                    string // lower-case

	board, chassis smbiosPart
	// onboard has what the maker calls devices on the board, by PCI address.
	onboard map[string]string
}

// smbiosPart is a part that has a label of its own.
type smbiosPart struct{ vendor, product, version, serial string }

// String is empty where the firmware does not tell of the part.
func (p smbiosPart) String() string {
	s := strings.Join(slices.DeleteFunc([]string{p.vendor, p.product, p.version}, func(s string) bool { return s == "" }), " ")
	if p.serial != "" {
		s = strings.TrimSpace(s + ", serial number " + p.serial)
	}
	return s
}

var errTruncated = errors.New("ends in the middle")

// parseRawSMBIOS reads the tables as GetSystemFirmwareTable hands them out
// (RawSMBIOSData).
func parseRawSMBIOS(raw []byte) (smbios, error) {
	if len(raw) < 8 {
		return smbios{}, fmt.Errorf("SMBIOS table of %d bytes: %w", len(raw), errTruncated)
	}
	n := binary.LittleEndian.Uint32(raw[4:])
	if uint64(n) > uint64(len(raw)-8) {
		return smbios{}, fmt.Errorf("SMBIOS table of %d bytes has %d: %w", n, len(raw)-8, errTruncated)
	}
	return parseSMBIOS(raw[8:8+n], raw[1], raw[2])
}

// parseSMBIOS reads a table of structures in the given version of SMBIOS. With an
// error it returns what was found before it.
func parseSMBIOS(table []byte, major, minor byte) (smbios, error) {
	var out smbios
	if len(table) > maxSMBIOS {
		return out, fmt.Errorf("SMBIOS table of %d bytes: %w", len(table), errTooLong)
	}
	seen := map[byte]bool{}
	for count, rest := 0, table; len(rest) > 0; count++ {
		if count == maxStructures {
			return out, fmt.Errorf("more than %d SMBIOS structures: %w", maxStructures, errTooLong)
		}
		var s smbiosStructure
		var ok bool
		if s, rest, ok = nextStructure(rest); !ok {
			return out, fmt.Errorf("structure %d of SMBIOS: %w", count, errTruncated)
		}
		kind := s.data[0]
		if kind == 127 { // the end; what follows is padding
			break
		}
		if kind == 41 {
			out.addOnboard(s)
			continue
		}
		// Of the others the first is the system's own: a second one belongs to a part
		// of it.
		if seen[kind] {
			continue
		}
		seen[kind] = true
		part := smbiosPart{vendor: s.text(4), product: s.text(5), version: s.text(6), serial: s.text(7)}
		switch kind {
		case 0:
			out.biosVendor, out.biosVersion, out.biosDate = s.text(4), s.text(5), s.text(8)
			if len(s.data) > 0x15 && s.data[0x14] != 0xff && s.data[0x15] != 0xff {
				out.biosRelease = fmt.Sprintf("%d.%d", s.data[0x14], s.data[0x15])
			}
		case 1:
			out.vendor, out.product, out.serial = part.vendor, part.product, part.serial
			if len(s.data) >= 0x18 {
				out.uuid = smbiosUUID(s.data[8:0x18], major > 2 || major == 2 && minor >= 6)
			}
		case 2:
			out.board = part
		case 3:
			part.product = "" // the byte is the type of the chassis
			out.chassis = part
		}
	}
	return out, nil
}

// smbiosStructure is one structure: its formatted area, which includes a header of
// at least 4 bytes, and its texts.
type smbiosStructure struct {
	data  []byte
	texts []byte // each ends with a zero
}

// nextStructure cuts the first structure off a table.
func nextStructure(table []byte) (s smbiosStructure, rest []byte, ok bool) {
	if len(table) < 4 || table[1] < 4 || int(table[1]) > len(table) {
		return s, nil, false
	}
	s.data, rest = table[:table[1]], table[table[1]:]
	// Two zeros end the texts, also where there are none.
	for i := 0; i+1 < len(rest); i++ {
		if rest[i] == 0 && rest[i+1] == 0 {
			s.texts = rest[:i+1]
			return s, rest[i+2:], true
		}
	}
	return s, nil, false
}

// text returns the text whose number, from 1, is at an offset.
func (s smbiosStructure) text(at int) string {
	if at >= len(s.data) || s.data[at] == 0 {
		return ""
	}
	rest := string(s.texts)
	for range s.data[at] - 1 {
		_, rest, _ = strings.Cut(rest, "\x00")
	}
	first, _, _ := strings.Cut(rest, "\x00")
	return clean(first)
}

// addOnboard adds a structure of type 41, Onboard Devices Extended Information.
func (b *smbios) addOnboard(s smbiosStructure) {
	label := s.text(4)
	if len(s.data) < 11 || label == "" {
		return
	}
	segment, bus, devfn := binary.LittleEndian.Uint16(s.data[7:]), s.data[9], s.data[10]
	if b.onboard == nil {
		b.onboard = map[string]string{}
	}
	b.onboard[formatPCI(uint32(segment), uint32(bus), uint32(devfn>>3), uint32(devfn&7))] = label
}

// smbiosUUID formats a UUID, the first three fields of which are little-endian from
// SMBIOS 2.6 on. One of equal bits is none.
func smbiosUUID(b []byte, littleEndian bool) string {
	u := slices.Clone(b)
	if same := u[0]; (same == 0 || same == 0xff) && !slices.ContainsFunc(u, func(c byte) bool { return c != same }) {
		return ""
	}
	if littleEndian {
		slices.Reverse(u[:4])
		slices.Reverse(u[4:6])
		slices.Reverse(u[6:8])
	}
	h := hex.EncodeToString(u)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

var romFamily = regexp.MustCompile(`^[A-Z][0-9]{2}$`)

// biosVersion returns the version of a BIOS. HPE's tell only the ROM family in
// the field for the version ("U30"); the version is then in the release and
// date, and together they are what HPE's own tools show: "U30 2.36 07/16/2020".
func biosVersion(vendor, version, release, date string) string {
	if (vendor == "HP" || vendor == "HPE") && romFamily.MatchString(version) {
		return strings.Join(strings.Fields(version+" "+release+" "+date), " ")
	}
	return version
}
