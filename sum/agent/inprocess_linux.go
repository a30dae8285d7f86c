package agent

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// umask returns the umask of this process (proc(5), status), or -1. To ask the
// system takes setting another one, for all threads.
func umask() int {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte("Umask:")); ok {
			if n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 8, 16); err == nil {
				return int(n)
			}
		}
	}
	return -1
}

// startWithUmask starts a program with installerUmask. A thread that no longer
// shares its file system attributes with others (unshare(2)) has an umask of its
// own; it ends with its goroutine.
func startWithUmask(cmd *exec.Cmd) error {
	answer := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end. While this goroutine has it, the next is on
			// another.
			answer <- startWithUmask(cmd)
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			runtime.UnlockOSThread()
			answer <- startByShell(cmd) // a container may forbid it
			return
		}
		unix.Umask(installerUmask)
		answer <- cmd.Start()
	}()
	return <-answer
}

// runningProgram is the program of this process, also where its file was replaced,
// by a name that others may use as long as this process runs.
func runningProgram() (string, error) {
	self := fmt.Sprintf("/proc/%d/exe", os.Getpid())
	if _, err := os.Stat(self); err == nil {
		return self, nil
	}
	return os.Executable()
}
