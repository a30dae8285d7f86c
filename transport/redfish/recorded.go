package redfish

import (
	"context"
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/transport"
)

var errNotRecorded = errors.New("no key is recorded for it")

// Recorded returns a Trust.FirstUse that trusts the targets of which the file of [AcceptNew]
// has the key, and no other. It writes nothing. People can write such a file, too: an
// address with its port and a fingerprint ("SHA256:" and base64, as errors of package
// transport tell it) on each line.
func Recorded(file string) transport.FirstUse {
	return func(_ context.Context, seen transport.SeenIdentity) error {
		data, err := readPins(file)
		if err != nil {
			return err
		}
		known, err := findPin(data, seen.Address)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", file, err)
		case known == "":
			return fmt.Errorf("%s: %w", file, errNotRecorded)
		case known != seen.Fingerprint:
			return fmt.Errorf("%s: %w: %s", file, errOtherKey, known)
		}
		return nil
	}
}
