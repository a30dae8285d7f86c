package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// testService is a service whose jobs get no shim unless the test says so: they stay
// Accepted.
func testService(t *testing.T) *service {
	t.Helper()
	h := home(filepath.Join(t.TempDir(), "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	require.NoError(t, h.prepare())
	s := newService(h, newLease(time.Hour), slog.New(slog.DiscardHandler))
	s.spawn = func(string) (<-chan struct{}, error) { return nil, errors.New("no shim") }
	s.collect = func(context.Context) *transport.Inventory { return &transport.Inventory{} }
	return s
}

func trueJob() *channel.InstallRequest {
	return &channel.InstallRequest{JobID: channel.NewJobID(), Component: "c", Args: []string{"true"}}
}

func testShim(s *service, id string) *shim {
	return &shim{home: s.home, id: id, log: s.log, grace: time.Second}
}

// A job that was recorded and never began may be given a shim again.
func TestAcceptedJobWithoutShim(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateAccepted, st.State)
	require.Empty(t, s.busy(), "it does not keep the agent here")

	spawned := 0
	ended := make(chan struct{})
	s.spawn = func(string) (<-chan struct{}, error) { spawned++; return ended, nil }
	for range 2 {
		st, err = s.Install(t.Context(), job)
		require.NoError(t, err)
		require.Equal(t, channel.StateAccepted, st.State)
	}
	require.Equal(t, 1, spawned)
	require.Equal(t, []string{job.JobID}, s.busy())
	require.False(t, s.leave())

	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	close(ended)
	st, err = s.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, channel.StateDone, st.State)
	require.Equal(t, 0, *st.ExitCode)
	require.Equal(t, 1, spawned)
	require.NoDirExists(t, s.home.jobDir(job.JobID))
	// A second shim finds that there is nothing to do.
	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	require.True(t, s.leave())
	_, err = s.Install(t.Context(), trueJob())
	require.Equal(t, channel.CodeBusy, faultCode(err), "no job for an agent that leaves")
}

func TestCancelBeforeTheJobBegins(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	st, err := s.Cancel(t.Context(), &channel.CancelRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateCancelled, st.State)
	require.Equal(t, string(transport.VerdictCancelled), st.Verdict)
	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	st, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateCancelled, st.State)
	require.NoFileExists(t, s.home.output(job.JobID))

	// With a shim that has the lock and has not started the program yet.
	job = trueJob()
	s.Install(t.Context(), job)
	lock, err := lockFile(s.home.jobLock(job.JobID), true)
	require.NoError(t, err)
	st, err = s.Cancel(t.Context(), &channel.CancelRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateAccepted, st.State)
	require.NoError(t, lock.Close())
	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	st, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateCancelled, st.State)
}

func TestHostRestartedDuringJob(t *testing.T) {
	s := testService(t)
	job := trueJob()
	s.Install(t.Context(), job)
	rec, err := s.home.readRecord(job.JobID)
	require.NoError(t, err)
	// The numbers of this very process, of another boot.
	rec.State, rec.BootID, rec.Shim, rec.Program = Running, "another", thisProcess(), thisProcess()
	require.NoError(t, s.home.writeRecord(rec))
	s.home.tidy()
	st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateInterrupted, st.State)
	require.Contains(t, st.Text, "restarted")
	require.NoDirExists(t, s.home.jobDir(job.JobID))
	require.Empty(t, s.busy())
}

