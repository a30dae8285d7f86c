package agenttest_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// wire is a connection that only identifies itself.
type wire struct {
	mu sync.Mutex
	id transport.Identity
	e  error
}

func (w *wire) Identify(ctx context.Context) (transport.Identity, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.e != nil {
		return transport.Identity{}, w.e
	}
	return w.id, ctx.Err()
}
func (w *wire) Caps() transport.Caps        { return 0 }
func (w *wire) Path() transport.Path        { return transport.Path{} }
func (w *wire) Close(context.Context) error { return nil }
func (w *wire) set(boot string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id.BootID, w.e = boot, err
}

func newWire() *wire {
	return &wire{id: transport.Identity{Name: "db1", Serial: "S1", BootID: "b1"}}
}

const jobID = "0123456789abcdef0123456789abcdef"

func start(t *testing.T, in *agenttest.Installer, conn transport.Conn) agent.Agent {
	t.Helper()
	a, err := in.Start(t.Context(), conn, agent.StartOptions{Target: "db1", ID: "m1-db1"})
	require.NoError(t, err)
	return a
}

func stagedJob(t *testing.T, a agent.Ops) agent.Job {
	t.Helper()
	f := transport.BytesFile("hello.deb", []byte("package"))
	_, err := a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	return agent.Job{
		ID: jobID, Component: "hello", Version: "2.10", Argv: []string{"dpkg", "-i", "{dir}/hello.deb"},
		Files: []agent.JobFile{{Name: "hello.deb", SHA256: f.Digest(), Size: f.Size}}, Profile: agent.ProfileDeb,
	}
}

// finish asks until the job has ended and returns its last status and whole log.
func finish(t *testing.T, a agent.Ops, id string) (agent.Status, string) {
	t.Helper()
	var log bytes.Buffer
	for range 100 {
		s, err := a.Status(t.Context(), id, int64(log.Len()))
		require.NoError(t, err)
		log.Write(s.Log)
		require.EqualValues(t, log.Len(), s.NextLog)
		if s.State.Final() && len(s.Log) == 0 {
			return s, log.String()
		}
	}
	t.Fatal("the job never ended")
	return agent.Status{}, ""
}

func TestWholeLife(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	h.SetSoftware(transport.Software{Name: "hello", Version: "2.9", Source: "dpkg"}, transport.Software{Name: "tool", Version: "7", Source: agent.ProbeSource})
	h.OnInstall("hello", agenttest.Job{Log: []string{"Unpacking\n", "Setting up\n"}})

	var places []agent.Place
	a, err := in.Start(t.Context(), newWire(), agent.StartOptions{Target: "db1", ID: "m1-db1", BaseDirs: []string{"/opt/x"},
		Opened: func(_ context.Context, p agent.Place) error { places = append(places, p); return nil }})
	require.NoError(t, err)
	require.Equal(t, []agent.Place{{ID: "m1-db1", Dir: "/opt/x/m1-db1"}, {ID: "m1-db1", Dir: "/opt/x/m1-db1", Addr: "/opt/x/m1-db1/agent.sock"}}, places)
	require.NotEmpty(t, in.Left())

	inv, err := a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	require.Equal(t, "S1", inv.Identity.Serial)
	require.Len(t, inv.Software, 1, "a probed program is reported only if asked for")
	inv, err = a.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{{Name: "tool", Argv: []string{"/bin/tool"}}}})
	require.NoError(t, err)
	require.Len(t, inv.Software, 2)

	job := stagedJob(t, a)
	s, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, agent.Accepted, s.State)
	_, err = a.Remove(t.Context())
	require.ErrorIs(t, err, agent.ErrJobRunning)

	s, log := finish(t, a, job.ID)
	require.Equal(t, agent.Done, s.State)
	require.Equal(t, "Unpacking\nSetting up\n", log)
	require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
	require.Equal(t, "b1", s.BootID)
	require.Equal(t, "2.10", h.Version("hello"))

	s, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, agent.Done, s.State, "the same ID reports the job")
	other := job
	other.Version = "3"
	_, err = a.Install(t.Context(), other)
	require.ErrorIs(t, err, agent.ErrJobConflict)
	require.Equal(t, 1, h.Runs("hello"))
	require.Equal(t, 1, in.Runs("hello"))

	logs, err := a.Logs(t.Context())
	require.NoError(t, err)
	require.Len(t, logs, 3)
	var got strings.Builder
	require.NoError(t, a.Log(t.Context(), jobID+".log", &got))
	require.Equal(t, log, got.String())
	require.ErrorIs(t, a.Log(t.Context(), "other", &got), fs.ErrNotExist)

	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Contains(t, left, "/opt/x/m1-db1/agent.log")
	require.Len(t, left, 3)
	require.NoError(t, in.Check())
}

