package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// tempDir is t.TempDir, deleted by what Wine 8 knows.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, removeAll(dir)) })
	return dir
}

func TestWindowsLocks(t *testing.T) {
	name := filepath.Join(tempDir(t), "lock")
	_, err := lockFile(name, false)
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, f)
	other, err := lockFile(name, true)
	require.NoError(t, err)
	require.Nil(t, other, "held")
	// What it says can be read, and written, by others meanwhile.
	require.NoError(t, writeLock(f, holder{process: thisProcess()}))
	var h holder
	require.NoError(t, readJSON(name, &h))
	require.True(t, h.sure())

	// Deleted by its holder, it is another file that is locked next.
	require.NoError(t, removeFile(name))
	next, err := lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, next)
	require.NoError(t, f.Close())
	require.NoError(t, next.Close())

	a, err := shareFile(name)
	require.NoError(t, err)
	b, err := shareFile(name)
	require.NoError(t, err)
	require.False(t, tryLock(a))
	require.NoError(t, b.Close())
	require.True(t, tryLock(a))
	require.NoError(t, a.Close())
}
