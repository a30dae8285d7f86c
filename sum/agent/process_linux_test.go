package agent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestInventoryAndProbes(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	inv, err := c.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{
		{Name: "tool", Argv: []string{"/bin/echo", " 1.2.3; $HOME "}},
		{Name: "missing", Argv: []string{"/nonexistent/tool"}},
		{Name: "missing-too", Argv: []string{"no-such-program-anywhere"}},
		{Name: "failing", Argv: []string{"/bin/sh", "-c", "echo 9; exit 1"}},
		{Name: "slow", Argv: []string{"/bin/sh", "-c", "echo 9; sleep 600 & sleep 600"}, Timeout: time.Second},
		{Name: "endless", Argv: []string{"/bin/sh", "-c", "echo 7; exec head -c 10000000 /dev/zero"}},
	}})
	require.NoError(t, err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	name, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(boot)), inv.Identity.BootID)
	require.Equal(t, name, inv.Identity.Name)
	require.Equal(t, "linux", inv.Identity.OS)
	require.False(t, inv.Taken.IsZero())
	found := map[string]string{}
	for _, s := range inv.Software {
		if s.Source == agent.ProbeSource {
			found[s.Name] = s.Version
		}
	}
	require.Equal(t, map[string]string{"tool": "1.2.3; $HOME", "endless": "7"}, found)
	var problems []string
	for _, p := range inv.Problems {
		if strings.HasPrefix(p.Part, "probe ") {
			problems = append(problems, p.Part)
		}
	}
	require.Equal(t, []string{"probe slow"}, problems)
}

// cutConn fails after so many bytes were written to it.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.left.Add(int64(-len(p))) < 0 {
		c.Conn.Close()
		return 0, errors.New("cut by the test")
	}
	return c.Conn.Write(p)
}

func TestStageResumes(t *testing.T) {
	h := newHost(t)
	h.start()
	content := make([]byte, 8<<20)
	rand.Read(content)
	f := transport.BytesFile("image", content)

	var left atomic.Int64
	left.Store(3 << 20)
	cut, err := agent.NewClient(t.Context(), agent.ClientOptions{Target: "test", Credentials: h.cred, Dial: func(ctx context.Context) (net.Conn, error) {
		c, err := h.dial(ctx)
		return &cutConn{c, &left}, err
	}})
	require.NoError(t, err)
	_, err = cut.Stage(t.Context(), f, nil)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, cut.Close(t.Context()))

	c := h.client()
	var last int64
	var res transport.PutResult
	h.await("the end of the broken upload", func() bool {
		res, err = c.Stage(t.Context(), f, func(n int64) { last = n })
		return !errors.Is(err, transport.ErrBusy)
	})
	require.NoError(t, err)
	require.Greater(t, res.Kept, int64(1<<20))
	require.Equal(t, f.Size, res.Kept+res.Sent)
	require.Equal(t, f.Size, last)
	stored, err := os.ReadFile(h.path("blobs/" + f.Digest()))
	require.NoError(t, err)
	require.Equal(t, content, stored)

	res, err = c.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	require.Zero(t, res.Sent)
	require.Equal(t, f.Size, res.Kept)

	f.SHA256[0] ^= 1
	_, err = c.Stage(t.Context(), f, nil)
	require.ErrorIs(t, err, transport.ErrIntegrity)
	require.Equal(t, []string{"blobs/" + transport.BytesFile("", content).Digest()}, filter(h.files(), "blobs/"))
}

func filter(names []string, prefix string) []string {
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	return out
}

