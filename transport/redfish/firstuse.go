package redfish

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/internal/firstuse"
)

// errOtherKey: another key is recorded for a target.
var errOtherKey = errors.New("another key is recorded for it")

// maxPins bounds the file of recorded keys, in bytes.
const maxPins = 16 << 20

// AcceptNew returns a Trust.FirstUse that trusts what an unknown target shows and
// records it in a file, as OpenSSH does with StrictHostKeyChecking=accept-new. From
// then on the target is held to it: another key is ErrTrust until somebody removes
// the line. A line holds the address and the fingerprint of the public key; the file is
// made with mode 0600 if it does not exist. The function may be shared by all dials, and
// the file by several processes: beside it lies a lock file, "name.lock".
//
// Whoever answers at the first dial is trusted for good. It is no more secure than the
// network is at that time.
func AcceptNew(file string) transport.FirstUse {
	return func(ctx context.Context, seen transport.SeenIdentity) error {
		return firstuse.Record(ctx, file, func() (string, error) {
			data, err := readPins(file)
			if err != nil {
				return "", err
			}
			known, err := findPin(data, seen.Address)
			switch {
			case err != nil:
				return "", fmt.Errorf("%s: %w", file, err)
			case known == seen.Fingerprint:
				return "", nil
			case known != "":
				return "", fmt.Errorf("%s: %w: %s", file, errOtherKey, known)
			}
			return seen.Address + " " + seen.Fingerprint, nil
		})
	}
}

func readPins(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPins {
		return nil, fmt.Errorf("%s has more than %d bytes", file, maxPins)
	}
	return os.ReadFile(file)
}

// findPin returns the fingerprint that is recorded for an address, or "". A file in
// which two are is no good: whoever wrote it did not mean that either will do.
func findPin(data []byte, address string) (string, error) {
	found := ""
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.HasPrefix(fields[1], "SHA256:") {
			return "", fmt.Errorf("line %d: want an address and a fingerprint", n)
		}
		if !strings.EqualFold(fields[0], address) {
			continue
		}
		if found != "" && found != fields[1] {
			return "", fmt.Errorf("line %d: two keys for %s", n, address)
		}
		found = fields[1]
	}
	return found, lines.Err()
}
