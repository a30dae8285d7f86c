package firewall

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// TestDefenderHasGuardian: it is started with the first rule, again if somebody
// ends it, told whose it is, and joined.
func TestDefenderHasGuardian(t *testing.T) {
	sh := realtest.Need(t, "sh")
	dir := t.TempDir()
	heard := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return string(b)
	}
	w := newFakeWindows(t)
	d := w.driver(7)
	first := filepath.Join(dir, "first")
	d.guard = []string{sh, "-c", `test -e "$1" && exec cat >"$2"; head -n 1 >"$1.new"; mv "$1.new" "$1"; exit 3`, "sh", first, filepath.Join(dir, "second")}
	require.NoError(t, d.Repair(t.Context()))
	require.Nil(t, d.guardian, "there is nothing to guard yet")
	require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
	select {
	case <-d.guardian.done:
	case <-time.After(time.Minute):
		t.Fatal("the guardian was not told whose it is")
	}
	require.Equal(t, "night-7-133\n", heard("first"))
	require.NoError(t, d.Repair(t.Context()))
	require.NoError(t, d.Close(t.Context()))
	require.Equal(t, "night-7-133\ndone\n", heard("second"), "after Close, the guardian has ended")
	require.Empty(t, w.rules)

	d = w.driver(7)
	d.guard = []string{filepath.Join(dir, "nothing")}
	err := d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "the guardian does not start")
	require.ErrorContains(t, err, `nothing"], or have Options.Guardian name another command`)
	require.Empty(t, w.rules, "nothing is open that nobody guards")
	require.NoError(t, d.Close(t.Context()))
}

// TestDefenderLosesGuardian: where no other can be started, rules are put back all the
// same, and it is tried again until one can.
func TestDefenderLosesGuardian(t *testing.T) {
	sh := realtest.Need(t, "sh")
	w := newFakeWindows(t)
	d := w.driver(7)
	d.guard = []string{sh, "-c", "read owner; exit 3"}
	require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
	<-d.guardian.done
	d.guard = []string{filepath.Join(t.TempDir(), "nothing")}
	w.rules = nil
	require.ErrorIs(t, d.Repair(t.Context()), os.ErrNotExist)
	require.Len(t, w.rules, 1)
	require.ErrorIs(t, d.Repair(t.Context()), os.ErrNotExist, "it is tried again")
	heard := filepath.Join(t.TempDir(), "heard")
	d.guard = []string{sh, "-c", `exec cat >"$1"`, "sh", heard}
	require.NoError(t, d.Repair(t.Context()))
	require.False(t, d.guardian.ended())
	require.NoError(t, d.Close(t.Context()))
	b, err := os.ReadFile(heard)
	require.NoError(t, err)
	require.Equal(t, "night-7-133\ndone\n", string(b))
	require.Empty(t, w.rules)
}

// TestDefenderEndsGuardian: one that does not end by itself holds Close up only until
// the end of its context.
func TestDefenderEndsGuardian(t *testing.T) {
	sh := realtest.Need(t, "sh")
	w := newFakeWindows(t)
	d := w.driver(7)
	told := filepath.Join(t.TempDir(), "told")
	d.guard = []string{sh, "-c", `cat >"$1.new"; mv "$1.new" "$1"; exec sleep 3600`, "sh", told}
	require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
	guardian := d.guardian
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- d.Close(ctx) }()
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(told)
		return string(b) == "night-7-133\ndone\n"
	}, time.Minute, time.Millisecond)
	cancel()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		_ = guardian.process.Kill()
		t.Error("Close waits for the guardian")
		<-closed
	}
	require.True(t, guardian.ended())
	require.Empty(t, w.rules)
}
