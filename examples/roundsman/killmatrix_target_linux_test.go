package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// A matrixProcess is a manager of TestKillMatrix.
type matrixProcess struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	errs  bytes.Buffer
	goOn  *os.File
	once  sync.Once
	ended chan struct{}

	mu    sync.Mutex
	steps []string
}

// startMatrixProcess starts a manager, whose command line is what command makes of a
// program and its arguments.
func startMatrixProcess(t *testing.T, command func(ctx context.Context, name string, args ...string) *exec.Cmd, home string, cfg matrixConfig) *matrixProcess {
	t.Helper()
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	steps, theirSteps, err := os.Pipe()
	require.NoError(t, err)
	theirGoOn, goOn, err := os.Pipe()
	require.NoError(t, err)
	p := &matrixProcess{goOn: goOn, ended: make(chan struct{})}
	p.cmd = command(context.Background(), self, "-test.run=^TestMatrixProcess$")
	p.cmd.Env = append(os.Environ(), matrixVariable+"="+string(text), "HOME="+home, "SSH_AUTH_SOCK=", "ROUNDSMAN_PASSWORD=")
	p.cmd.ExtraFiles = []*os.File{theirSteps, theirGoOn} // stepsFD, goOnFD
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	err = p.cmd.Start()
	_ = theirSteps.Close()
	_ = theirGoOn.Close()
	require.NoError(t, err)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer steps.Close()
		for sc := bufio.NewScanner(steps); sc.Scan(); {
			p.mu.Lock()
			p.steps = append(p.steps, sc.Text())
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = p.cmd.Wait()
		<-read
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		_ = goOn.Close()
	})
	return p
}

func (p *matrixProcess) reached() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// reach waits until the manager comes to a step, and reports whether it does
// before it ends.
func (p *matrixProcess) reach(t *testing.T, step string) bool {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if slices.Contains(p.reached(), step) {
			return true
		}
		if p.over() {
			return slices.Contains(p.reached(), step)
		}
	}
	require.Fail(t, "the manager hangs before "+step, "it was at %q", p.reached())
	return false
}

// goAhead lets the manager go on from where it stopped.
func (p *matrixProcess) goAhead() {
	p.once.Do(func() { _, _ = io.WriteString(p.goOn, "go on\n") })
}

func (p *matrixProcess) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(3 * time.Minute):
		require.Fail(t, "the manager does not end", "it was at %q", p.reached())
	}
}

// over reports whether the manager has ended.
func (p *matrixProcess) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// The rest is for when it has ended.

func (p *matrixProcess) status() int { return p.cmd.ProcessState.ExitCode() }

// events are the lines that it wrote. The last may not be whole.
func (p *matrixProcess) events(t *testing.T) []map[string]any {
	t.Helper()
	out := p.out.Bytes()
	return events(t, out[:bytes.LastIndexByte(out, '\n')+1])
}

func (p *matrixProcess) String() string {
	return fmt.Sprintf("status %d\n%s%s", p.status(), tailOf(p.out.String()), tailOf(p.errs.String()))
}

// Where the agent of the only target is, and what stays there.
var (
	matrixLog = regexp.MustCompile(`^/var/lib/roundsman/[0-9a-f]{16}/(agent\.log|jobs/[0-9a-f]{32}\.(json|log))$`)
	matrixDir = regexp.MustCompile(`^/var/lib/roundsman(/[0-9a-f]{16}(/jobs)?)?$`)
)

