package firewall

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLock: one at a time, though the file goes and comes, and nothing is left.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	var inside, total atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 50 {
				_, unlock, err := lock(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				total.Add(1)
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 400, total.Load())
	require.NoFileExists(t, path)
}

func TestLockHonoursContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	_, unlock, err := lock(t.Context(), path)
	require.NoError(t, err)
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = lock(ctx, path)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "held by another manager")
}

// TestLockFollowsNoLink: the file is made by root where others may write.
func TestLockFollowsNoLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	target := filepath.Join(t.TempDir(), "target")
	require.NoError(t, os.Symlink(target, path))
	_, _, err := lock(t.Context(), path)
	require.ErrorIs(t, err, unix.ELOOP)
	require.NoFileExists(t, target)
}

// TestLockOutlivesItsProcess: while a program that was started with it runs.
func TestLockOutlivesItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	file, _, err := lock(t.Context(), path)
	require.NoError(t, err)
	cmd := exec.Command("cat")
	cmd.ExtraFiles = []*os.File{file}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, file.Close()) // as the kernel does when this process dies
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = lock(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	_, unlock, err := lock(t.Context(), path)
	require.NoError(t, err)
	unlock()
	require.NoFileExists(t, path)
}
