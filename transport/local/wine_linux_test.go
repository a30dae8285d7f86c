package local_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// TestJobEndsWine runs a test of this package for Windows under Wine, which is not Windows.
func TestJobEndsWine(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: -short leaves out tests with real processes")
	}
	w := realtest.NewWine(t)
	tests := filepath.Join(w.Dir, "local.test.exe")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests, "github.com/roundsman-go/roundsman/transport/local")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	msg, err := build.CombinedOutput()
	require.NoError(t, err, string(msg))
	out, err := w.Command(t.Context(), tests, "-test.v", "-test.timeout=5m", "-test.run=^TestJobEnds$").CombinedOutput()
	if !errors.Is(err, exec.ErrWaitDelay) { // what Wine has started with it may stay
		require.NoError(t, err, string(out))
	}
	require.Contains(t, string(out), "--- PASS: TestJobEnds")
}