func TestShimRefusesChangedFiles(t *testing.T) {
	s := testService(t)
	script := []byte("#!/bin/sh\ntrue\n")
	f := transport.BytesFile("run", script)
	_, err := s.Append(t.Context(), f.Digest(), f.Size, 0, strings.NewReader(string(script)))
	require.NoError(t, err)
	job := trueJob()
	job.Args = []string{"./run"}
	job.Files = []channel.File{{Name: "run", SHA256: f.Digest(), Size: f.Size, Executable: true}}
	s.Install(t.Context(), job)
	blob := s.store.file(f.Digest())
	require.NoError(t, os.Chmod(blob, 0o600))
	require.NoError(t, os.WriteFile(blob, []byte("#!/bin/sh\nevil\n"), 0o600))
	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateDone, st.State)
	require.Equal(t, string(transport.VerdictFailed), st.Verdict)
	require.Nil(t, st.ExitCode)
	require.Nil(t, st.StartedAt)
	require.Equal(t, &channel.Code{Space: "agent", Value: "prepare"}, st.Code)

	// Nor does it run a job that is not the recorded one.
	job = trueJob()
	s.Install(t.Context(), job)
	sh := testShim(s, job.JobID)
	require.NoError(t, writeJSON(sh.spec(), Job{ID: job.JobID, Argv: []string{"false"}}))
	require.NoError(t, sh.run(t.Context()))
	st, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, &channel.Code{Space: "agent", Value: "prepare"}, st.Code)
}

// TestNoRecords: see ErrNoRecords.
func TestNoRecords(t *testing.T) {
	s := testService(t)
	require.True(t, s.home.fresh())
	unknown := &channel.StatusRequest{JobID: channel.NewJobID()}
	_, err := s.Status(t.Context(), unknown)
	require.Equal(t, channel.CodeNotFound, faultCode(err))
	require.Equal(t, ErrNoJob, kindOfFault("status", faultCode(err)))
	s.fresh = true
	_, err = s.Status(t.Context(), unknown)
	require.Equal(t, ErrNoRecords, kindOfFault("status", faultCode(err)))
	require.ErrorIs(t, ErrNoRecords, ErrNoJob)

	require.NoError(t, s.home.noteLease(time.Hour))
	require.False(t, s.home.fresh(), "an agent was here")
	require.NoError(t, os.Remove(s.home.leasePath()))
	require.NoError(t, s.home.writeRecord(record{Version: fileVersion, ID: channel.NewJobID(), State: Done}))
	require.False(t, s.home.fresh(), "a job was")
}

func TestReboot(t *testing.T) {
	require.Equal(t, []string{"shutdown", "-r", "+0"}, ShutdownArgs("", 0))
	require.Equal(t, []string{"shutdown", "-r", "+2", "更新のため再起動します"}, ShutdownArgs("更新のため再起動します", 61*time.Second))
	require.Equal(t, " -c x", ShutdownArgs("-c\nx", 0)[3])
	require.LessOrEqual(t, len(ShutdownArgs(strings.Repeat("語", 2000), 0)[3]), maxRebootMessage)

	s := testService(t)
	dir := t.TempDir()
	s.search = dir // and nothing else: this host stays up
	_, err := s.Reboot(t.Context(), &channel.RebootRequest{})
	require.Equal(t, channel.CodeUnsupported, faultCode(err))
	out := filepath.Join(dir, "args")
	fake := func(status int) {
		script := fmt.Sprintf("#!/bin/sh\nprintf '%%s|' \"$@\" \"$LANG\" > %s\necho 'Access denied'\nexit %d\n", out, status)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "shutdown"), []byte(script), 0o700))
	}
	fake(0)
	_, err = s.Reboot(t.Context(), &channel.RebootRequest{Message: "更新 $(id)", DelaySeconds: 60})
	require.NoError(t, err)
	args, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "-r|+1|更新 $(id)|C.UTF-8|", string(args))
	forget := func() {
		files, err := filepath.Glob(filepath.Join(s.home.base(), HostLockPrefix+"*"))
		require.NoError(t, err)
		require.Len(t, files, 1, "that of the last restart alone")
		require.NoError(t, os.Remove(files[0]))
	}
	// From then on no job begins, this agent's or another's, but it can be asked again.
	_, err = s.Install(t.Context(), trueJob())
	require.Equal(t, CodeHostBusy, faultCode(err))
	require.ErrorContains(t, err, "a restart of the host is due at 20")
	_, by, err := home(filepath.Join(s.home.base(), "other")).takeHost(record{ID: channel.NewJobID()})
	require.NoError(t, err)
	require.NotNil(t, by)
	require.WithinDuration(t, time.Now().Add(time.Minute), by.Restart, 30*time.Second)
	_, err = s.Reboot(t.Context(), &channel.RebootRequest{DelaySeconds: 600})
	require.NoError(t, err)
	forget()
	other := home(filepath.Join(s.home.base(), "other"))
	lock, by, err := other.takeHost(record{ID: channel.NewJobID(), Component: "fw"})
	require.NoError(t, err)
	require.Nil(t, by)
	require.NoError(t, os.Remove(out))
	_, err = s.Reboot(t.Context(), &channel.RebootRequest{})
	require.Equal(t, CodeHostBusy, faultCode(err), "another manager's job runs")
	require.NoFileExists(t, out)
	require.NoError(t, lock.release())
	fake(1)
	_, err = s.Reboot(t.Context(), &channel.RebootRequest{})
	require.ErrorContains(t, err, "Access denied")
	by, herr := s.home.hostHolder()
	require.NoError(t, herr)
	require.Nil(t, by, "it does not come")
	if os.Geteuid() == 0 {
		require.Equal(t, channel.CodeInternal, faultCode(err))
	} else {
		require.Equal(t, channel.CodeRefused, faultCode(err))
	}
}

