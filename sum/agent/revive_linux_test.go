package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// overdue makes a job's last try old enough for another.
func overdue(s *service, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tried, id)
}

func TestDeadShimIsReplacedTwice(t *testing.T) {
	s := testService(t)
	spawned := 0
	s.spawn = func(string) (<-chan struct{}, error) {
		spawned++
		ended := make(chan struct{})
		close(ended) // it dies at once
		return ended, nil
	}
	job := trueJob()
	ask := func() *channel.JobStatus {
		st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
		require.NoError(t, err)
		return st
	}
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, 1, spawned)
	s.mu.Lock()
	s.tried[job.JobID] = time.Now().Add(time.Hour) // however long this takes
	s.mu.Unlock()
	require.Equal(t, channel.StateAccepted, ask().State)
	require.Equal(t, 1, spawned, "a shim gets time to begin")
	overdue(s, job.JobID)
	require.Equal(t, channel.StateAccepted, ask().State)
	require.Equal(t, 2, spawned)
	overdue(s, job.JobID)
	_, err = s.ListJobs(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, maxTries, spawned)
	overdue(s, job.JobID)
	st := ask()
	require.Equal(t, channel.StateDone, st.State)
	require.Equal(t, string(transport.VerdictFailed), st.Verdict)
	require.Equal(t, &channel.Code{Space: "agent", Value: "shim"}, st.Code)
	require.Contains(t, st.Text, "3 times")
	require.Equal(t, maxTries, spawned)
	require.NoDirExists(t, s.home.jobDir(job.JobID))
}

// A job whose shim cannot be started is Accepted until it has been tried for the last
// time; when it has failed, no agent starts it any more.
func TestShimThatCannotBeStarted(t *testing.T) {
	s := testService(t)
	var spawned []string
	s.spawn = func(id string) (<-chan struct{}, error) {
		spawned = append(spawned, id)
		return nil, errors.New("no process for you")
	}
	job := trueJob()
	st, err := s.Install(t.Context(), job)
	require.NoError(t, err, "an error would be that it never begins")
	require.Equal(t, channel.StateAccepted, st.State)
	require.Len(t, spawned, 1)
	overdue(s, job.JobID)
	st, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
	require.NoError(t, err)
	require.Equal(t, channel.StateAccepted, st.State)
	st, err = s.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, channel.StateAccepted, st.State)
	require.Len(t, spawned, maxTries)
	st, err = s.Install(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, channel.StateDone, st.State)
	require.Equal(t, string(transport.VerdictFailed), st.Verdict)
	require.Equal(t, &channel.Code{Space: "agent", Value: "shim"}, st.Code)
	require.Contains(t, st.Text, "no process for you")

	next := newService(s.home, newLease(time.Hour), s.log)
	next.spawn = s.spawn
	next.reviveAll()
	require.Len(t, spawned, maxTries)
	require.NoError(t, testShim(s, job.JobID).run(t.Context()))
	require.NoFileExists(t, s.home.output(job.JobID), "its program ran")
}

// A record that cannot be read for the moment makes no other of what is known.
func TestReviveWithoutTheRecord(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	rec, err := s.home.readRecord(job.JobID)
	require.NoError(t, err)
	require.NoError(t, os.Remove(s.home.record(job.JobID)))
	require.NoError(t, os.Mkdir(s.home.record(job.JobID), 0o700))
	overdue(s, job.JobID)
	require.Equal(t, rec, s.reviveSlowly(rec))
	got, err := s.revive(rec)
	require.Error(t, err)
	require.Equal(t, rec, got)
}

// What is of use until a program begins is not kept of every job that ever was.
func TestTriesAreForgotten(t *testing.T) {
	s := testService(t)
	begun, waiting, deleted, unread := trueJob(), trueJob(), trueJob(), trueJob()
	for _, job := range []*channel.InstallRequest{begun, waiting, deleted, unread} {
		_, err := s.Install(t.Context(), job) // it gets no shim
		require.NoError(t, err)
	}
	require.Len(t, s.faults, 4)
	rec, err := s.home.readRecord(begun.JobID)
	require.NoError(t, err)
	rec.State = Done
	require.NoError(t, s.home.writeRecord(rec))
	require.NoError(t, os.Remove(s.home.record(deleted.JobID)))
	require.NoError(t, os.Remove(s.home.record(unread.JobID)))
	require.NoError(t, os.Mkdir(s.home.record(unread.JobID), 0o700))

	s.spawn = func(string) (<-chan struct{}, error) { return make(chan struct{}), nil }
	_, err = s.Install(t.Context(), waiting)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{waiting.JobID, unread.JobID}, slices.Collect(maps.Keys(s.tried)))
	require.Equal(t, []string{unread.JobID}, slices.Collect(maps.Keys(s.faults)), "a shim was started")
}

func TestNewAgentRevivesJobs(t *testing.T) {
	s := testService(t)
	job := trueJob()
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	next := newService(s.home, newLease(time.Hour), s.log)
	var spawned []string
	next.spawn = func(id string) (<-chan struct{}, error) {
		spawned = append(spawned, id)
		return make(chan struct{}), nil
	}
	// Not while a shim that an earlier agent started lives.
	lock, err := lockFile(s.home.jobLock(job.JobID), true)
	require.NoError(t, err)
	next.reviveAll()
	require.Empty(t, spawned)
	require.NoError(t, lock.Close())
	next.reviveAll()
	next.reviveAll()
	require.Equal(t, []string{job.JobID}, spawned)
}

