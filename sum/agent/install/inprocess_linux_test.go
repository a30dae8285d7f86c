package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// ownHost is a lab on the manager's own host: no server, no line.
func ownHost(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, base: filepath.Join(t.TempDir(), "base"), id: "m1-local"}
	t.Cleanup(func() {
		for _, pid := range l.processes() { // of a test that failed
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return l
}

// localConn is a connection to the manager's own host that the test can watch.
func (l *lab) localConn() *tap {
	l.t.Helper()
	conn, err := (&local.Transport{}).Dial(l.t.Context(), transport.Endpoint{})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { require.NoError(l.t, conn.Close(context.Background())) })
	return &tap{Forward: transport.Forward{Conn: conn}}
}

// The ways in which the manager's own host gets an agent.
const (
	builtChild = "a child that was built"
	selfChild  = "a child that is a copy"
	withShims  = "this process, with shims"
	onItsOwn   = "this process, on its own"
)

func ways() map[string]*install.Installer {
	return map[string]*install.Installer{
		builtChild: {Source: &built},
		selfChild:  {Source: install.RunAgent()},
		withShims:  {Source: install.First(&built, install.RunAgent()), InProcess: true},
		onItsOwn:   {Source: install.First(&built, install.Self{}), InProcess: true},
	}
}

// hasShims reports whether the shims of jobs are processes of their own.
func hasShims(way string) bool { return way != onItsOwn }

func (l *lab) startWith(in *install.Installer, conn transport.Conn) agent.Agent {
	l.t.Helper()
	a, err := in.Start(l.t.Context(), conn, l.opts())
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

// sockets returns the listening TCP and Unix sockets of this process, and those in
// the lab's directory.
func (l *lab) sockets() string {
	out, err := exec.Command(realtest.Need(l.t, "ss"), "-Hlntxp").Output()
	require.NoError(l.t, err)
	var mine []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, l.base) || strings.Contains(line, fmt.Sprintf("pid=%d,", os.Getpid())) {
			mine = append(mine, line)
		}
	}
	return strings.Join(mine, "")
}

