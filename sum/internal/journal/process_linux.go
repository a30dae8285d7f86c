package journal

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"
)

// processStart returns when this process began, to the hundredth of a second,
// or zero: field 22 of proc_pid_stat(5), in clock ticks after the boot. Linux
// shows user space 100 ticks a second on every architecture that Go has.
func processStart() time.Time {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return time.Time{}
	}
	// The name, field 2, may hold spaces and parentheses.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}
	}
	all, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(all)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			boot, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return time.Time{}
			}
			return time.Unix(boot, 0).Add(time.Duration(ticks) * (time.Second / 100))
		}
	}
	return time.Time{}
}