// What the record of a job could not hold is refused before anything is written.
func TestLargeJobs(t *testing.T) {
	t.Parallel()
	s := testService(t)
	s.spawn = func(string) (<-chan struct{}, error) { return make(chan struct{}), nil }
	job := trueJob()
	job.Args = append(job.Args, strings.Repeat("<", 1<<20)) // six times as much, were it escaped
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	rec, err := s.home.readRecord(job.JobID)
	require.NoError(t, err)
	require.Equal(t, job.Args, rec.Argv)

	job = trueJob()
	job.Args = append(job.Args, strings.Repeat("x", maxRecord))
	_, err = s.Install(t.Context(), job)
	require.Equal(t, channel.CodeBadRequest, faultCode(err))
	require.NoDirExists(t, s.home.jobDir(job.JobID))
	require.NoFileExists(t, s.home.record(job.JobID))
}

// slowLister holds the agent's end up by a call that takes its time.
type slowLister struct {
	*service
	begun, open chan struct{}
}

func (b *slowLister) ListJobs(context.Context, *channel.ListJobsRequest) (*channel.ListJobsResponse, error) {
	close(b.begun)
	<-b.open
	return &channel.ListJobsResponse{}, nil
}

// testServe serves a handler on the socket of a service's directory.
func testServe(t *testing.T, s *service, h channel.Handler) (*channel.ManagerCredentials, *channel.Server, net.Listener, func(context.Context) (net.Conn, error)) {
	t.Helper()
	m, a, err := channel.NewIdentity("test")
	require.NoError(t, err)
	name := s.home.path(SocketName)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", name)
	require.NoError(t, err)
	server := &channel.Server{Credentials: a, Handler: h, Logger: slog.New(slog.DiscardHandler)}
	return m, server, ln, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", name)
	}
}

// A manager that comes between the end of the lease and the clearing of the
// directory finds what it has put there.
func TestEndOfLeaseLeavesWhatANewManagerHasPut(t *testing.T) {
	s := testService(t)
	s.lease = newLease(300 * time.Millisecond)
	h := &slowLister{service: s, begun: make(chan struct{}), open: make(chan struct{})}
	m, server, ln, dial := testServe(t, s, h)
	lock, err := lockFile(s.home.lockPath(), true)
	require.NoError(t, err)
	defer lock.Close()
	done := make(chan error, 1)
	s.doors = newDoors(t.Context(), server)
	go func() { done <- s.run(t.Context(), ln, nil) }()
	c := &channel.Client{Credentials: m, Dial: dial}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c.ListJobs(t.Context(), nil)
	}()
	<-h.begun
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		leaving := s.leaving
		s.mu.Unlock()
		if leaving {
			break
		}
		require.True(t, time.Now().Before(end), "the lease does not end")
	}
	require.NoError(t, os.WriteFile(s.home.path(BinaryName), []byte("new"), 0o700))
	close(h.open)
	require.NoError(t, <-done)
	<-asked
	require.NoError(t, c.Close(t.Context()))
	require.FileExists(t, s.home.path(BinaryName))
	require.DirExists(t, s.home.blobs())
}

// liar answers with what it was told.
type liar struct {
	*service
	say channel.JobStatus
}

func (l *liar) Status(context.Context, *channel.StatusRequest) (*channel.JobStatus, error) {
	st := l.say
	return &st, nil
}

func (l *liar) Cancel(context.Context, *channel.CancelRequest) (*channel.JobStatus, error) {
	st := l.say
	return &st, nil
}

func (l *liar) ListJobs(context.Context, *channel.ListJobsRequest) (*channel.ListJobsResponse, error) {
	return &channel.ListJobsResponse{Jobs: []channel.JobStatus{l.say}}, nil
}

func TestClientRefusesLies(t *testing.T) {
	s := testService(t)
	l := &liar{service: s}
	m, server, ln, dial := testServe(t, s, l)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), ln) }()
	c, err := NewClient(t.Context(), ClientOptions{Target: "test", Credentials: m, Dial: dial})
	require.NoError(t, err)
	id := channel.NewJobID()
	good := channel.JobStatus{JobID: id, State: channel.StateDone, Verdict: "applied", Log: []byte("x"), NextLogOffset: 8}
	l.say = good
	st, err := c.Status(t.Context(), id, 7)
	require.NoError(t, err)
	require.EqualValues(t, 8, st.NextLog)
	for what, lie := range map[string]func(*channel.JobStatus){
		"another job":       func(s *channel.JobStatus) { s.JobID = channel.NewJobID() },
		"verdict":           func(s *channel.JobStatus) { s.Verdict = "splendid" },
		"activation":        func(s *channel.JobStatus) { s.Activation = "dance" },
		"log that stays":    func(s *channel.JobStatus) { s.NextLogOffset = 7 },
		"log that jumps":    func(s *channel.JobStatus) { s.NextLogOffset = 9 },
		"no log, and jumps": func(s *channel.JobStatus) { s.Log = nil },
	} {
		l.say = good
		lie(&l.say)
		_, err := c.Status(t.Context(), id, 7)
		require.ErrorIs(t, err, transport.ErrProtocol, what)
	}
	l.say = channel.JobStatus{JobID: channel.NewJobID(), State: channel.StateDone, Verdict: "splendid"}
	_, err = c.Cancel(t.Context(), id)
	require.ErrorIs(t, err, transport.ErrProtocol)
	_, err = c.Jobs(t.Context())
	require.ErrorIs(t, err, transport.ErrProtocol)
	// Whatever the channel lets through.
	require.ErrorIs(t, checkStatus(&channel.JobStatus{JobID: id, State: "Resting"}, id, 0), transport.ErrProtocol)
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, server.Close(t.Context()))
	if err := <-served; err != nil {
		require.True(t, errors.Is(err, channel.ErrClosed) || errors.Is(err, net.ErrClosed), err)
	}
}