func TestOwnHost(t *testing.T) {
	for name, in := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := ownHost(t)
			conn := l.localConn()
			opts := l.opts()
			var places []agent.Place
			opts.Opened = func(_ context.Context, p agent.Place) error {
				if len(places) == 0 {
					require.NoDirExists(t, l.base, "the place is told before the first change")
				}
				places = append(places, p)
				return nil
			}
			a, err := in.Start(t.Context(), conn, opts)
			require.NoError(t, err)
			defer a.Close(t.Context())
			require.Equal(t, a.Place(), places[len(places)-1])
			if in.InProcess {
				require.Equal(t, l.place(), a.Place())
				require.NoFileExists(t, filepath.Join(l.dir(), agent.BinaryName), "no program is copied")
				require.Zero(t, conn.count("put "+agent.BinaryName))
				require.Empty(t, l.processes(), "nothing was started")
				require.Empty(t, l.sockets(), "nothing listens")
			}
			fi, err := os.Stat(l.dir())
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())

			inv, err := a.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{{Name: "probed", Argv: []string{"/bin/echo", "7.1"}}}})
			require.NoError(t, err)
			require.Equal(t, "linux", inv.Identity.OS)
			require.False(t, inv.Taken.IsZero())
			require.Contains(t, inv.Software, transport.Software{Name: "probed", Version: "7.1", Source: agent.ProbeSource})

			counter := filepath.Join(t.TempDir(), "runs")
			job := script(t, a, "echo run >> "+counter+"; echo installed; pwd; echo $PPID; ps -o sid= -p $$; echo $$; umask; echo mess >&2; exit 3")
			job.Env = []string{"RM_OWN=mine"}
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			s, log := finish(t, a, job.ID)
			require.Equal(t, agent.Done, s.State)
			require.Equal(t, &transport.Exit{Code: 3}, s.Exit)
			require.Equal(t, transport.VerdictFailed, s.Result.Verdict)
			require.Equal(t, transport.Code{Space: "exit", Value: "3"}, s.Result.Code)
			require.True(t, strings.HasSuffix(s.Result.Text, "mess"), s.Result.Text)
			lines := strings.Split(log, "\n")
			require.Equal(t, []string{"installed", l.dir() + "/jobs/" + job.ID + "/work"}, lines[:2])
			require.Equal(t, !hasShims(name), lines[2] == fmt.Sprint(os.Getpid()), "whose child the program is")
			if !hasShims(name) {
				require.Equal(t, lines[4], strings.TrimSpace(lines[3]), "a session of its own")
			}
			require.Equal(t, "0022", lines[5])
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			runs, err := os.ReadFile(counter)
			require.NoError(t, err)
			require.Equal(t, "run\n", string(runs), "never twice under one ID")

			job.Version = "2"
			_, err = a.Install(t.Context(), job)
			require.ErrorIs(t, err, agent.ErrJobConflict)
			_, err = a.Status(t.Context(), channel.NewJobID(), 0)
			require.ErrorIs(t, err, agent.ErrNoJob)
			job.ID, job.Argv = channel.NewJobID(), []string{"./other"}
			_, err = a.Install(t.Context(), job)
			require.ErrorIs(t, err, transport.ErrInvalid)
			job.Argv = []string{"./install.sh"}
			job.Files[0].SHA256 = strings.Repeat("0", 64)
			_, err = a.Install(t.Context(), job)
			require.ErrorIs(t, err, fs.ErrNotExist, "not staged")
			bad := transport.BytesFile("bad", []byte("bad"))
			bad.SHA256[0] ^= 1
			_, err = a.Stage(t.Context(), bad, nil)
			require.ErrorIs(t, err, transport.ErrIntegrity)

			jobs, err := a.Jobs(t.Context())
			require.NoError(t, err)
			require.Len(t, jobs, 1)
			logs, err := a.Logs(t.Context())
			require.NoError(t, err)
			require.Len(t, logs, 3)
			var b strings.Builder
			require.NoError(t, a.Log(t.Context(), jobs[0].ID+".log", &b))
			require.Equal(t, log, b.String())
			require.ErrorIs(t, a.Log(t.Context(), "lock", io.Discard), fs.ErrNotExist)

			left, err := a.Remove(t.Context())
			require.NoError(t, err)
			want := []string{l.dir() + "/agent.log", l.dir() + "/jobs/" + jobs[0].ID + ".json", l.dir() + "/jobs/" + jobs[0].ID + ".log"}
			require.Equal(t, want, sorted(left))
			l.requireClean()
			require.Empty(t, l.sockets())
			_, err = a.Jobs(t.Context())
			require.ErrorIs(t, err, transport.ErrClosed)

			// Whichever way comes next finds what became of the job.
			for other, in := range ways() {
				a, err := in.Start(t.Context(), conn, l.opts())
				require.NoError(t, err, other)
				s, err := a.Status(t.Context(), jobs[0].ID, 0)
				require.NoError(t, err, other)
				require.Equal(t, agent.Done, s.State, other)
				_, err = a.Remove(t.Context())
				require.NoError(t, err, other)
				l.requireClean()
			}
		})
	}
}

func TestStageInProcess(t *testing.T) {
	l := ownHost(t)
	a := l.startWith(&install.Installer{InProcess: true}, l.localConn())
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	f := transport.BytesFile("image", data)
	broken := errors.New("the manager's disk failed")
	half := f
	half.Open = func(context.Context) (io.ReadSeekCloser, error) {
		return &halfReader{bytes.NewReader(data), broken}, nil
	}
	_, err := a.Stage(t.Context(), half, nil)
	require.ErrorIs(t, err, broken)
	var done int64
	res, err := a.Stage(t.Context(), f, func(n int64) { done = n })
	require.NoError(t, err)
	require.Greater(t, res.Kept, int64(1<<19))
	require.Equal(t, f.Size, res.Kept+res.Sent)
	require.Equal(t, f.Size, done)
	res, err = a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	require.Zero(t, res.Sent)
	empty := transport.BytesFile("empty", nil)
	_, err = a.Stage(t.Context(), empty, nil)
	require.NoError(t, err)

	// A source that hangs does not hold the caller.
	other := transport.BytesFile("other", data[1:])
	ctx, cancel := context.WithCancel(t.Context())
	release, closed := make(chan struct{}), make(chan struct{})
	other.Open = func(context.Context) (io.ReadSeekCloser, error) {
		return &hangingReader{cancel: cancel, release: release, closed: closed}, nil
	}
	_, err = a.Stage(ctx, other, nil)
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	<-closed
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

// halfReader fails in its middle.
type halfReader struct {
	*bytes.Reader
	err error
}

func (r *halfReader) Read(p []byte) (int, error) {
	if int64(r.Len()) <= r.Size()/2 {
		return 0, r.err
	}
	return r.Reader.Read(p[:min(len(p), 64<<10)])
}

func (r *halfReader) Close() error { return nil }

// hangingReader says when it hangs, and goes on when it is released. It is not
// closed before that.
type hangingReader struct {
	cancel          func()
	release, closed chan struct{}
}

func (r *hangingReader) Read([]byte) (int, error) {
	r.cancel()
	<-r.release
	return 0, io.ErrClosedPipe
}
func (r *hangingReader) Seek(int64, int) (int64, error) { return 0, nil }
func (r *hangingReader) Close() error                   { close(r.closed); return nil }

// waiting is a job that runs until its gate is opened.
func waiting(t *testing.T, a agent.Ops) (job agent.Job, open func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "gate")
	job = script(t, a, "echo begun $$; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo ended")
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := a.Status(t.Context(), job.ID, 0)
		return err == nil && strings.Contains(string(s.Log), "begun")
	}, time.Minute, 20*time.Millisecond)
	return job, func() { require.NoError(t, os.WriteFile(gate, nil, 0o600)) }
}