func TestStageResumesAfterLoss(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	conn := newWire()
	a := start(t, in, conn)
	f := transport.BytesFile("big", bytes.Repeat([]byte("x"), 100_000))
	h.Fault(agenttest.Fault{Op: agenttest.Stage, Call: 1, Bytes: 40_000})
	var last int64
	_, err := a.Stage(t.Context(), f, func(n int64) { last = n })
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.EqualValues(t, 40_000, last)
	_, err = a.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost, "a lost connection stays lost")
	require.NoError(t, a.Close(t.Context()))

	a = start(t, in, conn)
	res, err := a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	require.EqualValues(t, 40_000, res.Kept)
	require.EqualValues(t, 60_000, res.Sent)
	res, err = a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	require.Zero(t, res.Sent)
	require.EqualValues(t, 100_000, h.StagedBytes())

	bad := f
	bad.SHA256[0]++
	_, err = a.Stage(t.Context(), bad, nil)
	require.ErrorIs(t, err, transport.ErrIntegrity)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.Check())
}

func TestInstallAnswerLostIsNotRunTwice(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	h.Fault(agenttest.Fault{Op: agenttest.Install, After: true, Call: 1})
	a := start(t, in, newWire())
	job := stagedJob(t, a)
	_, err := a.Install(t.Context(), job)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, a.Close(t.Context()))
	a = start(t, in, newWire()) // another manager process
	s, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, agent.Done, s.State, "the job went on alone")
	require.Equal(t, 1, h.Runs("hello"))
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.Check())
}

func TestAgentDiesAndJobGoesOn(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	h.OnInstall("hello", agenttest.Job{Log: []string{"a", "b"}, AgentDies: true, Exit: transport.Exit{Code: 1}})
	a := start(t, in, newWire())
	job := stagedJob(t, a)
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	_, err = a.Status(t.Context(), job.ID, 0)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, a.Close(t.Context()))
	require.NotEmpty(t, in.Left())
	require.Error(t, in.Check())

	a = start(t, in, newWire())
	s, log := finish(t, a, job.ID)
	require.Equal(t, "ab", log)
	require.Equal(t, transport.VerdictFailed, s.Result.Verdict)
	require.Empty(t, h.Version("hello"))
	h.KillAgent()
	_, err = a.Remove(t.Context())
	require.NoError(t, err, "a dead agent is removed through the connection")
	require.NoError(t, in.Check())
}

func TestSweepAndRebootAndInterrupted(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	hold := make(chan struct{})
	h.OnInstall("hello", agenttest.Job{Hold: hold})
	conn := newWire()
	a := start(t, in, conn)
	job := stagedJob(t, a)
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	_, err = in.Sweep(t.Context(), conn, a.Place())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	require.ErrorIs(t, a.Reboot(t.Context(), transport.RebootOptions{}), agent.ErrJobRunning)
	h.ExpireLease()
	_, err = a.Jobs(t.Context())
	require.NoError(t, err, "a lease does not end while a job runs")

	conn.set("b2", nil) // the host comes up again
	_, err = a.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, a.Close(t.Context()))
	a = start(t, in, conn)
	s, _ := finish(t, a, job.ID)
	require.Equal(t, agent.Interrupted, s.State)
	require.Equal(t, "b1", s.BootID)
	require.NoError(t, a.Close(t.Context()))

	left, err := in.Sweep(t.Context(), conn, a.Place())
	require.NoError(t, err)
	require.Len(t, left, 3)
	left, err = in.Sweep(t.Context(), conn, agent.Place{ID: "nobody"})
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, in.Check())

	other := &wire{id: transport.Identity{Name: "db2"}}
	_, err = in.Sweep(t.Context(), other, a.Place())
	require.NoError(t, err)
	require.Len(t, in.Violations(), 1, "sweeping another machine")
}

func TestFirmwareAtBoot(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	h.SetDevices(transport.Device{ID: "nic0", Firmware: "1.0"})
	h.OnInstall("hello", agenttest.Job{Exit: transport.Exit{Code: 1}, AtBoot: func(m *agenttest.Machine) { m.SetFirmware("nic0", "2.0") }})
	conn := newWire()
	h.OnReboot(func() { conn.set("b2", nil) })
	a := start(t, in, conn)
	job := stagedJob(t, a)
	job.Profile = agent.ProfileHPELinux
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	s, _ := finish(t, a, job.ID)
	require.Equal(t, transport.ActivationReboot, s.Result.Activation)
	inv, err := a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	require.Equal(t, "1.0", inv.Devices[0].Firmware)
	require.NoError(t, a.Reboot(t.Context(), transport.RebootOptions{Message: "Neustart — 再起動"}))
	require.Equal(t, []string{"Neustart — 再起動"}, h.RebootMessages())
	require.NoError(t, a.Close(t.Context()))
	a = start(t, in, conn)
	inv, err = a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	require.Equal(t, "2.0", inv.Devices[0].Firmware)
	require.Equal(t, "b2", inv.Identity.BootID)
	_, err = a.Stop(t.Context(), true)
	require.NoError(t, err)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.Check())
}

