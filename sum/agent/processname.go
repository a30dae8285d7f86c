package agent

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ProcessName names this process, for a file that others are to delete when it is gone:
// by its number, and where the system tells them by the time of its start and the boot.
// It can be a part of a file's name.
func ProcessName() string {
	me := thisProcess()
	return strings.Join([]string{strconv.Itoa(me.PID), me.Start, bootID()}, ".")
}

// ProcessGone reports whether the process that a ProcessName names is known to run no
// more. What is no such name is nobody's.
func ProcessGone(name string) bool {
	f := strings.Split(name, ".")
	if len(f) != 3 {
		return false
	}
	pid, err := strconv.Atoi(f[0])
	switch {
	case err != nil || pid <= 0:
		return false
	case f[1] != "" && f[2] != "":
		boot := bootID()
		return boot != "" && f[2] != boot || !process{pid, f[1]}.alive()
	case pid == os.Getpid():
		return false
	}
	p, err := os.FindProcess(pid)
	return err != nil || errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}
