package ssh_test

import (
	"syscall"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/stretchr/testify/require"
)

// tmpfs mounts a small file system for the test.
func tmpfs(t *testing.T, options string) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		realtest.Missing(t, "the right to mount: "+err.Error())
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}
