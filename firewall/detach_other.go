//go:build !windows

package firewall

import "os/exec"

// detach is for Windows.
func detach(*exec.Cmd) {}
