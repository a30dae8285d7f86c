package firstuse_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roundsman-go/roundsman/transport/internal/firstuse"
	"github.com/stretchr/testify/require"
)

func says(line string) func() (string, error) { return func() (string, error) { return line, nil } }

func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	read := func() string {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(b)
	}
	require.NoError(t, firstuse.Record(t.Context(), file, says("")))
	require.NoFileExists(t, file, "nothing to add")
	require.NoError(t, firstuse.Record(t.Context(), file, says("one")))
	require.Equal(t, "one\n", read())
	if runtime.GOOS != "windows" {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	refused := errors.New("another key")
	require.ErrorIs(t, firstuse.Record(t.Context(), file, func() (string, error) { return "two", refused }), refused)
	require.Equal(t, "one\n", read())
	// By hand, and without the end of the line.
	require.NoError(t, os.WriteFile(file, []byte("one\ntwo"), 0o600))
	require.NoError(t, firstuse.Record(t.Context(), file, says("three")))
	require.Equal(t, "one\ntwo\nthree\n", read())
}

// Of many at a time one decides, and waiting for it ends with the context.
func TestRecordTakesTurns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	ctx, cancel := context.WithCancel(t.Context())
	err := firstuse.Record(t.Context(), file, func() (string, error) {
		cancel()
		require.ErrorIs(t, firstuse.Record(ctx, file, says("meanwhile")), context.Canceled)
		return "first", nil
	})
	require.NoError(t, err)
	var all sync.WaitGroup
	var inside atomic.Int32
	for i := range 8 {
		all.Go(func() {
			if err := firstuse.Record(t.Context(), file, func() (string, error) {
				if inside.Add(1) != 1 {
					t.Error("two at a time")
				}
				runtime.Gosched()
				inside.Add(-1)
				return fmt.Sprint("line ", i), nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 9, strings.Count(string(b), "\n"))
}
