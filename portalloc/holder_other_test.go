//go:build !linux && !windows

package portalloc

import "testing"

// Neither is asked for where no holder is found.
func programName(t *testing.T) string { return "" }
func tellsOwners() bool               { return false }
