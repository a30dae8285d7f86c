package smb_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/stretchr/testify/require"
)

// TestWine runs the tests of the operating system's own client under Wine, which is not
// Windows, and with directories of its own in place of shares.
func TestWine(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: -short leaves out tests with real processes")
	}
	t.Parallel()
	// The go command keeps results as long as files are the same that it has built or the
	// test has read, and those for Windows alone are none of the former.
	sources, err := filepath.Glob("*_windows*.go")
	require.NoError(t, err)
	for _, file := range sources {
		_, err := os.ReadFile(file)
		require.NoError(t, err)
	}
	w := realtest.NewWine(t)
	tests := filepath.Join(w.Dir, "smb.test.exe")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests, ".")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	msg, err := build.CombinedOutput()
	require.NoError(t, err, string(msg))
	names := []string{"TestNativeRename", "TestNativeReplaces", "TestLongPath"}
	out, err := w.Command(t.Context(), tests, "-test.v", "-test.timeout=5m", "-test.run=^(TestNative(Rename|Replaces)|TestLongPath)$").CombinedOutput()
	if !errors.Is(err, exec.ErrWaitDelay) { // what Wine has started with it may stay
		require.NoError(t, err, string(out))
	}
	for _, name := range names {
		require.Contains(t, string(out), "--- PASS: "+name)
	}
}
