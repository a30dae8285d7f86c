package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/internal/winlab"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// TestWine runs the agent for Windows under Wine, which is not Windows: see the
// package documentation for what that shows.
func TestWine(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: -short leaves out tests with real processes")
	}
	w := realtest.NewWine(t)
	program := filepath.Join(w.Dir, agent.WindowsBinaryName)
	require.NoError(t, winlab.Build(t.Context(), program, "github.com/roundsman-go/roundsman/examples/agent"))
	component := filepath.Join(w.Dir, "cp012345.exe")
	source := filepath.Join(w.Dir, "component.c")
	require.NoError(t, os.WriteFile(source, []byte(componentSource), 0o600))
	msg, err := exec.CommandContext(t.Context(), realtest.Need(t, "x86_64-w64-mingw32-gcc"), "-Os", "-s", "-o", component, source).CombinedOutput()
	require.NoError(t, err, string(msg))
	lab := &wineLab{Wine: w, program: program, component: component}

	t.Run("units", func(t *testing.T) {
		tests := filepath.Join(w.Dir, "agent.test.exe")
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests, "github.com/roundsman-go/roundsman/sum/agent")
		build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		msg, err := build.CombinedOutput()
		require.NoError(t, err, string(msg))
		cmd := w.Command(t.Context(), tests, "-test.v", "-test.timeout=5m", "-test.run=^TestWindows")
		out, err := cmd.CombinedOutput()
		if !errors.Is(err, exec.ErrWaitDelay) { // what Wine has started with it may stay
			require.NoError(t, err, string(out))
		}
		require.Contains(t, string(out), "\nPASS")
		require.Contains(t, string(out), "--- PASS: TestWindows")
		require.NotContains(t, string(out), "--- SKIP")
	})
	t.Run("installs", lab.installs)
	t.Run("pipe", lab.pipe)
}

// wineLab is where the agents of a test run.
type wineLab struct {
	*realtest.Wine
	program, component string
}

// componentSource is a component as makers of hardware have them: it says that all went
// well with an exit code that is not 0. It ends when the file that it is given is there.
const componentSource = `
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
	printf("begun\n"); fflush(stdout);
	while (argc > 2 && GetFileAttributesA(argv[2]) == INVALID_FILE_ATTRIBUTES) Sleep(20);
	printf("ended\n"); fflush(stdout);
	return (int)strtoul(argv[1], 0, 10);
}
`

// wineAgent is an agent under Wine.
type wineAgent struct {
	*host
	lab     *wineLab
	serving *exec.Cmd
	ended   chan error
}

func (l *wineLab) agent(t *testing.T) *wineAgent {
	t.Helper()
	base := filepath.Join(l.C(), "windows", "roundsman")
	require.NoError(t, os.MkdirAll(base, 0o700))
	dir, err := os.MkdirTemp(base, "agent-")
	require.NoError(t, err)
	h := &host{t: t, dir: dir}
	h.boot = agent.Bootstrap{Version: 1, Target: "test", LeaseSeconds: 600, Network: "tcp", Listen: "127.0.0.1:0"}
	a := &wineAgent{host: h, lab: l}
	a.putProgram()
	t.Cleanup(a.kill)
	return a
}

