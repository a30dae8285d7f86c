//go:build !windows

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// What is below is plain on Unix, where a file that is open can be renamed, replaced
// and deleted.

func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

func readFile(name string) ([]byte, error) { return os.ReadFile(name) }
func renameFile(from, to string) error     { return os.Rename(from, to) }
func removeFile(name string) error         { return os.Remove(name) }
func removeAll(name string) error          { return os.RemoveAll(name) }
func emptyFile(f *os.File) error           { return f.Truncate(0) }

// removeWithin is removeAll, and does nothing when ctx has ended.
func removeWithin(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return removeAll(name)
}

// linkProgram gives a program another name.
func linkProgram(program, name string) error { return os.Symlink(program, name) }

// keepOthersOut makes a directory one that only this user can enter.
func keepOthersOut(dir string) error { return os.Chmod(dir, 0o700) }

// keepsOthersOut reports whether a directory is such a one.
func keepsOthersOut(_ string, fi fs.FileInfo) bool { return fi.Mode().Perm()&0o077 == 0 }

// isBusy reports a program that cannot be started as long as somebody has it open to
// write.
func isBusy(err error) bool { return errors.Is(err, syscall.ETXTBSY) }
