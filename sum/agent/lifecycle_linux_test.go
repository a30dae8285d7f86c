package agent_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// requireOnlyLogs fails if anything but logs is in the agent's directory. Without
// jobs there is nothing worth keeping, and no directory.
func (h *host) requireOnlyLogs(jobs ...string) {
	h.t.Helper()
	if len(jobs) == 0 {
		h.await("nothing", func() bool { _, err := os.Stat(h.dir); return os.IsNotExist(err) })
		return
	}
	want := []string{agent.LogName}
	for _, id := range jobs {
		want = append(want, "jobs/"+id+".json", "jobs/"+id+".log")
	}
	h.await("a clean directory", func() bool {
		got := h.files()
		slices.Sort(got)
		slices.Sort(want)
		return slices.Equal(got, want)
	})
	require.NoDirExists(h.t, h.path("blobs"))
}

// gated is a script that prints "begun", counts how often it ran, and ends when
// its gate is opened.
func (h *host) gated(c *agent.Client) (j agent.Job, open func(), runs func() int) {
	dir := h.t.TempDir()
	gate, count := filepath.Join(dir, "gate"), filepath.Join(dir, "count")
	j = h.script(c, "echo x >> "+count+"; echo begun; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo ended; exit 7")
	return j, func() { require.NoError(h.t, os.WriteFile(gate, nil, 0o600)) },
		func() int { data, _ := os.ReadFile(count); return len(data) / 2 }
}

func TestAgentKilledDuringJob(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j, open, runs := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	h.kill(h.ready.PID)
	_, err := c.Status(t.Context(), j.ID, 0)
	require.Error(t, err)

	h.start()
	c = h.client()
	require.Equal(t, agent.Running, h.install(c, j).State, "the new agent knows the job")
	open()
	st := h.until(c, j.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, 7, st.Exit.Code)
	require.Equal(t, "begun\nended\n", string(st.Log))
	require.Equal(t, 1, runs())

	// The result is there also when the job ended while nobody served.
	j2, open, runs := h.gated(c)
	h.install(c, j2)
	h.until(c, j2.ID, printed("begun"))
	h.kill(h.ready.PID)
	open()
	h.await("the record of the shim", func() bool {
		data, _ := os.ReadFile(h.path("jobs/" + j2.ID + ".json"))
		return bytes.Contains(data, []byte(`"Done"`))
	})
	h.start()
	c = h.client()
	st = h.until(c, j2.ID, final)
	require.Equal(t, 7, st.Exit.Code)
	require.Equal(t, 1, runs())
	h.await("the end of the shims, since an agent lives", func() bool { return len(h.processes("shim")) == 0 })
}

func TestCancelAfterAgentRestart(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j, _, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	h.kill(h.ready.PID)
	h.start()
	c = h.client()
	_, err := c.Cancel(t.Context(), j.ID)
	require.NoError(t, err)
	require.Equal(t, agent.Cancelled, h.until(c, j.ID, final).State)
}

func TestShimKilled(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j, open, runs := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	shims := h.processes("shim")
	require.Len(t, shims, 1)
	h.kill(shims[0])
	st, err := c.Status(t.Context(), j.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Running, st.State, "its program runs on")
	require.Equal(t, agent.Running, h.install(c, j).State)
	other := j
	other.ID = channel.NewJobID()
	_, err = c.Install(t.Context(), other)
	require.ErrorIs(t, err, transport.ErrBusy, "not two flashes at a time")
	_, err = c.Status(t.Context(), other.ID, 0)
	require.ErrorIs(t, err, agent.ErrNoJob)
	_, err = c.Stop(t.Context(), true)
	require.ErrorIs(t, err, agent.ErrJobRunning, "the program still uses its files")
	open()
	st = h.until(c, j.ID, final)
	require.Equal(t, agent.Interrupted, st.State)
	require.Nil(t, st.Exit)
	_, err = c.Stop(t.Context(), false)
	require.NoError(t, err)
	h.await("the end of the agent", func() bool { return len(h.processes("serve")) == 0 })

	h.start()
	c = h.client()
	require.Equal(t, agent.Interrupted, h.install(c, j).State, "it is never run again")
	require.Empty(t, h.processes("shim"))
	require.Equal(t, 1, runs())
}

