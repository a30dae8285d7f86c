//go:build !linux && !windows

package agent

import (
	"os"
	"os/exec"
)

// umask returns the umask of this process, or -1: to ask the system takes setting
// another one, for all threads.
func umask() int { return -1 }

func startWithUmask(cmd *exec.Cmd) error { return startByShell(cmd) }

func runningProgram() (string, error) { return os.Executable() }
