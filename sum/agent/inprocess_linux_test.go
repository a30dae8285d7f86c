package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A manager that dies between the start of a program and the record of it leaves
// a program that nobody has the number of. It must not be taken for dead.
func TestProgramThatNoRecordNames(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.ErrorContains(t, err, "no shim")
	rec, err := s.home.readRecord(job.JobID)
	require.NoError(t, err)
	rec.State, rec.BootID, rec.Shim = Running, bootID(), process{PID: 1 << 30, Start: "1"}
	require.NoError(t, s.home.writeRecord(rec))
	file, err := os.OpenFile(s.home.output(job.JobID), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	require.NoError(t, holdOutput(file))
	cmd := exec.Command("sleep", "600")
	cmd.Stdout = file
	require.NoError(t, cmd.Start())
	require.NoError(t, file.Close()) // the manager's, which died

	for range 3 {
		st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
		require.NoError(t, err)
		require.Equal(t, channel.StateRunning, st.State)
	}
	require.Equal(t, []string{job.JobID}, s.busy())
	require.Equal(t, job.JobID, s.home.orphan())
	_, err = s.Install(t.Context(), trueJob())
	require.Equal(t, channel.CodeBusy, faultCode(err))
	_, err = Remove(t.Context(), string(s.home))
	require.ErrorIs(t, err, ErrJobRunning)
	st, err := s.Cancel(t.Context(), &channel.CancelRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateRunning, st.State, "nobody knows whom to tell")

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	st, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateInterrupted, st.State)
	require.Empty(t, s.busy())
}

// Those who look whether a program runs do not keep one from starting.
func TestOutputIsHeldInSpiteOfLooks(t *testing.T) {
	s := testService(t)
	id := channel.NewJobID()
	file, err := os.OpenFile(s.home.output(id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer file.Close()
	looker, err := os.Open(s.home.output(id))
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(looker.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	require.False(t, s.home.outputHeld(id), "another who looks is no program")
	held := make(chan error, 1)
	go func() { held <- holdOutput(file) }()
	select {
	case err := <-held:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	require.NoError(t, looker.Close())
	require.NoError(t, <-held)
	require.True(t, s.home.outputHeld(id))
}

func TestOutputFile(t *testing.T) {
	name := t.TempDir() + "/log"
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	out := &outputFile{name: name, max: 10_000}
	write := func(text string) {
		_, err := f.WriteString(text)
		require.NoError(t, err)
	}
	write("one\ntwo\n")
	truncated, last := out.state()
	require.False(t, truncated)
	require.Equal(t, "one\ntwo\n", string(last))
	write(strings.Repeat("a", 9_000) + "\nthree\n")
	truncated, last = out.state()
	require.False(t, truncated)
	require.True(t, strings.HasSuffix(string(last), "a\nthree\n"))
	write(strings.Repeat("b", 9_000) + "\nfour\n")
	for range 2 {
		truncated, last = out.state()
		require.True(t, truncated)
		require.True(t, strings.HasSuffix(string(last), "b\nfour\n"), "the last of the output, not of the log")
	}
	write("five\n")
	_, last = out.state()
	require.True(t, strings.HasSuffix(string(last), "b\nfour\nfive\n"))
	require.LessOrEqual(t, len(last), 2*maxText)
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Len(t, data, 10_000)
	require.True(t, strings.HasPrefix(string(data), "one\ntwo\naaa"))
	require.NoError(t, os.Remove(name))
	truncated, _ = out.state()
	require.True(t, truncated)
}

// newInProcess is this process as the agent of a directory.
func newInProcess(t *testing.T) *Client {
	t.Helper()
	c, err := NewInProcess(t.Context(), InProcessOptions{Target: "test", Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

// Close ends the calls that are going on, and waits for them.
func TestCloseInProcess(t *testing.T) {
	c := newInProcess(t)
	p := c.ch.(*inProcess)
	begun, ended := make(chan struct{}), make(chan struct{})
	p.svc.collect = func(ctx context.Context) *transport.Inventory {
		close(begun)
		<-ctx.Done()
		close(ended)
		return &transport.Inventory{}
	}
	answer := make(chan error, 1)
	go func() {
		_, err := c.Inventory(context.Background(), InventoryRequest{})
		answer <- err
	}()
	<-begun
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, c.Close(dead))
	select {
	case <-ended:
	default:
		t.Fatal("Close did not wait")
	}
	require.ErrorIs(t, <-answer, transport.ErrClosed)
	_, err := c.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrClosed)
	require.NoError(t, c.Close(t.Context()), "twice is no error")
	// The directory is free again.
	lock, err := lockFile(p.svc.home.lockPath(), true)
	require.NoError(t, err)
	require.NotNil(t, lock)
	require.NoError(t, lock.Close())
}

// A call returns with its context, whatever the service does.
func TestCallInProcessEnds(t *testing.T) {
	c := newInProcess(t)
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	c.ch.(*inProcess).svc.collect = func(context.Context) *transport.Inventory {
		cancel()
		<-hang
		return &transport.Inventory{}
	}
	_, err := c.Inventory(ctx, InventoryRequest{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Jobs(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Jobs(t.Context())
	require.NoError(t, err)
	close(hang)
}

// Errors have the classes that they have over the channel.
func TestErrorsInProcess(t *testing.T) {
	c := newInProcess(t)
	svc := c.ch.(*inProcess).svc
	svc.store.free = func(string) (int64, error) { return 100, nil }
	_, err := c.Stage(t.Context(), transport.BytesFile("f", make([]byte, 1000)), nil)
	require.ErrorIs(t, err, transport.ErrNoSpace)
	svc.search = t.TempDir() // this host stays up
	require.ErrorIs(t, c.Reboot(t.Context(), transport.RebootOptions{}), errors.ErrUnsupported)
	require.ErrorIs(t, c.Log(t.Context(), "../lock", nil), transport.ErrProtocol)
	_, err = NewInProcess(t.Context(), InProcessOptions{Target: "test", Dir: t.TempDir() + "/missing"})
	require.ErrorIs(t, err, os.ErrNotExist)
	left, err := Remove(t.Context(), t.TempDir()+"/missing")
	require.NoError(t, err)
	require.Empty(t, left)
}

// A job that is over does not keep the agent here, though its shim has not yet
// tidied up.
func TestEndedJobIsNotBusy(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.ErrorContains(t, err, "no shim")
	lock, err := lockFile(s.home.jobLock(job.JobID), true)
	require.NoError(t, err)
	defer lock.Close()
	require.Equal(t, []string{job.JobID}, s.busy())
	rec, err := s.home.readRecord(job.JobID)
	require.NoError(t, err)
	rec.State = Done
	require.NoError(t, s.home.writeRecord(rec))
	require.Empty(t, s.busy())
	resp, err := s.Stop(t.Context(), &channel.StopRequest{Remove: true})
	require.NoError(t, err)
	require.Equal(t, []string{s.home.record(job.JobID)}, resp.Left)
}
