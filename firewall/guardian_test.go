package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDefenderHasGuardian: it is started with the first rule, again if somebody
// ends it, told whose it is, and joined.
func TestDefenderHasGuardian(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
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
	require.ErrorIs(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil), os.ErrNotExist)
	require.Empty(t, w.rules, "nothing is open that nobody guards")
	require.NoError(t, d.Close(t.Context()))
}