// A flash whose parent is killed goes on and is not ended by its own output.
func TestNoKillOutlivesItsShim(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	done := filepath.Join(t.TempDir(), "done")
	gate := done + ".gate"
	j := h.script(c, "echo begun; while [ ! -e "+gate+" ]; do sleep 0.05; done; head -c 500000 /dev/zero && touch "+done)
	j.NoKill = true
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	h.kill(h.processes("shim")[0])
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	h.await("the end of the flash", func() bool { _, err := os.Stat(done); return err == nil })
}

// Cancel reaches a program that has lost its shim, unless it must not be killed.
func TestCancelWithoutShim(t *testing.T) {
	for _, noKill := range []bool{false, true} {
		h := newHost(t)
		h.start()
		c := h.client()
		j := h.script(c, "echo child $$; exec sleep 600")
		j.NoKill = noKill
		h.install(c, j)
		program := childOf(t, h.until(c, j.ID, printed("child ")).Log)
		h.await("the record of the program", func() bool {
			return strings.Contains(readFile(t, h.path("jobs/"+j.ID+".json")), `"program"`)
		})
		h.kill(h.processes("shim")[0])
		st, err := c.Cancel(t.Context(), j.ID)
		require.NoError(t, err)
		require.Equal(t, agent.Running, st.State)
		if noKill {
			require.True(t, alive(program))
			continue
		}
		st = h.until(c, j.ID, final)
		require.Equal(t, agent.Interrupted, st.State)
		require.False(t, alive(program))
	}
}

