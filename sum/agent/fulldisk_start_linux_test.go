package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// TestStartOnAFullDisk: where an agent does not come up because the disk is full,
// the command that starts it says so; the log, to which the service would say it, is
// on that disk.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	const variable = "ROUNDSMAN_FULLDISK_START"
	if dir := os.Getenv(variable); dir != "" {
		testStartOnAFullDisk(t, dir)
		return
	}
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-ec", `
		mount -t tmpfs -o size=32m none "$1"; shift; exec "$@"`, "sh", dir, self, "-test.run=^TestStartOnAFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	runtime.LockOSThread() // see prctl(2), PR_SET_PDEATHSIG
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}

func testStartOnAFullDisk(t *testing.T, dir string) {
	refused := 0
	mine := filepath.Join(dir, "mine")
	require.NoError(t, os.Mkdir(mine, 0o700))
	for leave := int64(0); ; leave += 4 << 10 {
		h := newHost(t)
		h.dir = filepath.Join(dir, "agent")
		require.NoError(t, os.Mkdir(h.dir, 0o700))
		h.putBinary()
		h.putBootstrap()
		filler, err := os.Create(filepath.Join(dir, "filler"))
		require.NoError(t, err)
		var size int64
		for buf := make([]byte, 64<<10); len(buf) > 0; {
			n, err := filler.Write(buf)
			if size += int64(n); err != nil {
				buf = buf[:len(buf)/2]
			}
		}
		require.NoError(t, filler.Truncate(size-leave))
		require.NoError(t, filler.Close())
		if leave == 0 { // a manager that is the agent itself
			_, err := agent.NewInProcess(t.Context(), agent.InProcessOptions{Target: "here", Dir: mine})
			require.ErrorIs(t, err, transport.ErrNoSpace)
			require.ErrorContains(t, err, "make room on the file system of "+mine)
		}
		code, _, stderr := h.run("start", "-dir", h.dir)
		t.Logf("%d bytes left: status %d, %s", leave, code, stderr)
		if code == 0 {
			break
		}
		require.Equal(t, agent.ExitNoSpace, code, stderr)
		require.Contains(t, stderr, "no space left on device")
		require.Contains(t, stderr, h.dir+" has ")
		require.NoFileExists(t, h.path(agent.BootstrapName), "it holds keys")
		refused++
		h.killAll()
		require.NoError(t, os.RemoveAll(h.dir))
	}
	require.Positive(t, refused)
	// Any other reason is not taken for this.
	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
	h := newHost(t)
	require.NoError(t, os.WriteFile(h.path(agent.BootstrapName), []byte(`{"version":1,"nonce":"n"}`), 0o600))
	code, _, stderr := h.run("start", "-dir", h.dir)
	require.Equal(t, agent.ExitFailed, code, stderr)
	require.NotContains(t, stderr, "space")
	require.NoFileExists(t, h.path(".tmp-room"))
}