// native is the name that the directory has there. Z: is where others can write.
func (a *wineAgent) native() string { return `C:\windows\roundsman\` + filepath.Base(a.dir) }

func (a *wineAgent) putProgram() {
	data, err := os.ReadFile(a.lab.program)
	require.NoError(a.t, err)
	require.NoError(a.t, os.WriteFile(a.path(agent.WindowsBinaryName), data, 0o700))
}

// serve starts serve and waits until it listens.
func (a *wineAgent) serve() {
	a.t.Helper()
	a.putBootstrap()
	a.serving = a.lab.Command(context.Background(), a.path(agent.WindowsBinaryName), "serve", "-dir", a.native())
	a.serving.Dir = a.lab.Dir
	var out lockedBuffer
	a.serving.Stdout, a.serving.Stderr = &out, &out
	require.NoError(a.t, a.serving.Start())
	a.ended = make(chan error, 1)
	go func() { a.ended <- a.serving.Wait() }()
	a.await("a ready file", func() bool {
		select {
		case err := <-a.ended:
			a.t.Fatalf("serve ended: %v: %s", err, out.String())
		default:
		}
		data, err := os.ReadFile(a.path(agent.ReadyName))
		a.ready = agent.Ready{}
		return err == nil && json.Unmarshal(data, &a.ready) == nil && a.ready.Nonce == a.boot.Nonce
	})
	require.NoFileExists(a.t, a.path(agent.BootstrapName))
}

// kill ends the service as nothing can prevent.
func (a *wineAgent) kill() {
	if a.serving == nil {
		return
	}
	// A signal would end the process without its server, which has its connections.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := a.lab.Command(ctx, "taskkill.exe", "/f", "/pid", itoa(a.ready.PID)).CombinedOutput()
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.t.Errorf("the agent does not end: %v: %s", err, out)
		_ = a.serving.Process.Kill()
	}
	a.serving = nil
}

// component stages the component and makes a job of it that ends with a code when the
// gate is opened.
func (a *wineAgent) job(c *agent.Client, code string) (j agent.Job, open func()) {
	data, err := os.ReadFile(a.lab.component)
	require.NoError(a.t, err)
	f := transport.BytesFile("cp012345.exe", data)
	_, err = c.Stage(a.t.Context(), f, nil)
	require.NoError(a.t, err)
	gate := filepath.Join(a.t.TempDir(), "gate")
	return agent.Job{
		ID: channel.NewJobID(), Component: "cp012345", Version: "1", Profile: agent.ProfileHPEWindows,
		Files: []agent.JobFile{{Name: f.Name, SHA256: f.Digest(), Size: f.Size, Executable: true}},
		Argv:  []string{"./cp012345.exe", code, a.lab.Path(gate)},
	}, func() { require.NoError(a.t, os.WriteFile(gate, nil, 0o600)) }
}

// installs is the whole life: install, the agent killed in the middle, its result asked
// of another, cancelled, stopped.
func (l *wineLab) installs(t *testing.T) {
	a := l.agent(t)
	a.serve()
	c := a.client()
	inv, err := c.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{
		{Name: "cmd", Argv: []string{"cmd.exe", "/c", "echo 1.2.3"}},
		{Name: "none", Argv: []string{"no-such-program"}},
	}})
	require.NoError(t, err)
	require.Equal(t, "windows", inv.Identity.OS)
	require.True(t, slices.ContainsFunc(inv.Software, func(s transport.Software) bool { return s.Name == "cmd" && s.Version == "1.2.3" }), inv.Software)

	j, open := a.job(c, "1")
	a.install(c, j)
	a.until(c, j.ID, printed("begun"))
	a.kill()
	_, err = c.Status(t.Context(), j.ID, 0)
	require.Error(t, err)
	a.serve()
	c = a.client()
	require.Equal(t, agent.Running, a.install(c, j).State, "the new agent knows the job")
	other, _ := a.job(c, "1")
	_, err = c.Install(t.Context(), other)
	require.ErrorIs(t, err, agent.ErrHostBusy)
	open()
	st := a.until(c, j.ID, final)
	require.Equal(t, agent.Done, st.State, st)
	require.Equal(t, 1, st.Exit.Code)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict, "1 is success for these")
	require.Equal(t, "begun\r\nended\r\n", string(st.Log))

	ended := []string{j.ID}
	for code, want := range map[string]transport.Verdict{
		"0": transport.VerdictFailed, "2": transport.VerdictStaged, "3": transport.VerdictNotNeeded, "3221225786": transport.VerdictFailed,
	} {
		j, open := a.job(c, code)
		open()
		a.install(c, j)
		st := a.until(c, j.ID, final)
		require.Equal(t, want, st.Result.Verdict, code)
		require.Equal(t, transport.Code{Space: "hpe-windows", Value: code}, st.Result.Code)
		ended = append(ended, j.ID)
	}

	j, _ = a.job(c, "1")
	a.install(c, j)
	a.until(c, j.ID, printed("begun"))
	_, err = c.Cancel(t.Context(), j.ID)
	require.NoError(t, err)
	st = a.until(c, j.ID, final)
	require.Equal(t, agent.Cancelled, st.State)
	require.Equal(t, 0xC000013A, st.Exit.Code)
	ended = append(ended, j.ID)

	left, err := c.Stop(t.Context(), true)
	require.NoError(t, err)
	require.NotEmpty(t, left)
	select {
	case err := <-a.ended:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("serve does not end")
	}
	a.serving = nil
	// Its own program it cannot delete, as it runs: that is for whoever brought it.
	require.NoError(t, os.Remove(a.path(agent.WindowsBinaryName)))
	want := []string{agent.LogName}
	for _, id := range ended {
		want = append(want, "jobs/"+id+".json", "jobs/"+id+".log")
	}
	require.ElementsMatch(t, want, a.files(), "only logs stay")
	for _, name := range left {
		require.True(t, strings.HasPrefix(name, a.native()), name)
	}
	entries, err := os.ReadDir(filepath.Dir(a.dir))
	require.NoError(t, err)
	require.Len(t, entries, 1, "the file by which a job holds the host")
	_, err = net.DialTimeout("tcp", a.ready.Addr, time.Second)
	require.Error(t, err)
}

// dialPipe dials a named pipe by the program's own command, as only Windows programs
// can.
func (a *wineAgent) dialPipe(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	cmd := a.lab.Command(context.Background(), a.lab.program, "connect", "-socket", a.ready.Addr)
	cmd.Stdin, cmd.Stdout = far, far
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		_ = far.Close()
	}()
	return near, nil
}

// pipe is a job over a named pipe.
func (l *wineLab) pipe(t *testing.T) {
	a := l.agent(t)
	a.boot.Network, a.boot.Listen = "pipe", ""
	a.serve()
	require.Equal(t, "pipe", a.ready.Network)
	require.Equal(t, `\\.\pipe\roundsman-agent-`+filepath.Base(a.dir), a.ready.Addr)
	a.runsAJob(a.dialPipe)
	err := <-a.ended
	require.NoError(t, err)
	a.serving = nil
}

// runsAJob installs a component and stops the agent.
func (a *wineAgent) runsAJob(dial func(context.Context) (net.Conn, error)) {
	t := a.t
	c, err := agent.NewClient(t.Context(), agent.ClientOptions{Target: "test", Credentials: a.cred, Dial: dial, Epoch: a.ready.Epoch})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	j, open := a.job(c, "1")
	a.install(c, j)
	a.until(c, j.ID, printed("begun"))
	open()
	st := a.until(c, j.ID, final)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	require.Equal(t, "begun\r\nended\r\n", string(st.Log))
	_, err = c.Stop(t.Context(), true)
	require.NoError(t, err)
}