// A job whose shim dies before the program began is done all the same, once.
func TestShimKilledBeforeTheProgram(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	c := h.client()
	marker := filepath.Join(t.TempDir(), "ran")
	j := h.script(c, "echo x >> "+marker)
	big := h.stage(c, "big", strings.Repeat("0123456789abcdef", 8<<20)) // copied by the shim, which takes a while
	j.Files = append(j.Files, big)
	h.await("a shim killed in time", func() bool {
		os.Remove(marker)
		j.ID = channel.NewJobID()
		h.install(c, j)
		h.await("the shim", func() bool { return len(h.processes("shim")) > 0 })
		h.kill(h.processes("shim")[0])
		if strings.Contains(readFile(t, h.path("jobs/"+j.ID+".json")), `"Accepted"`) {
			return true
		}
		h.until(c, j.ID, final) // too late: the program had begun
		return false
	})
	st := h.until(c, j.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict, st.Result.Text)
	require.Equal(t, "x\n", readFile(t, marker))
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lease is short for a lease and long for a busy machine to be late.
const lease = 3 * time.Second

func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.boot.LeaseSeconds = int(lease / time.Second)
	h.start()
	var said lockedBuffer
	c, err := agent.NewClient(t.Context(), agent.ClientOptions{Target: "test", Credentials: h.cred, Dial: h.dial, Epoch: h.ready.Epoch,
		Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	require.NoError(t, err)
	// The heartbeats of an open client, three in a lease, keep the agent for several.
	h.await("heartbeats", func() bool { return strings.Count(said.String(), "lease renewed") >= 8 })
	require.True(t, alive(h.ready.PID))
	_, err = c.Stage(t.Context(), transport.BytesFile("f", []byte("x")), nil)
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	h.await("the end of the agent", func() bool { return !alive(h.ready.PID) })
	h.requireOnlyLogs()
}

func TestLeaseWaitsForJob(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.boot.LeaseSeconds = int(lease / time.Second)
	h.start()
	c := h.client()
	j, open, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	require.NoError(t, c.Close(t.Context()))
	h.await("the job's hold on the lease", func() bool {
		return strings.Contains(readFile(t, h.path(agent.LogName)), "the lease does not run while there is a job")
	})
	c = h.client()
	st, err := c.Status(t.Context(), j.ID, 0)
	require.NoError(t, err, "it is served as long as its job runs")
	require.Equal(t, agent.Running, st.State)
	require.NoError(t, c.Close(t.Context()))
	open()
	h.await("the end of the agent", func() bool { return !alive(h.ready.PID) })
	h.requireOnlyLogs(j.ID)
	require.Contains(t, readFile(t, h.path("jobs/"+j.ID+".json")), `"Done"`)
	require.Equal(t, "begun\nended\n", readFile(t, h.path("jobs/"+j.ID+".log")))
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

func TestShimCleansUpAfterDeadAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.boot.LeaseSeconds = int(lease / time.Second)
	h.start()
	c := h.client()
	j, open, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	h.kill(h.ready.PID)
	open()
	h.await("the end of the shim", func() bool { return len(h.processes("shim")) == 0 })
	h.requireOnlyLogs(j.ID)
}

func TestRemove(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	c := h.client()
	j, open, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	h.kill(h.ready.PID)
	code, _, stderr := h.run("remove", "-dir", h.dir)
	require.Equal(t, agent.ExitJobRunning, code, stderr)
	require.FileExists(t, h.binary())
	open()
	h.await("the end of the job", func() bool { return !fileExists(h.path("jobs/" + j.ID)) })
	code, stdout, stderr := h.run("remove", "-dir", h.dir)
	require.Zero(t, code, stderr)
	require.Equal(t, []string{h.path(agent.LogName), h.path("jobs/" + j.ID + ".json"), h.path("jobs/" + j.ID + ".log")},
		strings.Fields(stdout))
	h.requireOnlyLogs(j.ID)
	h.await("the end of the janitor", func() bool { return len(h.processes("shim")) == 0 })
	h.requireOnlyLogs(j.ID) // it makes nothing anew

	// A living agent is stopped; a directory that is not there is removed already.
	h.putBinary()
	h.start()
	pid := h.ready.PID
	code, _, stderr = h.run("remove", "-dir", h.dir)
	require.Zero(t, code, stderr)
	require.False(t, alive(pid))
	h.requireOnlyLogs(j.ID)
	h.putBinary()
	code, stdout, _ = h.run("remove", "-dir", h.path("nothing"))
	require.Zero(t, code)
	require.Empty(t, stdout)
}

func fileExists(name string) bool { _, err := os.Stat(name); return err == nil }

func TestStopRemoves(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j, open, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))
	_, err := c.Stop(t.Context(), true)
	require.ErrorIs(t, err, agent.ErrJobRunning)
	require.ErrorIs(t, c.Reboot(t.Context(), transport.RebootOptions{}), agent.ErrJobRunning)
	open()
	h.until(c, j.ID, final)
	var left []string
	h.await("the end of the job", func() bool {
		left, err = c.Stop(t.Context(), true)
		return err == nil
	})
	require.Equal(t, []string{h.path(agent.LogName), h.path("jobs/" + j.ID + ".json"), h.path("jobs/" + j.ID + ".log")}, left)
	for _, name := range h.files() { // at once, not in the end
		require.Contains(t, left, h.path(name))
	}
	h.await("the end of the agent", func() bool { return !alive(h.ready.PID) })
	h.requireOnlyLogs(j.ID)
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	old, oldCred := h.ready, h.cred
	c := h.client()
	_, err := c.Stage(t.Context(), transport.BytesFile("f", []byte("kept")), nil)
	require.NoError(t, err)
	j, open, _ := h.gated(c)
	h.install(c, j)
	h.until(c, j.ID, printed("begun"))

	h.start()
	require.NotEqual(t, old.PID, h.ready.PID)
	require.NotEqual(t, old.Epoch, h.ready.Epoch)
	h.await("the end of the older agent", func() bool { return !alive(old.PID) })
	require.Equal(t, []int{h.ready.PID}, h.processes("serve"))
	c = h.client()
	res, err := c.Stage(t.Context(), transport.BytesFile("f", []byte("kept")), nil)
	require.NoError(t, err)
	require.Zero(t, res.Sent, "blobs are served on")
	open()
	require.Equal(t, agent.Done, h.until(c, j.ID, final).State)

	_, err = agent.NewClient(t.Context(), agent.ClientOptions{Target: "test", Credentials: oldCred, Dial: h.dial})
	require.Error(t, err, "the older identity is worth nothing")
}

