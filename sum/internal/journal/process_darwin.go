package journal

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// processStart returns when this process began, or zero.
func processStart() time.Time {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", os.Getpid())
	if err != nil {
		return time.Time{}
	}
	return time.Unix(info.Proc.P_starttime.Unix())
}
