//go:build !linux && !windows

package portalloc

import (
	"context"
	"errors"
)

func findHolders(ctx context.Context, ports map[uint16][]Holder) error {
	return errors.ErrUnsupported
}
