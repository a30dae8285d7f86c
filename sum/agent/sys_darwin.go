package agent

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// lookAtProcess tells one process from a later one with the same number: by the time
// of its start, in microseconds. It is "" when there is no such process, or only
// its zombie. An error is that this could not be found out.
func lookAtProcess(pid int) (start string, err error) {
	const zombie = 5 // SZOMB of sys/proc.h
	p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		if unix.Kill(pid, 0) == unix.ESRCH {
			return "", nil
		}
		return "", err
	}
	if int(p.Proc.P_pid) != pid || p.Proc.P_stat == zombie {
		return "", nil
	}
	t := p.Proc.P_starttime
	return strconv.FormatInt(t.Sec*1e6+int64(t.Usec), 10), nil
}

// pidNamespace is for Linux.
func pidNamespace() string { return "" }

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
