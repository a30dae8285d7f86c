package firewall

import (
	"fmt"
	"regexp"
)

// An Owner is the process whose openings they are. Everything that stands in the
// host's rules bears it, so that an administrator sees whose it is.
type Owner struct {
	Run string // the caller's name for its run: letters, digits, '.', '_'; at most 32
	PID int
	// Start is when the process began: on Linux field 22 of /proc/PID/stat
	// (proc(5), clock ticks after the boot), a dot, and the boot's ID; on
	// Windows the creation time of GetProcessTimes, in units of 100 nanoseconds since
	// 1601. Together with PID it names one process for ever.
	Start string
}

var runName = regexp.MustCompile(`^[A-Za-z0-9._]{1,32}$`)

// String returns the owner as it stands in names and comments, "RUN-PID-START", and of
// the zero Owner, which is in neither, "unknown".
func (o Owner) String() string {
	if o == (Owner{}) {
		return "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", o.Run, o.PID, o.Start)
}
