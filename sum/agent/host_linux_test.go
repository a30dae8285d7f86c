package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must happen. It is no measure.
const patience = 90 * time.Second

var scratch string // for the whole run; of TestMain

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "agent-test-")
	if err != nil {
		panic(err)
	}
	scratch = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// binary builds examples/agent as it is delivered, once in a run.
var binary = sync.OnceValues(func() (string, error) {
	out := filepath.Join(scratch, "agent-binary")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "github.com/roundsman-go/roundsman/examples/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, msg)
	}
	return out, nil
})

// host is a directory of an agent on this machine.
type host struct {
	t     *testing.T
	dir   string
	env   []string // of start
	boot  agent.Bootstrap
	ready agent.Ready
	cred  *channel.ManagerCredentials
}

func newHost(t *testing.T) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("not run: -short leaves out tests with real processes")
	}
	h := &host{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	h.boot = agent.Bootstrap{Version: 1, Target: "test", LeaseSeconds: 600}
	require.NoError(t, os.Mkdir(h.dir, 0o700))
	h.putBinary()
	t.Cleanup(h.killAll)
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }
func (h *host) binary() string          { return h.path(agent.BinaryName) }

func (h *host) putBinary() {
	src, err := binary()
	require.NoError(h.t, err)
	data, err := os.ReadFile(src)
	require.NoError(h.t, err)
	os.Remove(h.binary())
	require.NoError(h.t, os.WriteFile(h.binary(), data, 0o700))
}

// putBootstrap mints a new identity.
func (h *host) putBootstrap() []byte {
	h.t.Helper()
	m, a, err := channel.NewIdentity("test")
	require.NoError(h.t, err)
	h.cred = m
	h.boot.Nonce = channel.NewJobID()
	h.boot.Credentials, err = a.MarshalBootstrap()
	require.NoError(h.t, err)
	data, err := json.Marshal(h.boot)
	require.NoError(h.t, err)
	require.NoError(h.t, os.WriteFile(h.path(agent.BootstrapName), data, 0o600))
	return data
}

// start starts an agent with a new identity.
func (h *host) start() {
	h.t.Helper()
	h.putBootstrap()
	code, _, stderr := h.run("start", "-dir", h.dir)
	require.Zero(h.t, code, stderr)
	h.readReady()
}

func (h *host) readReady() {
	h.t.Helper()
	data, err := os.ReadFile(h.path(agent.ReadyName))
	require.NoError(h.t, err)
	h.ready = agent.Ready{}
	require.NoError(h.t, json.Unmarshal(data, &h.ready))
	require.Equal(h.t, h.boot.Nonce, h.ready.Nonce)
}

// run runs a command of the agent's binary to its end.
func (h *host) run(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(h.binary(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), h.env...)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(h.t, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func (h *host) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, h.ready.Network, h.ready.Addr)
}

// client connects to the agent that was started last.
func (h *host) client() *agent.Client {
	h.t.Helper()
	c, err := agent.NewClient(h.t.Context(), agent.ClientOptions{Target: "test", Credentials: h.cred, Dial: h.dial, Epoch: h.ready.Epoch})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// processes lists the living processes of the agent's binary in this directory.
func (h *host) processes(command string) []int {
	var pids []int
	for _, pid := range allPIDs() {
		args := strings.Split(string(readProc(pid, "cmdline")), "\x00")
		if len(args) > 1 && args[0] == h.binary() && args[1] == command && !zombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *host) killAll() {
	for _, command := range []string{"serve", "shim"} {
		for _, pid := range h.processes(command) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, pid := range allPIDs() { // what jobs left
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && strings.HasPrefix(cwd, h.dir+"/") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// kill ends a process as nothing can prevent, and waits until it is gone.
func (h *host) kill(pid int) {
	h.t.Helper()
	require.NoError(h.t, syscall.Kill(pid, syscall.SIGKILL))
	h.await("the end of a process", func() bool { return !alive(pid) })
}

// await polls until cond holds.
func (h *host) await(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			log, _ := os.ReadFile(h.path(agent.LogName))
			h.t.Fatalf("%s did not come about; agent.log:\n%s", what, log)
		}
	}
}

// files lists everything below the directory, as relative names.
func (h *host) files() []string {
	var out []string
	filepath.WalkDir(h.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(h.dir, p)
			out = append(out, rel)
		}
		return nil
	})
	return out
}

// stage stages a script and returns it as a job's file.
func (h *host) stage(c *agent.Client, name, content string) agent.JobFile {
	h.t.Helper()
	f := transport.BytesFile(name, []byte(content))
	_, err := c.Stage(h.t.Context(), f, nil)
	require.NoError(h.t, err)
	return agent.JobFile{Name: name, SHA256: f.Digest(), Size: f.Size, Executable: true}
}

// script makes a job of a shell script that is one of its files.
func (h *host) script(c *agent.Client, content string, args ...string) agent.Job {
	h.t.Helper()
	f := h.stage(c, "run.sh", "#!/bin/sh\n"+content)
	return agent.Job{
		ID: channel.NewJobID(), Component: "hello", Version: "1", Files: []agent.JobFile{f},
		Argv: append([]string{"./run.sh"}, args...), Profile: agent.ProfileZeroOK,
	}
}

func (h *host) install(c *agent.Client, j agent.Job) agent.Status {
	h.t.Helper()
	st, err := c.Install(h.t.Context(), j)
	require.NoError(h.t, err)
	require.Equal(h.t, j.ID, st.ID)
	return st
}

// until polls a job until it is in a state, and gives the log from the beginning.
func (h *host) until(c *agent.Client, id string, cond func(agent.Status) bool) agent.Status {
	h.t.Helper()
	var st agent.Status
	var log []byte
	h.await("the state of the job", func() bool {
		next := st.NextLog
		var err error
		st, err = c.Status(h.t.Context(), id, next)
		require.NoError(h.t, err)
		require.Equal(h.t, next+int64(len(st.Log)), st.NextLog)
		log = append(log, st.Log...)
		return cond(st) && (!st.State.Final() || len(st.Log) == 0)
	})
	st.Log = log
	return st
}

func final(st agent.Status) bool { return st.State.Final() }

// printed is a condition: the job's log holds a text.
func printed(text string) func(agent.Status) bool {
	var all []byte
	return func(st agent.Status) bool {
		all = append(all, st.Log...)
		return bytes.Contains(all, []byte(text))
	}
}

func allPIDs() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func readProc(pid int, name string) []byte {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	return data
}

func zombie(pid int) bool {
	stat := readProc(pid, "stat")
	i := bytes.LastIndexByte(stat, ')')
	return i < 0 || bytes.HasPrefix(stat[i:], []byte(") Z"))
}

func alive(pid int) bool { return len(readProc(pid, "stat")) > 0 && !zombie(pid) }
