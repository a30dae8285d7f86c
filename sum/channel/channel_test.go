package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everyOperation calls all that there is, over whatever the rig dials.
func everyOperation(t *testing.T, r *rig) {
	ctx := testContext(t)
	inv, err := r.client.Inventory(ctx, &InventoryRequest{Deep: true, Probes: []Probe{{Name: "p", Args: []string{"/bin/x", "", " a\r\n\t<&日本"}}}})
	require.NoError(t, err)
	require.Equal(t, "web-01", inv.HostName)
	require.Equal(t, r.server.Epoch(), inv.Epoch)
	require.Equal(t, "<eth&0>", inv.Devices[0].Name)
	require.True(t, *inv.Devices[0].Updateable)
	require.Equal(t, []string{"PCI\\VEN_8086", "x"}, inv.Devices[0].HardwareIDs)
	require.True(t, inv.AgentTime.Equal(time.Unix(1, 0)))
	require.Equal(t, 3, *inv.Results[0].ExitCode)
	require.Equal(t, "[/bin/x   a\r\n\t<&日本]", inv.Results[0].Output)

	blob := []byte("payload")
	id := NewJobID()
	install := &InstallRequest{
		JobID: id, Component: "hello", Version: "2.10", Profile: "dpkg", TimeoutSeconds: 60, NoKill: true,
		Files: []File{{Name: "sub/hello.deb", SHA256: hexSum(blob), Size: int64(len(blob)), Executable: true}},
		Args:  []string{"/usr/bin/dpkg", "-i", "a; touch /tmp/x"}, Env: []string{"LANG=C"},
	}
	job, err := r.client.Install(ctx, install)
	require.NoError(t, err)
	require.Equal(t, StateAccepted, job.State)
	require.Equal(t, install, r.agent.install)

	st, err := r.client.Status(ctx, &StatusRequest{JobID: id, LogOffset: 5})
	require.NoError(t, err)
	require.Equal(t, Base64("\x00\xff\n"), st.Log)
	require.EqualValues(t, 8, st.NextLogOffset)
	jobs, err := r.client.ListJobs(ctx, nil)
	require.NoError(t, err)
	require.Len(t, jobs.Jobs, 1)
	_, err = r.client.Cancel(ctx, &CancelRequest{JobID: id})
	require.NoError(t, err)
	hb, err := r.client.Heartbeat(ctx, &HeartbeatRequest{LeaseSeconds: 7})
	require.NoError(t, err)
	require.EqualValues(t, 7, hb.LeaseSeconds)
	require.Equal(t, r.client.CurrentEpoch(), hb.Epoch)
	stop, err := r.client.Stop(ctx, &StopRequest{Remove: true})
	require.NoError(t, err)
	require.Equal(t, &StopResponse{Removed: true, Left: []string{"/var/lib/x/agent.log"}}, stop)

	_, err = r.client.Reboot(ctx, &RebootRequest{Message: "再起動", DelaySeconds: 1})
	require.ErrorIs(t, err, ErrFault)
	var f *Fault
	require.ErrorAs(t, err, &f)
	require.Equal(t, &Fault{Code: CodeBusy, Retryable: true, Message: "a job is running"}, f)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "Reboot", e.Op)
	require.False(t, e.Sent)

	require.NoError(t, r.client.PutBlob(ctx, hexSum(blob), int64(len(blob)), opener(blob), nil))
	require.Equal(t, blob, r.agent.blobs[hexSum(blob)])
	require.NoError(t, r.client.PutBlob(ctx, hexSum(nil), 0, opener(nil), nil))
	require.Contains(t, r.agent.blobs, hexSum(nil))

	log := make([]byte, maxLogChunk*2+77)
	rand.Read(log)
	r.agent.logs["job-1.log"] = log
	var got bytes.Buffer
	end, err := r.client.CopyLog(ctx, "job-1.log", 11, &got)
	require.NoError(t, err)
	require.EqualValues(t, len(log), end)
	require.True(t, bytes.Equal(log[11:], got.Bytes()))
	piece, size, err := r.client.ReadLog(ctx, "job-1.log", end+5)
	require.NoError(t, err)
	require.Empty(t, piece)
	require.EqualValues(t, len(log), size)
	_, _, err = r.client.ReadLog(ctx, "other.log", 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, err, ErrNotFound)
}

func opener(b []byte) func(context.Context, int64) (io.ReadCloser, error) {
	return func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[off:])), nil
	}
}