// An agent that does not leave when it is asked is ended.
func TestTakeOverOfHungAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	old := h.ready.PID
	require.NoError(t, syscall.Kill(old, syscall.SIGSTOP))
	h.start()
	require.False(t, alive(old))
	_, err := h.client().Jobs(t.Context())
	require.NoError(t, err)
}

func TestLongSocketPath(t *testing.T) {
	h := newHost(t)
	tmp := t.TempDir()
	if len(tmp)+len("/roundsman-0123456789/agent.sock") > 100 {
		tmp = scratch // of this run
	}
	h.env = []string{"TMPDIR=" + tmp}
	deep := filepath.Join(h.dir, strings.Repeat("d", 110))
	require.NoError(t, os.Mkdir(deep, 0o700))
	require.NoError(t, os.Rename(h.binary(), filepath.Join(deep, agent.BinaryName)))
	h.dir = deep
	h.start()
	require.True(t, strings.HasPrefix(h.ready.Addr, tmp+"/roundsman-"), h.ready.Addr)
	dir := filepath.Dir(h.ready.Addr)
	fi, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	h.client()
	h.kill(h.ready.PID)
	require.DirExists(t, dir)
	h.start()
	require.NoDirExists(t, dir, "the next agent deletes what a killed one left")
	dir = filepath.Dir(h.ready.Addr)
	h.client()
	h.kill(h.ready.PID)
	code, _, stderr := h.run("remove", "-dir", h.dir)
	require.Zero(t, code, stderr)
	require.NoDirExists(t, dir)
	h.requireOnlyLogs()
}

func TestStartFails(t *testing.T) {
	h := newHost(t)
	h.putBootstrap()
	data := []byte(strings.Replace(readFile(t, h.path(agent.BootstrapName)), `"role":"agent"`, `"role":"canary-secret"`, 1))
	require.NoError(t, os.WriteFile(h.path(agent.BootstrapName), data, 0o600))
	code, _, stderr := h.run("start", "-dir", h.dir)
	require.Equal(t, agent.ExitFailed, code)
	require.Contains(t, stderr, "credentials")
	require.NotContains(t, stderr, "canary-secret")
	require.NoFileExists(t, h.path(agent.BootstrapName))
	require.Empty(t, h.processes("serve"))
}

// Another user can reach neither the socket nor what is beside it.
func TestOtherUsersAreKeptOut(t *testing.T) {
	h := newHost(t)
	h.start()
	for name, mode := range map[string]os.FileMode{".": 0o700, agent.SocketName: 0o600, agent.ReadyName: 0o600, "lock": 0o600} {
		fi, err := os.Stat(h.path(name))
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode().Perm(), name)
	}
	realtest.NeedRoot(t)
	// The directories above are opened, so that only the agent's own protect it.
	require.NoError(t, os.Chmod(scratch, 0o755))
	connect := filepath.Join(scratch, "connect")
	src, err := binary()
	require.NoError(t, err)
	data, err := os.ReadFile(src)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(connect, data, 0o755))
	for dir := filepath.Dir(h.dir); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	try := func() string {
		cmd := exec.Command(connect, "connect", "-socket", h.ready.Addr)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		return string(out)
	}
	require.Contains(t, try(), "permission denied", "the directory")
	require.NoError(t, os.Chmod(h.dir, 0o755))
	require.Contains(t, try(), "permission denied", "the socket itself")
}