func TestInventoryOverTheWire(t *testing.T) {
	yes := true
	inv := &transport.Inventory{
		Identity: transport.Identity{Name: "n", Vendor: "HPE", Product: "ProLiant DL380 Gen10", Serial: "s", UUID: "u",
			OS: "linux", Version: "Debian 12", Kernel: "6.1", Arch: "amd64", BootID: "b"},
		Devices:  []transport.Device{{ID: "0000:03:00.0", Class: transport.ClassNIC, Firmware: "1.2", HardwareIDs: []string{"pci:1:2"}, Updateable: &yes}},
		Software: []transport.Software{{Name: "bash", Version: "5", Arch: "amd64", Source: "dpkg"}},
		Problems: []transport.Problem{{Part: "p", Text: "t"}},
	}
	require.Equal(t, inv, inventoryFromWire(inventoryToWire(inv)))

	s := testService(t)
	s.collect = func(context.Context) *transport.Inventory { return inv }
	resp, err := s.Inventory(t.Context(), &channel.InventoryRequest{})
	require.NoError(t, err)
	require.Empty(t, resp.Software, "only a deep inventory lists packages")
}

func TestStatusOverTheWire(t *testing.T) {
	now := time.Now().UTC()
	rec := record{ID: "i", State: Done, Started: now, Ended: now, BootID: "b", Exit: &transport.Exit{Code: -1, Signal: "KILL"},
		Result:  transport.Result{Verdict: transport.VerdictStaged, Activation: transport.ActivationReboot, Code: transport.Code{Space: "s", Value: "v"}, Text: "t"},
		Overdue: true, Truncated: true}
	require.Equal(t, Status{ID: "i", State: Done, Exit: rec.Exit, Result: rec.Result, Started: now, Ended: now, BootID: "b",
		Overdue: true, LogTruncated: true}, statusFromWire(statusToWire(rec)))
	require.EqualValues(t, 1, seconds(time.Nanosecond))
	require.EqualValues(t, 0, seconds(-time.Second))
	require.EqualValues(t, 1<<32-1, seconds(1<<62))
	j := Job{ID: "i", Component: "c", Version: "v", Argv: []string{"a"}, Env: []string{"e"}, Profile: ProfileDeb, Timeout: time.Minute, NoKill: true, SuspendBitLocker: true,
		Files: []JobFile{{Name: "n", SHA256: "s", Size: 1, Executable: true}}}
	require.Equal(t, j, jobFromWire(jobToWire(j)))
}