// TestInProcessJobRuns: while a job runs the agent does not go, and a job may be
// cancelled.
func TestInProcessJobRuns(t *testing.T) {
	t.Parallel()
	for name, in := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := ownHost(t)
			a := l.startWith(in, l.localConn())
			job, open := waiting(t, a)
			_, err := a.Remove(t.Context())
			require.ErrorIs(t, err, agent.ErrJobRunning)
			require.ErrorIs(t, a.Reboot(t.Context(), transport.RebootOptions{}), agent.ErrJobRunning)
			_, err = in.Sweep(t.Context(), l.localConn(), l.place())
			require.ErrorIs(t, err, agent.ErrJobRunning)

			// Closing the agent leaves the job alone, and the next agent has it.
			require.NoError(t, a.Close(t.Context()))
			_, err = a.Status(t.Context(), job.ID, 0)
			require.ErrorIs(t, err, transport.ErrClosed)
			a = l.startWith(in, l.localConn())
			s, err := a.Status(t.Context(), job.ID, 0)
			require.NoError(t, err)
			require.Equal(t, agent.Running, s.State)
			open()
			s, log := finish(t, a, job.ID)
			require.Equal(t, agent.Done, s.State)
			require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
			require.True(t, strings.HasSuffix(log, "\nended\n"), log)

			job = script(t, a, "trap '' HUP; sleep 600 & echo child $!; wait")
			job.Timeout = time.Hour
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				s, err := a.Status(t.Context(), job.ID, 0)
				return err == nil && strings.Contains(string(s.Log), "child")
			}, time.Minute, 20*time.Millisecond)
			_, err = a.Cancel(t.Context(), job.ID)
			require.NoError(t, err)
			s, _ = finish(t, a, job.ID)
			require.Equal(t, agent.Cancelled, s.State)
			require.Equal(t, "TERM", s.Exit.Signal)

			job = script(t, a, "sleep 600")
			job.Timeout = time.Second
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			s, _ = finish(t, a, job.ID)
			require.Equal(t, transport.VerdictFailed, s.Result.Verdict)
			require.Contains(t, s.Result.Text, "timed out after 1s")

			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
		})
	}
}

// TestInProcessOutputIsCut: a job that writes its log itself does not fill the
// disk with it, and the last of its output is known.
func TestInProcessOutputIsCut(t *testing.T) {
	l := ownHost(t)
	conn := l.localConn()
	running := goleak.IgnoreCurrent()
	a := l.startWith(&install.Installer{InProcess: true}, conn)
	job := script(t, a, "head -c 20000000 /dev/zero | tr '\\0' a; echo; echo the end")
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	s, log := finish(t, a, job.ID)
	require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
	require.True(t, s.LogTruncated)
	require.Len(t, log, 16<<20)
	require.True(t, strings.HasSuffix(s.Result.Text, "the end"))
	fi, err := os.Stat(filepath.Join(l.dir(), "jobs", job.ID+".log"))
	require.NoError(t, err)
	require.EqualValues(t, 16<<20, fi.Size())
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	goleak.VerifyNone(t, running)
}

// TestInProcessUmask: installers get the umask that they expect, and the manager
// keeps its own.
func TestInProcessUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for name, in := range ways() {
		l := ownHost(t)
		a := l.startWith(in, l.localConn())
		job := script(t, a, "umask")
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		_, log := finish(t, a, job.ID)
		require.Equal(t, "0022\n", log, name)
		_, err = a.Remove(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 0o077, syscall.Umask(0o077))
}

func (elsewhere) Path() transport.Path { return transport.Path{} }
