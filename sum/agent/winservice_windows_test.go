package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// TestMain is the agent, or what stands in for manage-bde.exe, where this program is called
// by its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == programName && len(os.Args) == 4 && os.Args[1] == "deaf" {
		_ = runHandler(os.Args[2], deaf{os.Args[3]})
		endNow(0)
	}
	if filepath.Base(os.Args[0]) == programName && len(os.Args) > 1 {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if filepath.Base(os.Args[0]) == "manage-bde.exe" {
		os.Exit(standInBDE())
	}
	if filepath.Base(os.Args[0]) == "msiexec.exe" {
		os.Exit(standInMSIExec())
	}
	os.Exit(m.Run())
}

// winHost is the directory of an agent of this host, whose program is this one.
type winHost struct {
	t     *testing.T
	home  home
	boot  Bootstrap
	ready Ready
	key   *channel.OwnKey
	scm   *mgr.Mgr
}

func newWinHost(t *testing.T) *winHost {
	t.Helper()
	base := DefaultBaseDirs(true, `C:\`)[0]
	require.NoError(t, os.MkdirAll(base, 0o700))
	h := &winHost{t: t, home: home(filepath.Join(base, strings.ToLower(channel.NewJobID())[:16]))}
	require.NoError(t, os.Mkdir(string(h.home), 0o700))
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, copyFile(h.home.path(programName), self, 0o700, io.Discard))
	h.boot = Bootstrap{Version: 1, Target: "test", LeaseSeconds: 600}
	h.scm, err = mgr.Connect()
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, name := range []string{h.agentName(), RemoveServiceName(h.home.id())} {
			h.end(name)
		}
		require.NoError(t, h.scm.Disconnect())
		h.await("the end of the program", func() bool { return removeAll(string(h.home)) == nil })
	})
	return h
}

func (h *winHost) agentName() string { return ServiceName(h.home.id()) }

// end leaves nothing of a service.
func (h *winHost) end(name string) {
	s, err := h.scm.OpenService(name)
	if err != nil {
		return
	}
	defer s.Close()
	if st, err := s.Query(); err == nil && st.State != svc.Stopped {
		if _, err := s.Control(svc.Stop); err == nil {
			h.await("the end of "+name, func() bool { st, err := s.Query(); return err != nil || st.State == svc.Stopped })
		}
	}
	_ = s.Delete()
}

func (h *winHost) await(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(90 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("%s did not come about; agent.log:\n%s", what, h.log())
		}
	}
}

func (h *winHost) log() string {
	data, _ := readFile(h.home.path(LogName))
	return string(data)
}

// putBootstrap makes the manager's key, and the bootstrap with its fingerprint.
func (h *winHost) putBootstrap() {
	h.t.Helper()
	var err error
	h.key, err = channel.NewOwnKey()
	require.NoError(h.t, err)
	h.boot.Nonce, h.boot.Manager = channel.NewJobID(), h.key.Fingerprint().String()
	data, err := json.Marshal(h.boot)
	require.NoError(h.t, err)
	require.NoError(h.t, os.WriteFile(h.home.path(BootstrapName), data, 0o600))
}

// create makes the entry of a service of a command.
func (h *winHost) create(name, command string) *mgr.Service {
	h.t.Helper()
	s, err := h.scm.CreateService(name, h.home.path(programName), mgr.Config{StartType: mgr.StartManual},
		command, "-dir", string(h.home), "-service", name)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { s.Close() })
	return s
}

// serve starts an agent as a service and waits until it listens.
func (h *winHost) serve(s *mgr.Service) {
	h.t.Helper()
	h.putBootstrap()
	require.NoError(h.t, s.Start())
	h.awaitReady()
	st, err := s.Query()
	require.NoError(h.t, err)
	require.Equal(h.t, svc.Running, st.State)
	require.Equal(h.t, svc.AcceptStop|svc.AcceptShutdown|svc.AcceptPreShutdown, st.Accepts)
	require.EqualValues(h.t, h.ready.PID, st.ProcessId)
}

func (h *winHost) awaitReady() {
	h.t.Helper()
	h.await("a ready file", func() bool {
		h.ready = Ready{}
		return readJSON(h.home.path(ReadyName), &h.ready) == nil && h.ready.Nonce == h.boot.Nonce
	})
	require.Equal(h.t, pipePrefix+PipeName(h.home.id()), h.ready.Addr)
	require.NoFileExists(h.t, h.home.path(BootstrapName))
}

func (h *winHost) client() *Client {
	h.t.Helper()
	theirs, err := channel.ParseFingerprint(h.ready.Fingerprint)
	require.NoError(h.t, err)
	cred, err := h.key.Manager(theirs)
	require.NoError(h.t, err)
	c, err := NewClient(h.t.Context(), ClientOptions{Target: "test", Credentials: cred, Epoch: h.ready.Epoch,
		Dial: func(ctx context.Context) (net.Conn, error) { return dialPipe(ctx, h.ready.Addr) }})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// stopped waits until a service has stopped, and tells how.
func (h *winHost) stopped(s *mgr.Service) svc.Status {
	h.t.Helper()
	var st svc.Status
	h.await("the end of the service", func() bool {
		var err error
		st, err = s.Query()
		require.NoError(h.t, err)
		return st.State == svc.Stopped
	})
	return st
}

// exit is the service-specific exit code of a service that has stopped.
func (h *winHost) exit(s *mgr.Service) int {
	h.t.Helper()
	st := h.stopped(s)
	if st.ServiceSpecificExitCode != 0 {
		require.EqualValues(h.t, windows.ERROR_SERVICE_SPECIFIC_ERROR, st.Win32ExitCode)
	}
	return int(st.ServiceSpecificExitCode)
}

// exists reports whether a service has an entry.
func (h *winHost) exists(name string) bool {
	s, err := h.scm.OpenService(name)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) || errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
		return false
	}
	require.NoError(h.t, err)
	require.NoError(h.t, s.Close())
	return true
}

func (h *winHost) files() []string {
	var out []string
	_ = filepath.WalkDir(string(h.home), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(string(h.home), p)
			out = append(out, filepath.ToSlash(rel))
		}
		return nil
	})
	return out
}

// pending are the files that the next boot deletes.
func pending(t *testing.T) string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Control\Session Manager`, registry.QUERY_VALUE)
	require.NoError(t, err)
	defer k.Close()
	list, _, err := k.GetStringsValue("PendingFileRenameOperations")
	if !errors.Is(err, registry.ErrNotExist) {
		require.NoError(t, err)
	}
	return strings.ToLower(strings.Join(list, "\n")) + "\n"
}

