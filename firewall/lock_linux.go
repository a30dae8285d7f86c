package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lock takes the lock file, which excludes the other managers of this host while
// what they share changes. The file goes with the lock; whoever waited for it
// meanwhile notices and makes a new one. After a crash the lock is free, and the
// file stays, empty, until the next one.
//
// A program that changes what is shared is started with the file: so the lock
// outlives this process if the program does.
func lock(ctx context.Context, path string) (file *os.File, unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("lock against other managers: %w", err)
		}
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
				break
			}
			select {
			case <-ctx.Done():
				f.Close()
				return nil, nil, fmt.Errorf("lock %s, held by another manager: %w", path, context.Cause(ctx))
			case <-time.After(5 * time.Millisecond):
			}
		}
		if err != nil {
			f.Close()
			return nil, nil, fmt.Errorf("lock %s: %w", path, err)
		}
		locked, err1 := f.Stat()
		there, err2 := os.Lstat(path)
		if err1 == nil && err2 == nil && os.SameFile(locked, there) {
			return f, func() {
				_ = os.Remove(path) // while it is still locked
				f.Close()
			}, nil
		}
		f.Close() // its holder has removed it
	}
}
