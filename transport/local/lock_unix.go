//go:build unix && !aix

package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock locks a file that is open (flock(2)), as long as it is. Not every file
// system can: there nobody is kept out.
func tryLock(f *os.File) (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lerr error
	if err := raw.Control(func(fd uintptr) { lerr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return false, err
	}
	return lerr != unix.EWOULDBLOCK && lerr != unix.EINTR, nil
}