func TestNoSecretIsVisible(t *testing.T) {
	h := newHost(t)
	h.env = []string{"CANARY=canary-of-the-login"}
	var inner struct {
		Key    string `json:"key"`
		Secret string `json:"secret"`
	}
	h.putBootstrap()
	require.NoError(t, json.Unmarshal(h.boot.Credentials, &inner))
	keyLine := strings.Split(inner.Key, "\n")[1]
	require.NotEmpty(t, keyLine)
	require.NotEmpty(t, inner.Secret)
	code, _, stderr := h.run("start", "-dir", h.dir)
	require.Zero(t, code, stderr)
	h.readReady()
	c := h.client()
	j, open, _ := h.gated(c)
	j.Env = []string{"RM_TOKEN=canary-of-the-job"}
	h.install(c, j)
	st := h.until(c, j.ID, printed("begun"))
	require.Equal(t, agent.Running, st.State)

	shims := h.processes("shim")
	require.Len(t, shims, 1)
	var payload []int
	for _, pid := range allPIDs() {
		if cwd, err := os.Readlink("/proc/" + itoa(pid) + "/cwd"); err == nil && strings.HasPrefix(cwd, h.path("jobs/")) {
			payload = append(payload, pid)
		}
	}
	require.NotEmpty(t, payload)
	visible := map[string]string{}
	for _, pid := range slices.Concat([]int{h.ready.PID}, shims, payload) {
		for _, name := range []string{"cmdline", "environ"} {
			visible[itoa(pid)+" "+name] = string(readProc(pid, name))
		}
	}
	require.NotEmpty(t, visible[itoa(h.ready.PID)+" environ"], "the test can see them")
	secrets := []string{keyLine, inner.Secret, "canary-of-the-login"}
	for where, text := range visible {
		for _, s := range secrets {
			require.NotContains(t, text, s, where)
		}
	}
	// The job's own secret is in its program's environment and nowhere else in sight.
	for _, pid := range append(shims, h.ready.PID) {
		require.NotContains(t, visible[itoa(pid)+" environ"], "canary-of-the-job")
	}
	open()
	h.until(c, j.ID, final)
	h.await("the end of the shim", func() bool { return len(h.processes("shim")) == 0 })
	for _, name := range h.files() {
		if name == agent.SocketName {
			continue
		}
		text := readFile(t, h.path(name))
		for _, s := range append(secrets, "canary-of-the-job") {
			require.NotContains(t, text, s, name)
		}
	}
	require.NoFileExists(t, h.path(agent.BootstrapName))
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// The budget of what is copied to every target.
func TestSize(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "github.com/roundsman-go/roundsman/examples/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	msg, err := build.CombinedOutput()
	require.NoError(t, err, string(msg))
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	require.NoError(t, err)
	_, err = z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	t.Logf("linux/amd64: %.2f MB, %.2f MB by gzip -9", float64(len(data))/1e6, float64(packed.Len())/1e6)
	require.Less(t, len(data), 12_000_000)
	require.Less(t, packed.Len(), 5_000_000)

	list := exec.Command("go", "list", "-deps", "github.com/roundsman-go/roundsman/examples/agent")
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64")
	deps, err := list.Output()
	require.NoError(t, err)
	require.Contains(t, string(deps), "github.com/roundsman-go/roundsman/sum/channel")
	for _, heavy := range []string{"golang.org/x/crypto/ssh", "smb", "govmomi", "gofish", "transport/"} {
		require.NotContains(t, string(deps), heavy)
	}
}

func TestCloseEndsHeartbeats(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, c.Close(ctx))
	require.NoError(t, c.Close(t.Context()))
	_, err := c.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrClosed)
	require.ErrorIs(t, c.Log(t.Context(), agent.LogName, io.Discard), transport.ErrClosed)
}
