//go:build !linux

package firewall

import (
	"context"
	"errors"
	"runtime"
)

// system is this host's own firewall.
func system(ctx context.Context, o Options) (Driver, error) {
	e := &Error{Kind: errors.ErrUnsupported, Detail: "this package cannot open the firewall of " + runtime.GOOS}
	e.Hint = byHand(found(ctx), o.Rules)
	return nil, e
}

// found is what front ends there are.
func found(context.Context) []FrontEnd {
	if runtime.GOOS == "windows" {
		return []FrontEnd{Windows}
	}
	return nil
}