// command is a job that waits until a file is gone, which it prints before.
func (h *winHost) command(gate string) Job {
	return Job{ID: channel.NewJobID(), Component: "c", Version: "1", Profile: ProfileZeroOK, Argv: []string{"cmd.exe", "/c",
		"echo begun & for /l %i in (0,0,1) do (if not exist " + gate + " exit 0) & ping -n 2 127.0.0.1 >nul"}}
}

// TestWindowsService: the agent is a service from its start to its manager's word.
func TestWindowsService(t *testing.T) {
	h := newWinHost(t)
	s := h.create(h.agentName(), "serve")
	h.serve(s)
	c := h.client()
	j := Job{ID: channel.NewJobID(), Component: "c", Version: "1", Profile: ProfileZeroOK, Argv: []string{"cmd.exe", "/c", "echo hello"}}
	_, err := c.Install(t.Context(), j)
	require.NoError(t, err)
	var st Status
	h.await("the end of the job", func() bool {
		st, err = c.Status(t.Context(), j.ID, 0)
		require.NoError(t, err)
		return st.State.Final()
	})
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict, st)

	// Told to stop, it leaves everything for the next.
	_, err = s.Control(svc.Stop)
	require.NoError(t, err)
	require.Zero(t, h.exit(s))
	require.Contains(t, h.log(), "agent leaves")
	require.True(t, h.exists(h.agentName()))
	require.FileExists(t, h.home.leasePath())

	h.serve(s)
	c = h.client()
	left, err := c.Stop(t.Context(), true)
	require.NoError(t, err)
	require.Len(t, left, 3)
	require.NoError(t, s.Close())
	h.await("the end of the entry", func() bool { return !h.exists(h.agentName()) })
	require.ElementsMatch(t, []string{LogName, "jobs/" + j.ID + ".json", "jobs/" + j.ID + ".log", programName}, h.files())
	require.NotContains(t, pending(t), strings.ToLower(string(h.home)), "its manager deletes the program")
}

