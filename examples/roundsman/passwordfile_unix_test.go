//go:build unix

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPasswordReaders: of a password file that others can read there is a warning.
func TestPasswordReaders(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	file := filepath.Join(b.dir, "pw")
	require.NoError(t, os.WriteFile(file, []byte("x\n"), 0o600))
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true} {
		require.NoError(t, os.Chmod(file, mode))
		require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--password-file", file, db1), b.errs.String())
		if warned {
			require.Contains(t, b.errs.String(), "chmod 600")
			require.Contains(t, b.errs.String(), "file="+file)
		} else {
			require.Empty(t, b.errs.String())
		}
	}
	require.False(t, readByOthers(filepath.Join(b.dir, "missing")))
	require.False(t, readByOthers(b.dir), "no file")
}