func TestEveryOperation(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { everyOperation(t, newRig(t, nil)) })
	t.Run("unix", func(t *testing.T) {
		everyOperation(t, newRig(t, func(r *rig) { r.network = "unix" }))
	})
	t.Run("own keys", func(t *testing.T) {
		everyOperation(t, newRig(t, func(r *rig) {
			m, a := ownKeys(t)
			r.client.Credentials, r.server.Credentials = m, a
		}))
	})
	t.Run("no deadlines", func(t *testing.T) {
		everyOperation(t, newRig(t, func(r *rig) {
			l := newPipeListener(true)
			r.client.Dial = l.dial
			r.server.Logger.Debug("pipe")
			go r.server.Serve(context.Background(), l)
		}))
	})
	t.Run("pipe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, a, err := NewIdentity("n")
			require.NoError(t, err)
			l := newPipeListener(false)
			r := &rig{t: t, agent: newFakeAgent(), manager: m}
			r.server = &Server{Credentials: a, Handler: r.agent, Blobs: r.agent, Logs: r.agent}
			r.client = &Client{Credentials: m, Dial: l.dial}
			go r.server.Serve(context.Background(), l)
			everyOperation(t, r)
			require.NoError(t, r.client.Close(t.Context()))
			require.NoError(t, r.server.Close(t.Context()))
		})
	})
}

func ownKeys(t testing.TB) (*ManagerCredentials, *AgentCredentials) {
	mk, err := NewOwnKey()
	require.NoError(t, err)
	ak, err := NewOwnKey()
	require.NoError(t, err)
	m, err := mk.Manager(ak.Fingerprint())
	require.NoError(t, err)
	a, err := ak.Agent(mk.Fingerprint())
	require.NoError(t, err)
	return m, a
}

// pipeListener accepts in-process pipes, optionally without deadlines.
type pipeListener struct {
	noDeadlines bool
	conns       chan net.Conn
	done        chan struct{}
	once        sync.Once
}

func newPipeListener(noDeadlines bool) *pipeListener {
	return &pipeListener{noDeadlines: noDeadlines, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	if l.noDeadlines {
		a, b = bare{a}, bare{b}
	}
	select {
	case l.conns <- a:
		return b, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// bare is a connection like one through a process: no deadlines.
type bare struct{ net.Conn }

func (bare) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (bare) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (bare) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func TestOneConnectionIsReused(t *testing.T) {
	var dials atomic.Int32
	r := newRig(t, nil)
	dial := r.client.Dial
	r.client.Dial = func(ctx context.Context) (net.Conn, error) { dials.Add(1); return dial(ctx) }
	for range 70 { // also more than the replay window is wide
		_, err := r.client.Heartbeat(testContext(t), nil)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, dials.Load())
}

func TestConcurrentCallsAndBrokenConnection(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.agent.block = make(chan struct{})
		r.agent.entered = make(chan struct{}, 1)
	})
	ctx := testContext(t)
	long := make(chan error, 1)
	go func() { _, err := r.client.Inventory(ctx, nil); long <- err }()
	<-r.agent.entered
	_, err := r.client.Heartbeat(ctx, nil) // does not wait for the other
	require.NoError(t, err)
	close(r.agent.block)
	require.NoError(t, <-long)

	// The agent restarts: the dead connection is noticed, the new epoch is
	// reported once, and the call was not executed.
	r.restart()
	require.Eventually(t, func() bool {
		r.client.mu.Lock()
		defer r.client.mu.Unlock()
		for _, k := range r.client.idle {
			if k.alive() {
				return false
			}
		}
		return true
	}, 30*time.Second, time.Millisecond)
	before := r.agent.called("Heartbeat")
	_, err = r.client.Heartbeat(ctx, nil)
	require.ErrorIs(t, err, ErrEpoch)
	require.Equal(t, before, r.agent.called("Heartbeat"))
	_, err = r.client.Heartbeat(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, r.server.Epoch(), r.client.CurrentEpoch())
}

func TestCancelledCall(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.agent.block = make(chan struct{})
		r.agent.entered = make(chan struct{}, 1)
	})
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { _, err := r.client.Inventory(ctx, nil); done <- err }()
	<-r.agent.entered
	cancel()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Sent, "the agent may have executed it")
	require.Eventually(t, func() bool { return r.agent.called("InventoryCancelled") == 1 }, 30*time.Second, time.Millisecond)

	go func() { _, err := r.client.Inventory(testContext(t), nil); done <- err }()
	<-r.agent.entered
	require.NoError(t, r.client.Close(testContext(t)))
	require.ErrorIs(t, <-done, ErrClosed)
	_, err = r.client.Heartbeat(testContext(t), nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestServerCloseLetsRequestsFinish(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.agent.block = make(chan struct{})
		r.agent.entered = make(chan struct{}, 1)
	})
	done := make(chan error, 1)
	go func() { _, err := r.client.Inventory(testContext(t), nil); done <- err }()
	<-r.agent.entered
	closed := make(chan error, 1)
	go func() { closed <- r.server.Close(testContext(t)) }()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	}, 30*time.Second, time.Millisecond, "the listener closes at once")
	close(r.agent.block)
	require.NoError(t, <-done)
	require.NoError(t, <-closed)
}