// look returns what is on the host because of us: files and directories that are
// no logs, and what runs or listens.
func (c *matrixCell) look() (left, running []string) {
	c.t.Helper()
	out := c.host.Run("sh", "-c", `{
		find /var/lib/roundsman /opt/roundsman /root/.cache -type d -printf 'dir %p\n' -o -printf 'file %p\n'
		find /var/lib/roundsman -mindepth 1 -type d -empty -printf 'empty %p\n'
		find /tmp /run -name '*roundsman*' -printf 'file %p\n'
		find /var/lib /opt /root /root/.cache -maxdepth 1 -name '.roundsman*' -printf 'file %p\n'
		ps -eo args= -ww | sed 's/^/process /'
		ss -Htln | sed 's/^/listener /'
		ss -Hlnx | sed 's/^/socket /'
	} 2>/dev/null || :`)
	for line := range strings.Lines(out) {
		kind, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case kind == "dir" && !matrixDir.MatchString(what), kind == "file" && !matrixLog.MatchString(what), kind == "empty":
			left = append(left, what)
		case kind == "process" && strings.HasPrefix(what, "/var/lib/roundsman/"),
			kind == "listener" && !strings.Contains(what, ":22 "), kind == "socket" && strings.Contains(what, "agent.sock"):
			running = append(running, kind+" "+what)
		}
	}
	return left, running
}

// requireClean: nothing is left of ours but logs, or will soon be.
func (c *matrixCell) requireClean(after string) {
	c.t.Helper()
	var left, running []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if left, running = c.look(); len(left)+len(running) == 0 {
			return
		}
	}
	require.Fail(c.t, "something is left", "after %s: %q %q\nagent.log:\n%s", after, left[:min(len(left), 20)], running,
		c.host.Run("sh", "-c", "cat /var/lib/roundsman/*/agent.log 2>/dev/null || :"))
}

// pending returns what the journal holds open.
func (c *matrixCell) pending() []sum.Target {
	c.t.Helper()
	return pendingIn(c.t, c.journal)
}

// pendingIn returns what a journal holds open.
func pendingIn(t *testing.T, journal string) []sum.Target {
	t.Helper()
	s, err := sum.Open(context.Background(), sum.Config{Journal: journal,
		Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
			panic("nobody dials")
		}})
	require.NoError(t, err)
	defer s.Close(context.Background())
	return s.Pending()
}

// recover runs recover, and returns the outcomes that it told. left is what there
// is for it to do on the target.
func (c *matrixCell) recover(left []string) []map[string]any {
	c.t.Helper()
	status, list := c.command("recover")
	return recovered(c.t, status, list, left)
}

// recovered checks what recover said, and returns the outcomes that it told.
func recovered(t *testing.T, status int, list []map[string]any, left []string) []map[string]any {
	t.Helper()
	found := outcomes(list)
	said := false
	for _, e := range list {
		require.NotEqual(t, "error", e["event"], "%v", e)
		said = said || e["event"] == "recovered" && (e["removed"] != nil || len(found) > 0)
	}
	for _, o := range found {
		require.Equal(t, true, o["recovered"], "%v", o)
	}
	if len(left) > 0 {
		require.True(t, said, "recover does not say what it did about %q", left[:min(len(left), 20)])
	}
	want := 0
	if len(found) > 0 {
		switch found[0]["outcome"] {
		case "Unverified":
			want = exitUnverified
		case "Failed":
			want = exitFailed
		}
	}
	require.Equal(t, want, status)
	return found
}

func (c *matrixCell) served() bool {
	c.t.Helper()
	return strings.Contains(strings.Join(c.host.Processes(), "\n"), "roundsman-agent serve")
}

// agentDir is the directory of the only agent.
func (c *matrixCell) agentDir() string {
	c.t.Helper()
	return strings.TrimSpace(c.host.Run("sh", "-c", "ls -d /var/lib/roundsman/*"))
}

// jobEnded reports whether there is a job whose installer has ended, and how that
// is on record.
func (c *matrixCell) jobEnded() bool {
	c.t.Helper()
	out := c.host.Run("sh", "-c", "cat /var/lib/roundsman/*/jobs/*.json 2>/dev/null || :")
	return endedWell([]byte(out))
}

// endedWell reports whether a record is of a job whose installer has ended.
func endedWell(data []byte) bool {
	var record struct {
		State string          `json:"state"`
		Exit  *transport.Exit `json:"exit"`
	}
	return json.Unmarshal(data, &record) == nil && record.State == "Done" && record.Exit != nil
}

