// Package firstuse keeps what targets showed at the first use in text files that several
// processes share. What a line says is the driver's.
package firstuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// Record calls decide while no other process of this kind has the file, and adds the line
// that it returns, if it is not "". The lock is a file beside it, "name.lock"; both are made
// with mode 0600 where they do not exist. Waiting for the lock ends with ctx.
func Record(ctx context.Context, file string, decide func() (line string, err error)) error {
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	defer lock.Close()
	if _, err := lock.TryLockContext(ctx, 10*time.Millisecond); err != nil {
		return fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	line, err := decide()
	if err != nil || line == "" {
		return err
	}
	return add(file, line)
}

// add adds a line to a text file, whose last line may lack its end.
func add(file, line string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if err == nil {
		_, err = f.WriteString(line + "\n")
	}
	return errors.Join(err, f.Close())
}