func TestServerCloseCancelsWhenContextEnds(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.agent.block = make(chan struct{})
		r.agent.entered = make(chan struct{}, 1)
	})
	done := make(chan error, 1)
	go func() { _, err := r.client.Inventory(testContext(t), nil); done <- err }()
	<-r.agent.entered
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, r.server.Close(ended))
	require.ErrorIs(t, <-done, ErrLost)
	require.Equal(t, 1, r.agent.called("InventoryCancelled"))
	require.ErrorIs(t, <-r.served, ErrClosed)
}

func TestServeEndsWithContext(t *testing.T) {
	_, a, err := NewIdentity("n")
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Credentials: a, Handler: newFakeAgent()}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	_, err = net.Dial("tcp", ln.Addr().String())
	require.Error(t, err)
}

func TestRequestsAreCheckedBeforeSending(t *testing.T) {
	c := &Client{} // would fail to dial
	ctx := testContext(t)
	for name, r := range map[string]*InstallRequest{
		"traversal":    {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: "../x", SHA256: hexSum(nil)}}},
		"absolute":     {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: "/x", SHA256: hexSum(nil)}}},
		"drive":        {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: `C:x`, SHA256: hexSum(nil)}}},
		"device":       {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: "a/nul.txt", SHA256: hexSum(nil)}}},
		"twice":        {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: "a", SHA256: hexSum(nil)}, {Name: "A", SHA256: hexSum(nil)}}},
		"digest":       {JobID: NewJobID(), Args: []string{"x"}, Files: []File{{Name: "a", SHA256: "ABC"}}},
		"job":          {JobID: "../../../../../../../../../../etc", Args: []string{"x"}},
		"no program":   {JobID: NewJobID()},
		"env":          {JobID: NewJobID(), Args: []string{"x"}, Env: []string{"=x"}},
		"control char": {JobID: NewJobID(), Args: []string{"x\x01"}},
		"not UTF-8":    {JobID: NewJobID(), Args: []string{"x\xff"}},
	} {
		_, err := c.Install(ctx, r)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	for _, name := range []string{"", ".", "..", "../a", "a/b", "a..b", ".a", "a.", "NUL", "com1.log", `a\b`, "a b", "ä"} {
		require.False(t, ValidLogName(name), name)
	}
	require.True(t, ValidLogName("0123abcd.log"))
}

func TestPanicBecomesFault(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.client.Install(testContext(t), &InstallRequest{JobID: NewJobID(), Component: "panic", Args: []string{"x"}})
	var f *Fault
	require.ErrorAs(t, err, &f)
	require.Equal(t, CodeInternal, f.Code)
	require.NotContains(t, err.Error(), "canary")
	require.NotContains(t, r.logs.String(), "canary")
}

// stopper closes its server as an agent does that is told to stop.
type stopper struct {
	*fakeAgent
	server *Server
	closed chan error
}

func (s *stopper) Stop(ctx context.Context, r *StopRequest) (*StopResponse, error) {
	go func() { s.closed <- s.server.Close(context.Background()) }()
	return s.fakeAgent.Stop(ctx, r)
}

// TestAnswerToStopArrives: whatever the order in which the request and Close end.
func TestAnswerToStopArrives(t *testing.T) {
	for range 50 {
		s := &stopper{closed: make(chan error, 1)}
		r := newRig(t, func(r *rig) {
			s.fakeAgent, s.server = r.agent, r.server
			r.server.Handler = s
		})
		got, err := r.client.Stop(testContext(t), &StopRequest{Remove: true})
		require.NoError(t, err)
		require.True(t, got.Removed)
		require.NoError(t, <-s.closed)
	}
}

// TestCloseDoesNotWaitForIdleConnections: not even for one that never sent a
// request, to which net/http would give five seconds.
func TestCloseDoesNotWaitForIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, a, err := NewIdentity("n")
		require.NoError(t, err)
		l := newPipeListener(false)
		s := &Server{Credentials: a, Handler: newFakeAgent()}
		go s.Serve(context.Background(), l)
		raw, err := l.dial(t.Context())
		require.NoError(t, err)
		conn := tls.Client(raw, m.c.clientTLS(agentName))
		require.NoError(t, conn.Handshake())
		go io.Copy(io.Discard, conn)
		synctest.Wait()
		began := time.Now() // the bubble's clock, which moves only while all wait
		require.NoError(t, s.Close(t.Context()))
		require.Less(t, time.Since(began), time.Second)
		raw.Close()
	})
}