func TestFaultsOfStart(t *testing.T) {
	in := &agenttest.Installer{}
	h := in.Host("db1")
	h.Fault(agenttest.Fault{Op: agenttest.Start, Call: 1, Err: agent.ErrNoDir})
	h.Fault(agenttest.Fault{Op: agenttest.Start, Call: 3, After: true})
	opts := agent.StartOptions{Target: "db1", ID: "x"}
	_, err := in.Start(t.Context(), newWire(), opts)
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.Empty(t, in.Left())

	refuse := errors.New("journal is full")
	_, err = in.Start(t.Context(), newWire(), agent.StartOptions{Target: "db1", ID: "x", Opened: func(context.Context, agent.Place) error { return refuse }})
	require.ErrorIs(t, err, refuse)
	require.Empty(t, in.Left())

	_, err = in.Start(t.Context(), newWire(), opts)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NotEmpty(t, in.Left(), "the manager cannot clean up without a line")
	_, err = in.Sweep(t.Context(), newWire(), agent.Place{ID: "x"})
	require.NoError(t, err)
	require.NoError(t, in.Check())
	require.Equal(t, 3, h.Calls(agenttest.Start))

	ctx, cancel := context.WithCancel(t.Context())
	h.Fault(agenttest.Fault{Op: agenttest.Start, Stall: true, Do: cancel})
	_, err = in.Start(ctx, newWire(), opts)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFaultsOfTheConnectionReachTheAgent(t *testing.T) {
	in := &agenttest.Installer{}
	conn := newWire()
	a := start(t, in, conn)
	conn.set("b1", &transport.Error{Op: "identify", Kind: transport.ErrConnLost})
	_, err := a.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	in.Detached = true
	_, err = a.Jobs(t.Context())
	require.NoError(t, err)
}

func TestViolations(t *testing.T) {
	in := &agenttest.Installer{}
	_, err := in.Start(t.Context(), newWire(), agent.StartOptions{Target: "db1", ID: "../x"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	a := start(t, in, newWire())
	job := stagedJob(t, a)
	job.Files[0].SHA256 = strings.Repeat("0", 64)
	_, err = a.Install(t.Context(), job)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = a.Install(t.Context(), agent.Job{ID: "short"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	_, err = a.Status(t.Context(), jobID, 0)
	require.ErrorIs(t, err, agent.ErrNoJob)
	require.NoError(t, a.Close(t.Context()))
	require.NoError(t, a.Close(t.Context()))
	_, err = a.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrClosed)
	require.Len(t, in.Violations(), 4)
	require.Error(t, in.Check())
}

func TestLongLogComesInPieces(t *testing.T) {
	in := &agenttest.Installer{}
	long := strings.Repeat("0123456789abcdef", 40_000)
	in.Host("db1").OnInstall("hello", agenttest.Job{Log: []string{long}})
	a := start(t, in, newWire())
	job := stagedJob(t, a)
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	s, err := a.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Done, s.State)
	require.Len(t, s.Log, 256<<10, "there is more, though the job is over")
	_, log := finish(t, a, job.ID)
	require.Equal(t, long, log)
}

func TestCancel(t *testing.T) {
	in := &agenttest.Installer{}
	hold := make(chan struct{})
	in.Host("db1").OnInstall("hello", agenttest.Job{Hold: hold, Overdue: true})
	a := start(t, in, newWire())
	job := stagedJob(t, a)
	job.NoKill = true
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	s, err := a.Cancel(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, agent.Running, s.State, "it must not be interrupted")
	require.True(t, s.Overdue)
	close(hold)
	s, _ = finish(t, a, job.ID)
	require.Equal(t, agent.Done, s.State)

	in.Host("db1").OnInstall("hello", agenttest.Job{Hold: make(chan struct{})})
	job.ID, job.NoKill = strings.Repeat("a", 32), false
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	s, err = a.Cancel(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, agent.Running, s.State, "the program needs its time to end")
	s, _ = finish(t, a, job.ID)
	require.Equal(t, agent.Cancelled, s.State)
	require.Equal(t, "TERM", s.Exit.Signal)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.Check())
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	in := &agenttest.Installer{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := string(rune('a' + i))
			a, err := in.Start(context.Background(), newWire(), agent.StartOptions{Target: name, ID: name})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := a.Inventory(context.Background(), agent.InventoryRequest{}); err != nil {
				t.Error(err)
			}
			if _, err := a.Stage(context.Background(), transport.BytesFile("f", make([]byte, 1<<20)), nil); err != nil {
				t.Error(err)
			}
			if _, err := a.Remove(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, in.Check())
}
