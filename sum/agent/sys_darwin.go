package agent

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// processStart tells one process from a later one with the same number: the time
// of its start, in microseconds. It is "" when there is no such process, or only
// its zombie.
func processStart(pid int) string {
	const zombie = 5 // SZOMB of sys/proc.h
	p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(p.Proc.P_pid) != pid || p.Proc.P_stat == zombie {
		return ""
	}
	t := p.Proc.P_starttime
	return strconv.FormatInt(t.Sec*1e6+int64(t.Usec), 10)
}

// bootID differs after every boot.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}

// spareReader needs the proc file system.
func spareReader(*os.File) *os.File { return nil }

// logTo is for systemd, which is not there.
func logTo(home) error { return errors.ErrUnsupported }