// TestWindowsServiceLease: where nobody comes any more nothing is left but what the next
// boot deletes.
func TestWindowsServiceLease(t *testing.T) {
	h := newWinHost(t)
	h.boot.LeaseSeconds = 1
	s := h.create(h.agentName(), "serve")
	h.putBootstrap()
	require.NoError(t, s.Start())
	require.NoError(t, s.Close())
	h.await("the end of the entry", func() bool { return !h.exists(h.agentName()) })
	require.NoDirExists(t, string(h.home))
	require.NotContains(t, pending(t), strings.ToLower(string(h.home)), "the program may be brought there anew")
	old, err := filepath.Glob(filepath.Join(h.home.base(), oldProgram+"*.exe"))
	require.NoError(t, err)
	require.Len(t, old, 1)
	require.Contains(t, pending(t), strings.ToLower(old[0])+"\n")

	// The next agent that comes deletes it before that.
	next := newWinHost(t)
	next.serve(next.create(next.agentName(), "serve"))
	require.NoFileExists(t, old[0])
}

// TestWindowsServiceFails: why it did not start is told by its exit code, and its log.
func TestWindowsServiceFails(t *testing.T) {
	h := newWinHost(t)
	s := h.create(h.agentName(), "serve")
	require.NoError(t, s.Start())
	require.Equal(t, ExitFailed, h.exit(s))
	require.Contains(t, h.log(), BootstrapName)

	h.boot.Network = "pipe"
	h.boot.Listen = strings.Repeat("x", 300) // no name of a pipe
	h.putBootstrap()
	require.NoError(t, s.Start())
	require.Equal(t, ExitFailed, h.exit(s))
	require.Contains(t, h.log(), "xxx")
	require.NoFileExists(t, h.home.path(BootstrapName))
	require.True(t, h.exists(h.agentName()), "for who wants to know")
	require.Equal(t, ExitNoSpace, exitStatus(&os.PathError{Err: windows.ERROR_DISK_FULL}))
}

// TestWindowsServiceRemove: one service takes away what another has left.
func TestWindowsServiceRemove(t *testing.T) {
	h := newWinHost(t)
	s := h.create(h.agentName(), "serve")
	h.serve(s)
	c := h.client()
	gate := h.home.path("gate")
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	j := h.command(gate)
	_, err := c.Install(t.Context(), j)
	require.NoError(t, err)
	h.await("the job", func() bool {
		st, err := c.Status(t.Context(), j.ID, 0)
		require.NoError(t, err)
		return strings.Contains(string(st.Log), "begun")
	})
	r := h.create(RemoveServiceName(h.home.id()), "remove")
	require.NoError(t, r.Start())
	require.Equal(t, ExitJobRunning, h.exit(r))
	require.Contains(t, h.log(), j.ID)
	require.FileExists(t, h.home.leasePath())

	// A service that is killed ends no job.
	killed := thisWinProcess(t, h.ready.PID)
	require.NoError(t, endProcess(h.ready.PID))
	h.await("the end of the agent", func() bool { return !killed.alive() })
	require.Equal(t, []string{j.ID}, h.home.busy())
	require.NoError(t, os.Remove(gate))
	h.await("the end of the job", func() bool { return len(h.home.busy()) == 0 })
	rec, err := h.home.readRecord(j.ID)
	require.NoError(t, err)
	require.Equal(t, Done, rec.State)

	// An agent that no service is any more.
	h.putBootstrap()
	cmd := exec.Command(h.home.path(programName), "serve", "-dir", string(h.home))
	require.NoError(t, cmd.Start())
	h.awaitReady()
	require.NoError(t, s.Close())
	require.NoError(t, r.Start())
	require.NoError(t, cmd.Wait())
	require.Zero(t, h.exit(r), h.log())
	require.False(t, h.exists(h.agentName()))
	require.True(t, h.exists(RemoveServiceName(h.home.id())), "its exit code is asked for")
	require.ElementsMatch(t, []string{LogName, "jobs/" + j.ID + ".json", "jobs/" + j.ID + ".log", programName}, h.files())
}

