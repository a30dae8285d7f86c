//go:build !linux && !darwin && !windows

package agent

import "os"

func fileHeld(string) bool { return false }
func groupAlive(int) bool  { return false }

func holdHost(*os.File) (*os.File, error) { return nil, errPlatform("locking files") }
