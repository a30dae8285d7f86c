package install

import "time"

// keepSeconds is StartOptions.KeepLogs in whole seconds, rounded up: it must not
// become 0, which is the default.
func keepSeconds(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return int64(d/time.Second) + int64(min(d%time.Second, 1))
}
