package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
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
	require.NoError(t, err)
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
	held, tries := make(chan error, 1), make(chan error)
	free := make(chan struct{})
	go func() {
		held <- holdOutputBy(file, func(fd, how int) error {
			err := unix.Flock(fd, how)
			select {
			case tries <- err:
			case <-free:
			}
			return err
		})
	}()
	for range 3 {
		select {
		case err := <-tries:
			require.Equal(t, unix.EWOULDBLOCK, err)
		case err := <-held:
			t.Fatalf("it did not try again: %v", err)
		}
	}
	close(free)
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

// slowSource is a content whose first read is slow.
type slowSource struct {
	io.ReadSeeker
	begun, on chan struct{}
	reading   atomic.Bool
	reads     atomic.Int32
	closed    chan bool // whether it was being read
}

func (s *slowSource) Read(b []byte) (int, error) {
	s.reading.Store(true)
	defer s.reading.Store(false)
	if s.reads.Add(1) == 1 {
		close(s.begun)
		<-s.on
	}
	return s.ReadSeeker.Read(b)
}

func (s *slowSource) Close() error {
	s.closed <- s.reading.Load()
	return nil
}

// A source is closed when nobody reads it, also where the call that reads it is
// over already.
func TestSourceIsNotClosedWhileRead(t *testing.T) {
	data := make([]byte, 1<<20)
	f := transport.BytesFile("f", data)
	for _, closeClient := range []bool{false, true} {
		c := newInProcess(t)
		src := &slowSource{ReadSeeker: bytes.NewReader(data), begun: make(chan struct{}), on: make(chan struct{}), closed: make(chan bool, 2)}
		f.Open = func(context.Context) (io.ReadSeekCloser, error) { return src, nil }
		goOn := sync.OnceFunc(func() { close(src.on) })
		t.Cleanup(goOn)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answer := make(chan error, 1)
		go func() {
			_, err := c.Stage(ctx, f, func(done int64) {
				if done > 0 {
					t.Errorf("told of %d bytes after the end", done)
				}
			})
			answer <- err
		}()
		<-src.begun
		gone := make(chan error, 1)
		if closeClient {
			go func() { gone <- c.Close(context.Background()) }()
			require.ErrorIs(t, <-answer, transport.ErrClosed)
		} else {
			cancel()
			require.ErrorIs(t, <-answer, context.Canceled)
		}
		select {
		case <-src.closed:
			t.Fatal("closed while it is read")
		case err := <-gone:
			t.Fatalf("Close did not wait for the read: %v", err)
		default:
		}
		goOn()
		require.False(t, <-src.closed, "closed while it is read")
		if closeClient {
			require.NoError(t, <-gone)
		}
		require.NoError(t, c.Close(t.Context()))
		require.EqualValues(t, 1, src.reads.Load(), "another read began")
		require.Empty(t, src.closed, "closed twice")
	}
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
	full := c.wrap("install", c.ch.(*inProcess).fault(&os.PathError{Op: "write", Err: unix.ENOSPC}))
	require.ErrorIs(t, full, transport.ErrNoSpace)
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
	require.NoError(t, err)
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

// The log of a job is held from before its program begins, for as long as that
// runs: it is what tells of a program that was not recorded.
func TestProgramHoldsItsOutput(t *testing.T) {
	c := newInProcess(t)
	h := c.ch.(*inProcess).svc.home
	job := Job{ID: channel.NewJobID(), Argv: []string{"sleep", "600"}}
	_, err := c.Install(t.Context(), job)
	require.NoError(t, err)
	state := func() State {
		st, err := c.Status(t.Context(), job.ID, 0)
		require.NoError(t, err)
		return st.State
	}
	running := func() bool { r, err := h.readRecord(job.ID); return err == nil && r.programAlive() }
	require.Eventually(t, running, time.Minute, time.Millisecond)
	require.True(t, h.outputHeld(job.ID))
	_, err = c.Cancel(t.Context(), job.ID)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return state() == Cancelled }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return !h.outputHeld(job.ID) }, time.Minute, time.Millisecond)
}

// A process that finds itself as the holder of a lock does not end itself.
func TestTakeOverSparesItself(t *testing.T) {
	h := home(t.TempDir())
	lock, err := lockFile(h.lockPath(), true)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, writeLock(lock, holder{process: thisProcess()}))
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, unix.SIGTERM)
	defer signal.Stop(terms)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = takeOver(ctx, h, holder{Manager: thisProcess()})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, terms)
}

// What an agent that was killed left outside of its directory goes as well.
func TestInProcessRemovesADeadAgentsSocket(t *testing.T) {
	h, elsewhere := home(t.TempDir()), t.TempDir()+"/roundsman-1"
	require.NoError(t, os.Mkdir(elsewhere, 0o700))
	socket := elsewhere + "/" + SocketName
	require.NoError(t, os.WriteFile(socket, nil, 0o600))
	require.NoError(t, writeJSON(h.path(ReadyName), Ready{Network: "unix", Addr: socket}))
	require.NoError(t, os.WriteFile(h.path(BootstrapName), []byte("{}"), 0o600))
	c, err := NewInProcess(t.Context(), InProcessOptions{Target: "test", Dir: string(h)})
	require.NoError(t, err)
	require.NoDirExists(t, elsewhere)
	require.NoFileExists(t, h.path(ReadyName))
	require.NoFileExists(t, h.path(BootstrapName), "it holds keys")
	require.NoError(t, c.Close(t.Context()))
}

// The umask of a program is set on a thread that ends: never on the main one,
// which tells the umask of the process and does not end.
func TestUmaskOfThreads(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	for range 100 {
		var out strings.Builder
		r, w, err := os.Pipe()
		require.NoError(t, err)
		cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "umask"}, Stdout: w}
		require.NoError(t, startWithUmask(cmd))
		require.NoError(t, w.Close())
		_, err = io.Copy(&out, r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, cmd.Wait())
		require.Equal(t, "0022\n", out.String())
		require.Equal(t, 0o077, umask())
	}
	byShell := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$(umask) $1" = "0022 it's" ]`, "sh", "it's"}}
	require.NoError(t, startByShell(byShell))
	require.NoError(t, byShell.Wait(), "where a container forbids the other way")
}
