package inventory

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of dpkg's status file. Large desktops have some 10 MB.
const (
	maxDpkgStatus = 256 << 20
	maxDpkgLine   = 64 << 10 // longer lines (dependencies, file lists) are passed over
)

var errTooLong = errors.New("longer than any real one")

// ParseDpkgStatus reads a status file (dpkg's database: stanzas as in deb822(5))
// and calls found for each package whose state is "installed", or differs from it
// by triggers that are still to be run, whether it is on hold or not. Packages that are unpacked only, half installed or removed are
// passed over. The file is read as a stream.
func ParseDpkgStatus(r io.Reader, found func(transport.Software)) error {
	limited := &io.LimitedReader{R: r, N: maxDpkgStatus + 1}
	br := bufio.NewReaderSize(limited, maxDpkgLine)
	var cur transport.Software
	var status string
	count := 0
	flush := func() error {
		defer func() { cur, status = transport.Software{}, "" }()
		if cur.Name == "" || cur.Version == "" || !dpkgInstalled(status) {
			return nil
		}
		if count++; count > maxSoftware {
			return fmt.Errorf("more than %d packages: %w", maxSoftware, errTooLong)
		}
		cur.Source = "dpkg"
		found(cur)
		return nil
	}
	for {
		line, err := readLine(br)
		if err != nil && err != io.EOF {
			return err
		}
		if limited.N <= 0 {
			return fmt.Errorf("status file: %w", errTooLong)
		}
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			if ferr := flush(); ferr != nil {
				return ferr
			}
		case line[0] == ' ' || line[0] == '\t': // continues a field that is not needed
		default:
			name, value, _ := bytes.Cut(line, []byte(":"))
			v := string(bytes.TrimSpace(value))
			// Field names are compared without case, as dpkg does.
			switch strings.ToLower(string(name)) {
			case "package":
				cur.Name = v
			case "version":
				cur.Version = v
			case "architecture":
				cur.Arch = v
			case "status":
				status = v
			}
		}
		if err == io.EOF {
			return flush()
		}
	}
}

// dpkgInstalled judges a Status field: what is wanted, an error flag, the state.
func dpkgInstalled(status string) bool {
	f := strings.Fields(status)
	if len(f) != 3 || f[1] != "ok" {
		return false
	}
	switch f[2] {
	case "installed", "triggers-awaited", "triggers-pending":
		// A package whose triggers are still to be run was unpacked and configured.
		return true
	}
	return false
}

// readLine returns the next line, or the part of it that fits the buffer. The
// bytes are valid until the next call.
func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, err
	}
	// The rest is read over. What was read may be overwritten then, and only the
	// first bytes, with the field's name and a sane value, matter.
	head := append([]byte(nil), line[:1024]...)
	for err == bufio.ErrBufferFull {
		_, err = br.ReadSlice('\n')
	}
	return head, err
}
