package journal

import (
	"time"

	"golang.org/x/sys/windows"
)

// processStart returns when this process began, or zero.
func processStart() time.Time {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &created, &exited, &kernel, &user); err != nil {
		return time.Time{}
	}
	return time.Unix(0, created.Nanoseconds())
}
