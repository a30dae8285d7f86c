//go:build !windows

package smb

import (
	"context"
	"errors"
)

const isWindows = false

func nativeInUse(error) bool    { return false }
func nativePipeBusy(error) bool { return false }

// dialNative is for a manager on Windows.
func dialNative(context.Context, string, string, uint16, Options) (*conn, error) {
	return nil, errors.ErrUnsupported
}