func TestInstall(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j := h.script(c, `
printf '%s|' "$@"; echo
cat data/part
echo "tmp=$TMPDIR pwd=$(pwd) lang=$LANG front=$DEBIAN_FRONTEND own=$RM_OWN umask=$(umask)"
case ":$PATH:" in *:/usr/sbin:*) echo sbin;; esac
env | cut -d= -f1 | sort | tr '\n' ' '
`, "a; touch x", "{dir}/data/part", "--at={dir}", "$(id)")
	data := h.stage(c, "data/part", "payload\n")
	data.Executable = false
	j.Files = append(j.Files, data)
	j.Env = []string{"RM_OWN=mine", "DEBIAN_FRONTEND=readline"}
	h.install(c, j)
	st := h.until(c, j.ID, final)
	require.Equal(t, agent.Done, st.State, st.Result.Text)
	require.Equal(t, &transport.Exit{Code: 0}, st.Exit)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	work := h.path("jobs/" + j.ID + "/work")
	lines := strings.Split(string(st.Log), "\n")
	require.Equal(t, "a; touch x|"+work+"/data/part|--at="+work+"|$(id)|", lines[0])
	require.Equal(t, "payload", lines[1])
	require.Equal(t, "tmp="+work+" pwd="+work+" lang=C.UTF-8 front=readline own=mine umask=0022", lines[2])
	require.Equal(t, "sbin", lines[3])
	for name := range strings.FieldsSeq(lines[4]) {
		require.Contains(t, []string{"DEBIAN_FRONTEND", "HOME", "LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "RM_OWN", "TMPDIR"}, name)
	}
	require.NotEmpty(t, st.BootID)
	require.False(t, st.Ended.Before(st.Started))
	h.await("the end of the shim", func() bool { return len(h.processes("shim")) == 0 })
	require.NoDirExists(t, h.path("jobs/"+j.ID))
	require.NoFileExists(t, filepath.Join(work, "x"))

	failing := h.script(c, "echo one; printf 'two\\033[31m\\n' >&2; exit 3")
	h.install(c, failing)
	st = h.until(c, failing.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	require.Equal(t, transport.Code{Space: "exit", Value: "3"}, st.Result.Code)
	require.Equal(t, "one\ntwo\\x1b[31m", st.Result.Text)

	killed := h.script(c, "kill -9 $$")
	h.install(c, killed)
	st = h.until(c, killed.ID, final)
	require.Equal(t, &transport.Exit{Code: -1, Signal: "KILL"}, st.Exit)
	require.Equal(t, transport.VerdictFailed, st.Result.Verdict)

	reboot := h.script(c, "exit 1")
	reboot.Profile = agent.ProfileHPELinux
	h.install(c, reboot)
	st = h.until(c, reboot.ID, final)
	require.Equal(t, transport.VerdictStaged, st.Result.Verdict)
	require.Equal(t, transport.ActivationReboot, st.Result.Activation)

	bad := h.script(c, "")
	bad.Argv = []string{"no-such-program-anywhere"}
	h.install(c, bad)
	st = h.until(c, bad.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Nil(t, st.Exit)
	require.Equal(t, transport.Code{Space: "errno", Value: "ENOENT"}, st.Result.Code)

	jobs, err := c.Jobs(t.Context())
	require.NoError(t, err)
	require.Len(t, jobs, 5)
	require.Equal(t, j.ID, jobs[0].ID)
	require.Equal(t, transport.ActivationReboot, jobs[3].Result.Activation)
}

func TestInstallRefuses(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	good := h.script(c, "true")
	for what, change := range map[string]func(*agent.Job){
		"env":       func(j *agent.Job) { j.Env = []string{"LD_PRELOAD=/tmp/x.so"} },
		"profile":   func(j *agent.Job) { j.Profile = "new" },
		"program":   func(j *agent.Job) { j.Argv = []string{"./other"} },
		"relative":  func(j *agent.Job) { j.Argv = []string{"bin/other"} },
		"no file":   func(j *agent.Job) { j.Argv = []string{"./../run.sh"} },
		"traversal": func(j *agent.Job) { j.Files[0].Name = "../../run.sh" },
	} {
		j := good
		j.ID = channel.NewJobID()
		j.Files = append([]agent.JobFile(nil), good.Files...)
		change(&j)
		_, err := c.Install(t.Context(), j)
		require.Error(t, err, what)
		_, err = c.Status(t.Context(), j.ID, 0)
		require.ErrorIs(t, err, agent.ErrNoJob, what)
	}
	missing := good
	missing.Files = []agent.JobFile{{Name: "run.sh", SHA256: strings.Repeat("0", 64), Size: 1, Executable: true}}
	_, err := c.Install(t.Context(), missing)
	require.ErrorIs(t, err, fs.ErrNotExist)

	marker := filepath.Join(t.TempDir(), "ran")
	once := h.script(c, "echo x >> "+marker)
	h.install(c, once)
	h.install(c, once)
	h.until(c, once.ID, final)
	st := h.install(c, once)
	require.Equal(t, agent.Done, st.State, "a job that exists is reported")
	ran, err := os.ReadFile(marker)
	require.NoError(t, err)
	require.Equal(t, "x\n", string(ran))

	once.Version = "2"
	_, err = c.Install(t.Context(), once)
	require.ErrorIs(t, err, agent.ErrJobConflict)
	_, err = c.Cancel(t.Context(), channel.NewJobID())
	require.ErrorIs(t, err, agent.ErrNoJob)
}

func TestLogWhileRunning(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	gate := filepath.Join(t.TempDir(), "gate")
	j := h.script(c, "echo first; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo second")
	h.install(c, j)
	st := h.until(c, j.ID, printed("first\n"))
	require.Equal(t, agent.Running, st.State)
	next := st.NextLog
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	h.until(c, j.ID, final)
	st, err := c.Status(t.Context(), j.ID, next)
	require.NoError(t, err)
	require.Equal(t, "second\n", string(st.Log))
	st, err = c.Status(t.Context(), j.ID, 1<<40)
	require.NoError(t, err)
	require.Empty(t, st.Log)
	require.Equal(t, next+7, st.NextLog)

	logs, err := c.Logs(t.Context())
	require.NoError(t, err)
	var names []string
	for _, l := range logs {
		names = append(names, l.Name)
		require.FileExists(t, l.Native)
	}
	require.ElementsMatch(t, []string{agent.LogName, j.ID + ".json", j.ID + ".log"}, names)
	var b strings.Builder
	require.NoError(t, c.Log(t.Context(), j.ID+".log", &b))
	require.Equal(t, "first\nsecond\n", b.String())
	require.ErrorIs(t, c.Log(t.Context(), "lock", io.Discard), fs.ErrNotExist)
}

func TestOutputIsCapped(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j := h.script(c, "head -c 20000000 /dev/zero | tr '\\0' a; echo; echo the end")
	h.install(c, j)
	st := h.until(c, j.ID, final)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	require.True(t, st.LogTruncated)
	require.Len(t, st.Log, 16<<20)
	require.True(t, strings.HasSuffix(st.Result.Text, "the end"), "the text is the last of the output, not of the log")
	require.LessOrEqual(t, len(st.Result.Text), 2<<10)
}

func TestCancel(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	j := h.script(c, "sleep 600 & echo child $!; wait")
	h.install(c, j)
	st := h.until(c, j.ID, printed("child "))
	child := childOf(t, st.Log)
	_, err := c.Cancel(t.Context(), j.ID)
	require.NoError(t, err)
	st = h.until(c, j.ID, final)
	require.Equal(t, agent.Cancelled, st.State)
	require.Equal(t, "TERM", st.Exit.Signal)
	require.False(t, alive(child), "children end too")

	gate := filepath.Join(t.TempDir(), "gate")
	flash := h.script(c, "trap 'echo interrupted' TERM; echo begun; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo flashed")
	flash.NoKill = true
	flash.Timeout = time.Second
	h.install(c, flash)
	h.until(c, flash.ID, printed("begun"))
	st, err = c.Cancel(t.Context(), flash.ID)
	require.NoError(t, err)
	require.Equal(t, agent.Running, st.State)
	h.until(c, flash.ID, func(st agent.Status) bool { return st.Overdue })
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	st = h.until(c, flash.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, "begun\nflashed\n", string(st.Log))
	require.True(t, st.Overdue)
}

func childOf(t *testing.T, log []byte) int {
	t.Helper()
	fields := strings.Fields(string(log))
	for i, f := range fields {
		if f == "child" {
			pid, err := strconv.Atoi(fields[i+1])
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatalf("no child in %q", log)
	return 0
}

func TestTimeoutKillsTheGroup(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	c := h.client()
	// Neither the program nor its grandchild listens to SIGTERM.
	j := h.script(c, `trap '' TERM
sh -c 'sh -c "echo child \$\$; sleep 600; sleep 600" & wait' &
while :; do sleep 1; done`)
	j.Timeout = time.Second
	h.install(c, j)
	child := childOf(t, h.until(c, j.ID, printed("child ")).Log)
	st := h.until(c, j.ID, final)
	require.Equal(t, agent.Done, st.State)
	require.Equal(t, "KILL", st.Exit.Signal)
	require.Equal(t, transport.VerdictFailed, st.Result.Verdict)
	require.True(t, strings.HasPrefix(st.Result.Text, "timed out after 1s"), st.Result.Text)
	h.await("the end of the grandchild", func() bool { return !alive(child) })
}

func TestConnectCommand(t *testing.T) {
	h := newHost(t)
	h.start()
	c, err := agent.NewClient(t.Context(), agent.ClientOptions{Target: "test", Credentials: h.cred, Dial: func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		cmd := exec.Command(h.binary(), "connect", "-socket", h.ready.Addr)
		cmd.Stdin, cmd.Stdout = far, far
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go func() {
			cmd.Wait()
			far.Close()
		}()
		return near, nil
	}})
	require.NoError(t, err)
	_, err = c.Jobs(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	code, _, stderr := h.run("connect", "-socket", h.path("none.sock"))
	require.Equal(t, agent.ExitFailed, code)
	require.NotEmpty(t, stderr)
}

func TestTCP(t *testing.T) {
	h := newHost(t)
	h.boot.Network, h.boot.Listen = "tcp", "127.0.0.1"
	h.start()
	_, port, err := net.SplitHostPort(h.ready.Addr)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, agent.DefaultPort)
	_, err = h.client().Jobs(t.Context())
	require.NoError(t, err)

	other := newHost(t)
	other.boot.Network, other.boot.Listen = "tcp", "127.0.0.1"
	other.start()
	require.NotEqual(t, h.ready.Addr, other.ready.Addr, "the next free port")
	taken := newHost(t)
	taken.boot.Network, taken.boot.Listen = "tcp", h.ready.Addr
	taken.putBootstrap()
	code, _, stderr := taken.run("start", "-dir", taken.dir)
	require.Equal(t, agent.ExitFailed, code)
	require.Contains(t, stderr, "port is taken")
	require.Contains(t, stderr, port)
	require.NoFileExists(t, taken.path(agent.BootstrapName), "keys do not stay")
}

func TestMainUsage(t *testing.T) {
	var out, errs strings.Builder
	require.Zero(t, agent.Main([]string{"version"}, nil, &out, &errs))
	require.Regexp(t, `^roundsman-agent \S+ linux/\w+\n$`, out.String())
	for _, args := range [][]string{nil, {"nothing"}, {"serve"}, {"start", "-dir"}, {"serve", "-dir", "x", "y"}, {"version", "-x"}} {
		require.Equal(t, agent.ExitUsage, agent.Main(args, nil, io.Discard, &errs), fmt.Sprint(args))
	}
	require.Equal(t, agent.ExitFailed, agent.Main([]string{"start", "-dir", t.TempDir()}, nil, io.Discard, &errs))
	require.Equal(t, agent.ExitFailed, agent.Main([]string{"shim", "-job", t.TempDir()}, nil, io.Discard, &errs))
}
