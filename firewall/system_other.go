//go:build !linux

package firewall

import (
	"context"
	"errors"
	"runtime"
)

// system is this host's own firewall.
func system(_ context.Context, o Options) (Driver, error) {
	e := &Error{Kind: errors.ErrUnsupported, Detail: "this package cannot open the firewall of " + runtime.GOOS}
	if runtime.GOOS == "windows" {
		e.Hint = byHand([]FrontEnd{Windows}, o.Rules)
	}
	return nil, e
}
