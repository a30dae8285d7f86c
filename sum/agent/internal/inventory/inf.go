package inventory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// maxINF bounds how much of an INF file is read. The section that is looked for is
// the first one in practice.
const maxINF = 8 << 20

// infVersion returns the version of a driver package, which is in the DriverVer
// directive ("07/16/2020,2.1.18.45") of the section [Version] of its INF file. A
// package without one has no version.
func infVersion(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxINF))
	if err != nil {
		return "", err
	}
	section := ""
	for line := range strings.Lines(infText(b)) {
		line, _, _ = strings.Cut(line, ";")
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section, _, _ = strings.Cut(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !strings.EqualFold(strings.TrimSpace(section), "Version") || !strings.EqualFold(strings.TrimSpace(key), "DriverVer") {
			continue
		}
		_, version, _ := strings.Cut(value, ",")
		version = strings.Trim(version, " \t\"")
		if strings.Trim(version, "0123456789.") != "" {
			return "", fmt.Errorf("DriverVer = %.80q names no version", value)
		}
		return version, nil
	}
	return "", nil
}

// infText decodes an INF file: UTF-16 with a byte order mark, or something whose
// directives are ASCII.
func infText(b []byte) string {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	default:
		return string(bytes.TrimPrefix(b, []byte("\ufeff")))
	}
	b = b[2:]
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}
