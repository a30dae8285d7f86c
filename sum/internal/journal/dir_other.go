//go:build !unix

package journal

import (
	"os"
	"syscall"
)

// makeDir creates the directory. Who may write it follows from the access list
// that it inherits: the caller chooses a place below a private one.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return checkDir(dir)
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	return nil
}

// syncDir does nothing: NTFS journals its names itself, and directories cannot
// be flushed.
func syncDir(string) error { return nil }

// isGone says no: here no other process inherits a lock.
func isGone(int) bool { return false }
