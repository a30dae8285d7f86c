//go:build linux || darwin

package agent

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fileHeld reports whether a process has a file locked (flock), or whether that
// cannot be found out.
func fileHeld(name string) bool {
	file, err := os.Open(name)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer file.Close()
	// Shared, so that those who look do not take each other for the holder.
	return unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// holdHost locks the file by which a job holds the host by a descriptor that can only
// read it, for the program to inherit; on a file system where that cannot be (flock(2),
// of NFS), by the one that writes, and then it returns nil.
func holdHost(file *os.File) (*os.File, error) {
	held, err := os.Open(file.Name())
	if err != nil {
		return nil, err
	}
	if err := holdOutput(held); err == nil {
		return held, nil
	}
	_ = held.Close()
	return nil, holdOutput(file)
}

// groupAlive reports whether the process group that a process led still has
// members, now that the process itself is gone. Its number is not given to a new
// process as long.
func groupAlive(leader int) bool {
	if processStart(leader) != "" {
		return false // another process has the number
	}
	err := unix.Kill(-leader, 0)
	return err == nil || err == unix.EPERM
}