func thisWinProcess(t *testing.T, pid int) process {
	p := started(pid)
	require.True(t, p.alive())
	return p
}

// TestWindowsServiceForeign: the entry of a service by this name of another program stays.
func TestWindowsServiceForeign(t *testing.T) {
	h := newWinHost(t)
	s, err := h.scm.CreateService(h.agentName(), `C:\other\`+programName, mgr.Config{StartType: mgr.StartManual})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, h.home.forgetService())
	require.True(t, h.exists(h.agentName()))
}

// TestWindowsServiceEnds: what the service control manager may ask of it.
func TestWindowsServiceEnds(t *testing.T) {
	keepStd(t)
	for _, how := range []svc.Cmd{svc.Stop, svc.Shutdown, svc.PreShutdown} {
		h := home(tempDir(t))
		s := startedService(t, h)
		s.requests <- svc.ChangeRequest{Cmd: svc.Interrogate, CurrentStatus: s.running}
		require.Equal(t, s.running, <-s.states)
		s.requests <- svc.ChangeRequest{Cmd: how}
		st := <-s.states
		require.Equal(t, svc.StopPending, st.State)
		require.NotZero(t, st.WaitHint)
		s.ends(t)
		data, err := readFile(h.path(LogName))
		require.NoError(t, err)
		require.Contains(t, string(data), "roundsman-agent as roundsman-none: ")
		_ = os.Stdout.Close()
	}

	// A job that must not be interrupted delays the shutdown, and nothing else does.
	h := home(filepath.Join(tempDir(t), "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	require.NoError(t, h.prepare())
	j := Job{ID: channel.NewJobID(), NoKill: true}
	sh := shim{home: h, id: j.ID}
	require.NoError(t, os.Mkdir(sh.dir(), 0o700))
	require.NoError(t, writeJSON(sh.spec(), j))
	require.NoError(t, h.writeRecord(record{Version: fileVersion, ID: j.ID, State: Running, BootID: bootID(), Program: thisProcess()}))
	s := startedService(t, h)
	s.requests <- svc.ChangeRequest{Cmd: svc.PreShutdown}
	for before := uint32(0); before < 3; {
		st := <-s.states
		require.Equal(t, svc.StopPending, st.State)
		require.Greater(t, st.CheckPoint, before)
		before = st.CheckPoint
	}
	require.NoError(t, s.ctx.Err(), "it goes on")
	require.NoError(t, h.writeRecord(record{Version: fileVersion, ID: j.ID, State: Done}))
	s.ends(t)
	_ = os.Stdout.Close()
}

// scmSide is what the service control manager knows of a service.
type scmSide struct {
	requests chan svc.ChangeRequest
	states   chan svc.Status
	running  svc.Status
	ctx      context.Context // of its work
	ended    chan [2]uint32
}

// startedService is a service that works until it is told to end.
func startedService(t *testing.T, h home) *scmSide {
	t.Helper()
	c := &scmSide{requests: make(chan svc.ChangeRequest), states: make(chan svc.Status), ended: make(chan [2]uint32, 1)}
	begun := make(chan context.Context, 1)
	s := &windowsService{home: h, name: "roundsman-none", work: func(ctx context.Context) (bool, error) {
		begun <- ctx
		<-ctx.Done()
		return false, windows.ERROR_DISK_FULL
	}}
	go func() {
		specific, code := s.Execute(nil, c.requests, c.states)
		exit := [2]uint32{0, code}
		if specific {
			exit[0] = 1
		}
		c.ended <- exit
	}()
	require.Equal(t, svc.StartPending, (<-c.states).State)
	c.running = <-c.states
	require.Equal(t, svc.Running, c.running.State)
	c.ctx = <-begun
	return c
}

// ends waits for the end of its work.
func (c *scmSide) ends(t *testing.T) {
	t.Helper()
	for {
		select {
		case st := <-c.states:
			require.Equal(t, svc.StopPending, st.State)
		case exit := <-c.ended:
			require.Equal(t, [2]uint32{1, ExitNoSpace}, exit)
			return
		}
	}
}
