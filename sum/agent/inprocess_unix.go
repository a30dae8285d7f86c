//go:build linux || darwin

package agent

import (
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// holdOutput locks a job's log (flock). The lock belongs to the open file, which
// the program inherits as its output: it lasts as long as the program, or what that
// leaves behind, has it.
func holdOutput(file *os.File) error { return holdOutputBy(file, unix.Flock) }

// holdProgramOutput is holdOutput. What it returns, if anything, the program has to
// inherit for that.
func holdProgramOutput(file *os.File) (*os.File, error) { return nil, holdOutput(file) }

func holdOutputBy(file *os.File, flock func(fd, how int) error) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(time.Millisecond) {
		err := flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		// Somebody may be looking at this moment.
		if err == nil || err != unix.EINTR && err != unix.EWOULDBLOCK || time.Now().After(end) {
			return wrapFlock(file, err)
		}
	}
}

// outputHeld reports whether a program has the job's log as its output.
func (h home) outputHeld(id string) bool { return fileHeld(h.output(id)) }

func wrapFlock(file *os.File, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "flock", Path: file.Name(), Err: err}
}
