//go:build !linux && !windows

package firewall

import (
	"context"
	"errors"
	"runtime"
)

// system is this host's own firewall.
func system(context.Context, Options) (Driver, error) {
	return nil, &Error{Kind: errors.ErrUnsupported, Detail: "this package cannot open the firewall of " + runtime.GOOS}
}

// found is what front ends there are.
func found(context.Context) []FrontEnd { return nil }
