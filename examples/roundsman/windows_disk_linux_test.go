package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ownDisk mounts the disk that agents are on, in the mount namespace of this process.
func (h *winHost) ownDisk(t *testing.T) {
	t.Helper()
	require.NoError(t, os.MkdirAll(h.path("windows", "roundsman"), 0o700))
	h.mount(t, "-t", "tmpfs", "-o", diskSize+",mode=700", "none")
	// What is mounted cannot be removed, which looks like a directory in use. And there
	// is no disk without any room.
	require.NoError(t, os.WriteFile(h.path("windows", "roundsman", diskFile), []byte("x"), 0o600))
	t.Cleanup(func() {
		out, err := exec.Command("umount", "-l", h.path("windows", "roundsman")).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}

const (
	diskSize = "size=200m"
	diskFile = ".disk"
)

func (h *winHost) mount(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), "mount", append(args, h.path("windows", "roundsman"))...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// fillDisk leaves no room on that disk, without writing to it: it becomes as small as
// what is on it.
func (h *winHost) fillDisk(t *testing.T) {
	t.Helper()
	var st unix.Statfs_t
	for range 10 { // again where something was written in between
		require.NoError(t, unix.Statfs(h.path("windows", "roundsman"), &st))
		size := uint64(st.Bsize) * (st.Blocks - st.Bfree)
		out, err := exec.Command("mount", "-o", fmt.Sprintf("remount,size=%d", size), h.path("windows", "roundsman")).CombinedOutput()
		if err == nil {
			return
		}
		t.Logf("%s", out)
	}
	require.Fail(t, "the disk does not become full")
}

// freeDisk makes room again.
func (h *winHost) freeDisk(t *testing.T) { h.mount(t, "-o", "remount,"+diskSize) }