func TestClearWaitsForAManagerThatPreparesAStart(t *testing.T) {
	s := testService(t)
	for _, own := range []string{BinaryName, ReadyName, LogName, "lock", "lease", tempPrefix + "x", "older.part"} {
		require.NoError(t, os.WriteFile(s.home.path(own), []byte("{}"), 0o600))
	}
	s.found = s.home.snapshot()
	require.False(t, s.kept(), "what was there before does not count, however young")
	soon := time.Now().Add(time.Second)
	for _, name := range []string{BinaryName, "older.part"} {
		require.NoError(t, os.Chtimes(s.home.path(name), soon, soon))
		require.True(t, s.kept(), "%s was written since", name)
		s.found = s.home.snapshot()
	}
	require.False(t, s.kept())
	part := s.home.path("roundsman-agent.part")
	require.NoError(t, os.WriteFile(part, nil, 0o600))
	require.True(t, s.kept())
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(part, old, old))
	require.False(t, s.kept(), "nobody came back for it")

	id := channel.NewJobID()
	for _, name := range []string{"jobs/" + id + ".json", "jobs/" + id + ".log", "jobs/notes.log", "jobs/" + id + ".json.bak"} {
		require.NoError(t, os.WriteFile(s.home.path(name), []byte("{}"), 0o600))
	}
	left, err := s.home.clear()
	require.NoError(t, err)
	require.Equal(t, []string{s.home.path(LogName), s.home.record(id), s.home.output(id)}, left)
	entries, err := os.ReadDir(string(s.home))
	require.NoError(t, err)
	require.Len(t, entries, 2, "agent.log and jobs")
}

func TestPrepareRefusesOthersDirectories(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	require.Error(t, home(link).prepare())
	require.Error(t, home(filepath.Join(dir, "missing")).prepare())
	wide := filepath.Join(dir, "wide")
	require.NoError(t, os.Mkdir(wide, 0o777))
	require.NoError(t, home(wide).prepare())
	fi, err := os.Stat(wide)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
}

func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	_, err := lockFile(name, false)
	require.ErrorIs(t, err, os.ErrNotExist)
	a, err := lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, a)
	b, err := lockFile(name, true)
	require.NoError(t, err)
	require.Nil(t, b, "it is held")
	// A lock whose file was removed under it is no lock for those who come later.
	require.NoError(t, os.Remove(name))
	b, err = lockFile(name, true)
	require.NoError(t, err)
	require.NotNil(t, b)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}

func TestAgentLogIsCapped(t *testing.T) {
	name := filepath.Join(t.TempDir(), LogName)
	l, err := openAgentLog(name, 1000)
	require.NoError(t, err)
	for i := range 200 {
		_, err := fmt.Fprintf(l, "line %d\n", i)
		require.NoError(t, err)
		fi, err := os.Stat(name)
		require.NoError(t, err)
		require.LessOrEqual(t, fi.Size(), int64(1000))
	}
	require.NoError(t, l.Close())
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	require.Equal(t, "line 199", lines[len(lines)-1])
	require.Regexp(t, `^line \d+$`, lines[0], "whole lines")
	require.Greater(t, len(lines), 40)
}

func TestListenTCP(t *testing.T) {
	ports, err := portalloc.New(portalloc.Config{Generation: portalloc.Classic})
	require.NoError(t, err)
	defer ports.Close(t.Context())
	a, err := listenTCP(t.Context(), ports, "127.0.0.1")
	require.NoError(t, err)
	defer a.Close()
	port := a.Addr().(*net.TCPAddr).Port
	require.GreaterOrEqual(t, port, DefaultPort)
	b, err := listenTCP(t.Context(), ports, "127.0.0.1:0")
	require.NoError(t, err)
	defer b.Close()
	_, err = listenTCP(t.Context(), ports, a.Addr().String())
	require.Error(t, err, "a port that is given is that one or none")
	for _, bad := range []string{"127.0.0.1:x", "127.0.0.1:65536", "localhost:0"} {
		_, err = listenTCP(t.Context(), ports, bad)
		require.Error(t, err, bad)
	}
}

func TestBootstrapPrintsNoKeys(t *testing.T) {
	b := Bootstrap{Version: 1, Nonce: "n", Target: "t", Credentials: []byte(`"canary"`)}
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%v %+v %#v %s", b, b, b, &b)} {
		require.NotContains(t, s, "canary")
	}
	name := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(name, []byte(`{"nonce": canary}`), 0o600))
	err := readJSON(name, &b)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "canary")
}
