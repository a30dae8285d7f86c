package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// record is what rec and listScript print about a file.
type record struct {
	mode    fs.FileMode
	size    int64
	modTime time.Time
	name    string
}

var errRecord = errors.New("malformed file record")

// parseRecords parses records, each with a NUL byte at its end.
func parseRecords(out string) ([]record, error) {
	var recs []record
	for out != "" {
		one, rest, ok := strings.Cut(out, "\x00")
		if !ok {
			return nil, fmt.Errorf("%w: no end", errRecord)
		}
		out = rest
		r, err := parseRecord(one)
		if err != nil {
			return nil, err
		}
		recs = append(recs, r)
	}
	return recs, nil
}

// parseRecord parses "FORM MODE SIZE MTIME NAME", in which NAME may hold any byte.
func parseRecord(s string) (record, error) {
	var r record
	bad := fmt.Errorf("%w %.80q", errRecord, s)
	fields := strings.SplitN(s, " ", 5)
	if len(fields) != 5 || fields[4] == "" || strings.Contains(fields[4], "/") {
		return r, bad
	}
	r.name = fields[4]
	var ok bool
	switch form, mode := fields[0], fields[1]; form {
	case "x": // st_mode in hexadecimal
		n, err := strconv.ParseUint(mode, 16, 32)
		r.mode, ok = unixMode(uint32(n)), err == nil
	case "f": // the type as find writes it, and the permissions in octal
		if mode == "" {
			return r, bad
		}
		n, err := strconv.ParseUint(mode[1:], 8, 16)
		r.mode, ok = unixMode(findType(mode[0])|uint32(n)), err == nil
	case "l": // as ls writes it
		r.mode, ok = lsMode(mode)
	}
	if !ok {
		return r, bad
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil && fields[0] == "l" {
		size, err = 0, nil // ls shows the numbers of a device instead
	}
	if err != nil || size < 0 {
		return r, bad
	}
	r.size = size
	if r.modTime, ok = unixTime(fields[3]); !ok {
		return r, bad
	}
	return r, nil
}

// unixTime parses seconds since 1970, with or without a fraction; "0" as the
// scripts write it where they do not know is the zero time.
func unixTime(s string) (time.Time, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec > math.MaxInt32*1000 || sec < -math.MaxInt32*1000 {
		return time.Time{}, false
	}
	if s == "0" {
		return time.Time{}, true
	}
	frac = (frac + "000000000")[:9]
	nsec, err := strconv.ParseUint(frac, 10, 32)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(sec, int64(nsec)), true
}

// The bits of st_mode (POSIX <sys/stat.h>, with the values that all systems share).
const (
	sIFMT, sIFIFO, sIFCHR, sIFDIR, sIFBLK = 0o170000, 0o010000, 0o020000, 0o040000, 0o060000
	sIFREG, sIFLNK, sIFSOCK               = 0o100000, 0o120000, 0o140000
	sISUID, sISGID, sISVTX, sPerm         = 0o4000, 0o2000, 0o1000, 0o777
)

func unixMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & sPerm)
	switch m & sIFMT {
	case sIFREG:
	case sIFDIR:
		mode |= fs.ModeDir
	case sIFLNK:
		mode |= fs.ModeSymlink
	case sIFIFO:
		mode |= fs.ModeNamedPipe
	case sIFSOCK:
		mode |= fs.ModeSocket
	case sIFBLK:
		mode |= fs.ModeDevice
	case sIFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	default:
		mode |= fs.ModeIrregular
	}
	for bit, flag := range map[uint32]fs.FileMode{sISUID: fs.ModeSetuid, sISGID: fs.ModeSetgid, sISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// findType is the file type for a letter of find and ls.
func findType(c byte) uint32 {
	switch c {
	case 'f', '-':
		return sIFREG
	case 'd':
		return sIFDIR
	case 'l':
		return sIFLNK
	case 'p':
		return sIFIFO
	case 's':
		return sIFSOCK
	case 'b':
		return sIFBLK
	case 'c':
		return sIFCHR
	}
	return 0
}

// lsMode parses "drwxr-xr-x" (POSIX ls).
func lsMode(s string) (fs.FileMode, bool) {
	if len(s) < 10 {
		return 0, false
	}
	m := findType(s[0])
	for i := range 9 {
		bit := uint32(1) << (8 - i)
		special := uint32(sISUID) >> (i / 3)
		switch c := s[1+i]; {
		case c == "rwx"[i%3]:
			m |= bit
		case c == '-':
		case i%3 == 2 && (c == 's' || c == 't'):
			m |= bit | special
		case i%3 == 2 && (c == 'S' || c == 'T'):
			m |= special
		default:
			return 0, false
		}
	}
	return unixMode(m), true
}

func (r record) info(dir string) transport.FileInfo {
	return transport.FileInfo{Name: r.name, Native: join(dir, r.name), Size: r.size, Mode: r.mode, ModTime: r.modTime}
}
