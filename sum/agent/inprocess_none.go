//go:build !linux && !darwin

package agent

import "os"

func holdOutput(*os.File) error       { return errPlatform("locking files") }
func (h home) outputHeld(string) bool { return false }