// kinds are the outcomes in short.
func kinds(outcomes []map[string]any) []string {
	out := []string{}
	for _, o := range outcomes {
		code, _ := o["code"].(map[string]any)
		out = append(out, fmt.Sprint(o["outcome"], " ", code["space"], ":", code["value"]))
	}
	return out
}

func (c *matrixCell) eventually(what string, ok func() bool) {
	c.t.Helper()
	require.Eventually(c.t, ok, time.Minute, 20*time.Millisecond, what)
}

// arrangeAccepted: the job is the agent's, and the manager does not know that.
func (c *matrixCell) arrangeAccepted() func() {
	c.host.Run("sh", "-c", "ls /var/lib/roundsman/*/jobs/*.json")
	return func() {}
}

// arrangeInstalling: the installer runs.
func (c *matrixCell) arrangeInstalling() func() {
	c.eventually("the installer runs", func() bool { return c.runs("rmslow") == 1 })
	return func() { c.host.Run("touch", "/var/lib/go-on") }
}

// arrangeInstalled: it has ended, and the manager does not know that.
func (c *matrixCell) arrangeInstalled() func() {
	c.eventually("the installer ends", func() bool {
		return c.jobEnded() && !strings.Contains(strings.Join(c.host.Processes(), "\n"), "roundsman-agent shim")
	})
	return func() {}
}

// arrangeVerifying: the agent is reading the database of dpkg, which does not end.
func (c *matrixCell) arrangeVerifying() func() {
	c.t.Helper()
	const script = `mkfifo /run/held; mount --bind /run/held /var/lib/dpkg/status; echo mounted
		exec 3>/run/held; echo held; read go
		umount -l /var/lib/dpkg/status; rm /run/held; cat /var/lib/dpkg/status >&3; :`
	in, line := c.script(script)
	require.Equal(c.t, "mounted", line())
	c.proc.goAhead()
	require.Equal(c.t, "held", line(), "somebody reads")
	return func() {
		_, _ = io.WriteString(in, "go\n")
		require.Empty(c.t, line()) // its end
		// A reboot ends it, but takes no mount away.
		c.host.Run("sh", "-c", "if [ -p /var/lib/dpkg/status ]; then umount -l /var/lib/dpkg/status; fi")
	}
}

// arrangeRemoving: the agent has deleted some of what it has to, and is halted.
func (c *matrixCell) arrangeRemoving() func() {
	c.t.Helper()
	dir := c.agentDir()
	// It deletes the socket first, and then for a while these.
	c.host.Run("sh", "-c", `cd "$1/blobs" && seq 1 20000 | xargs touch`, "sh", dir)
	const script = `pid=$(pgrep -o -f "roundsman-agent serve"); echo "$pid"
		while [ -S "$1/agent.sock" ]; do :; done
		kill -STOP "$pid"
		until grep -q "^State:.T" "/proc/$pid/status"; do :; done
		ls "$1/blobs" | wc -l`
	_, line := c.script(script, dir)
	pid := line()
	c.proc.goAhead()
	rest, err := strconv.Atoi(line())
	require.NoError(c.t, err)
	require.NotZero(c.t, rest, "it was faster")
	return func() { c.host.Run("sh", "-c", `kill -CONT "$1" 2>/dev/null || :`, "sh", pid) }
}

// arrangeRemoved: the agent has deleted everything, and the manager does not know.
func (c *matrixCell) arrangeRemoved() func() {
	c.host.Run("sh", "-c", "! [ -e /var/lib/roundsman/*/roundsman-agent ]")
	return func() {}
}

// script runs a shell script on the host, before all others, until the test ends,
// and returns its standard input and what gives the lines that it prints.
func (c *matrixCell) script(script string, args ...string) (io.Writer, func() string) {
	c.t.Helper()
	cmd := c.host.Command(context.Background(), "nice", append([]string{"-n", "-20", "sh", "-c", script, "sh"}, args...)...)
	in, err := cmd.StdinPipe()
	require.NoError(c.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, cmd.Start())
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	sc := bufio.NewScanner(out)
	return in, func() string {
		sc.Scan()
		return sc.Text()
	}
}
