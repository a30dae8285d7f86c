package agent

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWallsMark: the mark of changes of the firewall stays while anybody has it, and
// what one had changed who was killed is found by that nobody has it.
func TestWallsMark(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mark")
	mark := func(ctx context.Context) error {
		f, err := markWalls(ctx, name)
		t.Cleanup(func() { f.Close() })
		return err
	}
	one, err := markWalls(t.Context(), name)
	require.NoError(t, err)
	two, err := markWalls(t.Context(), name)
	require.NoError(t, err)
	unmarkWalls(one, true)
	require.FileExists(t, name, "the other has it")
	sweeper, err := lockFile(name, false)
	require.NoError(t, err)
	require.Nil(t, sweeper, "nobody is dead")
	unmarkWalls(two, true)
	require.NoFileExists(t, name)

	killed, err := markWalls(t.Context(), name)
	require.NoError(t, err)
	unmarkWalls(killed, false) // as the kernel does
	require.FileExists(t, name)
	sweeper, err = lockFile(name, false)
	require.NoError(t, err)
	require.NotNil(t, sweeper)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, mark(ctx), context.DeadlineExceeded, "while it is swept nobody begins")
	late := make(chan error)
	go func() { late <- mark(t.Context()) }()
	unmarkWalls(sweeper, true)
	require.NoError(t, <-late)
	require.FileExists(t, name, "it is not the one that was deleted")
}
