package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent/internal/inventory"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// maxPiece is how much of a job's log one Status carries, in bytes.
const maxPiece = 256 << 10

// service answers the manager. Its state is in the files of its directory, so
// that another agent can go on with them.
type service struct {
	home  home
	lease *lease
	store *store
	log   *slog.Logger
	// spawn starts the shim of a job and returns a channel that is closed when
	// that process has ended.
	spawn func(id string) (<-chan struct{}, error)
	// collect is inventory.Collect, and search the path for programs.
	collect func(ctx context.Context) *transport.Inventory
	search  string
	// restart is restartHost, or what a test puts there.
	restart func(ctx context.Context, message string, delay time.Duration) (taken bool, err error)
	target  string   // as the manager names the host
	found   snapshot // of the directory, when this process began
	held    bool     // of kept: a job kept the lease
	fresh   bool     // nothing was known here when this process began
	gone    bool     // of run: nobody comes back for this agent

	mu       sync.Mutex // held while a job is accepted or the agent leaves
	leaving  bool
	starting map[string]<-chan struct{}
	tried    map[string]time.Time // when a shim of the job was last started
	faults   map[string]error     // why it could not be

	doors *doors // nil where nobody comes through any

	stopOnce sync.Once
	stopped  chan struct{} // closed by Stop

	manager <-chan struct{} // closed by heard
	heard   func()
}

var (
	_ channel.Handler = (*service)(nil)
	_ channel.Blobs   = (*service)(nil)
)

func newService(h home, l *lease, log *slog.Logger) *service {
	s := &service{
		home: h, lease: l, store: newStore(h.blobs()), log: log,
		collect: inventory.Collect, search: searchPath(os.Getenv("PATH")),
		starting: make(map[string]<-chan struct{}), tried: make(map[string]time.Time), faults: make(map[string]error), stopped: make(chan struct{}),
	}
	s.restart = s.restartHost
	manager := make(chan struct{})
	s.manager, s.heard = manager, sync.OnceFunc(func() { close(manager) })
	return s
}

// busy returns the jobs that keep the agent here.
func (s *service) busy() []string {
	ids := s.home.busy()
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(ids, s.begun()...)
}

// begun returns the jobs whose shim was spawned and may not hold its lock yet.
// The caller holds mu.
func (s *service) begun() []string {
	var ids []string
	for id, ended := range s.starting {
		select {
		case <-ended:
			delete(s.starting, id)
		default:
			// Once it holds the lock, that tells more: a shim that has ended its
			// job may stay for the sake of a dead agent.
			if r, err := s.home.readRecord(id); err == nil && r.State != Accepted {
				delete(s.starting, id)
			} else {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// leave lets no more work in, unless a job runs.
func (s *service) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.home.busy()) > 0 || len(s.begun()) > 0 {
		return false
	}
	s.leaving = true
	return true
}

func fault(code, format string, args ...any) error {
	return &channel.Fault{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Heartbeat implements channel.Handler. It is a manager's first request.
func (s *service) Heartbeat(_ context.Context, r *channel.HeartbeatRequest) (*channel.HeartbeatResponse, error) {
	s.lease.renew()
	s.heard()
	length := s.lease.setLength(time.Duration(r.LeaseSeconds) * time.Second)
	return &channel.HeartbeatResponse{AgentTime: time.Now(), LeaseSeconds: uint32(length / time.Second)}, nil
}

// awaitManager waits for the manager's first request, and reports whether it came before
// ctx ended.
func (s *service) awaitManager(ctx context.Context) bool {
	select {
	case <-s.manager:
		return true
	case <-ctx.Done():
		return false
	}
}

// Offset implements channel.Blobs.
func (s *service) Offset(ctx context.Context, digest string, size int64) (int64, error) {
	s.lease.renew()
	return s.store.Offset(ctx, digest, size)
}

// Append implements channel.Blobs. Every piece that arrives renews the lease.
func (s *service) Append(ctx context.Context, digest string, size, offset int64, r io.Reader) (int64, error) {
	s.lease.renew()
	defer s.lease.renew()
	return s.store.Append(ctx, digest, size, offset, &renewingReader{r, s.lease})
}

type renewingReader struct {
	r io.Reader
	l *lease
}

func (r *renewingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.l.renew()
	return n, err
}

// Install implements channel.Handler. An error is that there is no such job and will
// be none, unless it was there before; a job that was recorded has a state, also
// where its shim could not be started.
func (s *service) Install(_ context.Context, r *channel.InstallRequest) (*channel.JobStatus, error) {
	s.lease.renew()
	job := jobFromWire(r)
	if err := job.Check(); err != nil {
		return nil, fault(channel.CodeBadRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return nil, &channel.Fault{Code: channel.CodeBusy, Message: "the agent is leaving"}
	}
	rec, err := s.home.settle(job.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if id := s.home.orphan(); id != "" {
			return nil, &channel.Fault{Code: channel.CodeBusy, Retryable: true,
				Message: "the program of job " + id + " still runs, without the process that watched over it"}
		}
		if rec, err = s.accept(job); err != nil {
			return nil, err
		}
		// From here on the job exists, and may yet run: so the answer is where it
		// stands, whatever fails. Who asks for its status has it tried again.
		return statusToWire(s.start(rec)), nil
	case err != nil:
		return nil, err
	case rec.Digest != jobDigest(job):
		return nil, fault(channel.CodeConflict, "job %s has other contents", job.ID)
	}
	if rec, err = s.revive(rec); err != nil {
		s.log.Error("reviving a job", "job", rec.ID, "error", err)
	}
	return statusToWire(rec), nil
}

// hostFree returns an error if a job holds the host, of this agent or another, or
// is about to. The caller holds mu.
func (s *service) hostFree() error {
	for _, id := range append(s.home.busy(), s.begun()...) {
		if rec, err := s.home.readRecord(id); err == nil {
			return hostFault(rec.hostHolder(s.home))
		}
	}
	by, err := s.home.hostHolder()
	if err != nil {
		return err
	}
	if by != nil {
		return hostFault(*by)
	}
	return nil
}

// accept records a job. From then on it exists.
func (s *service) accept(job Job) (record, error) {
	for _, f := range job.Files {
		if ok, err := s.store.has(f.SHA256, f.Size); err != nil {
			return record{}, err
		} else if !ok {
			return record{}, fault(channel.CodeNotFound, "file %s (%s) is not staged", f.Name, f.SHA256)
		}
	}
	rec := record{
		Version: fileVersion, ID: job.ID, Digest: jobDigest(job), Component: job.Component, Release: job.Version, Target: s.target,
		Argv: job.Argv, Files: job.Files, Profile: job.Profile, State: Accepted, Accepted: time.Now().UTC(), Tries: 1,
	}
	// What could not be read again must not be written.
	for _, v := range []any{job, rec} {
		if data, err := encodeJSON(v); err != nil || len(data) > maxRecord-recordSpare {
			return record{}, fault(channel.CodeBadRequest, "job %s is too large: its record would have %d bytes", job.ID, len(data))
		}
	}
	if err := s.hostFree(); err != nil {
		return record{}, err
	}
	sh := shim{home: s.home, id: job.ID}
	if err := removeAll(sh.dir()); err != nil {
		return record{}, err
	}
	if err := os.Mkdir(sh.dir(), 0o700); err != nil {
		return record{}, s.store.explain(err)
	}
	err := writeJSON(sh.spec(), job)
	if err == nil {
		err = s.home.reserve(rec)
	}
	if err == nil {
		err = s.home.writeRecord(rec)
	}
	if err != nil { // the record may be there, if only its directory was not flushed
		_ = os.Remove(s.home.record(job.ID))
		return record{}, errors.Join(s.store.explain(err), removeAll(sh.dir()))
	}
	s.log.Info("job accepted", "job", job.ID, "component", job.Component, "version", job.Version)
	return rec, nil
}

func (s *service) settle(id string) (record, error) {
	rec, err := s.home.settle(id)
	if errors.Is(err, fs.ErrNotExist) {
		code := channel.CodeNotFound
		if s.fresh {
			code = codeNoRecords
		}
		err = fault(code, "no job %s", id)
	}
	return rec, err
}

// Status implements channel.Handler.
func (s *service) Status(ctx context.Context, r *channel.StatusRequest) (*channel.JobStatus, error) {
	s.lease.renew()
	// The state is read before the log: what a job that is over has printed is
	// then all there.
	rec, err := s.settle(r.JobID)
	if err != nil {
		return nil, err
	}
	rec = s.reviveSlowly(rec)
	st := statusToWire(rec)
	buf := make([]byte, maxPiece)
	n, size, err := readAt(s.home.output(r.JobID), buf, r.LogOffset)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	st.Log = buf[:n]
	st.NextLogOffset = min(r.LogOffset, size) + int64(n)
	return st, nil
}

// ListJobs implements channel.Handler.
func (s *service) ListJobs(context.Context, *channel.ListJobsRequest) (*channel.ListJobsResponse, error) {
	s.lease.renew()
	ids, err := s.home.jobIDs()
	if err != nil {
		return nil, err
	}
	var recs []record
	for _, id := range ids {
		rec, err := s.home.settle(id)
		if err != nil {
			s.log.Error("reading a record", "job", id, "error", err)
			continue
		}
		recs = append(recs, s.reviveSlowly(rec))
	}
	slices.SortFunc(recs, func(a, b record) int { return a.Accepted.Compare(b.Accepted) })
	resp := &channel.ListJobsResponse{}
	for _, rec := range recs {
		resp.Jobs = append(resp.Jobs, *statusToWire(rec))
	}
	return resp, nil
}

// Cancel implements channel.Handler.
func (s *service) Cancel(ctx context.Context, r *channel.CancelRequest) (*channel.JobStatus, error) {
	s.lease.renew()
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, err := s.settle(r.JobID)
	if err != nil || rec.State.Final() {
		return statusToWire(rec), err
	}
	// The shim looks for this file, so that it does not matter which agent it
	// was that was asked.
	sh := shim{home: s.home, id: r.JobID}
	before, _ := os.Lstat(sh.cancel())
	if before == nil {
		if err := os.WriteFile(sh.cancel(), nil, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	s.log.Info("cancel asked", "job", r.JobID)
	if rec.programAlive() && !rec.Shim.alive() {
		return statusToWire(rec), s.cancelOrphan(rec, before)
	}
	lock, err := lockFile(s.home.jobLock(r.JobID), rec.State == Accepted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if lock == nil {
		rec, err = s.settle(r.JobID)
		return statusToWire(rec), err
	}
	defer lock.Close()
	if rec, err = s.home.readRecord(r.JobID); err != nil || rec.State != Accepted {
		return statusToWire(rec), err
	}
	rec.State, rec.Cancel, rec.Ended = Cancelled, true, time.Now().UTC()
	rec.Result = transport.Result{Verdict: transport.VerdictCancelled, Text: "cancelled before it began"}
	if err := s.home.writeEnd(rec); err != nil {
		return nil, err
	}
	return statusToWire(rec), removeAll(sh.dir())
}

// Move implements channel.Handler.
func (s *service) Move(ctx context.Context, r *channel.MoveRequest) (*channel.MoveResponse, error) {
	s.lease.renew()
	change := s.doors.move
	if r.Done {
		change = func(context.Context) (uint16, error) { return s.doors.moved() }
	}
	port, err := change(ctx)
	if err != nil {
		return nil, err
	}
	s.log.Info("the conversation moves", "port", port, "done", r.Done)
	return &channel.MoveResponse{Port: uint32(port)}, nil
}

// Stop implements channel.Handler. The files are gone when the answer is sent;
// the process ends afterwards.
func (s *service) Stop(_ context.Context, r *channel.StopRequest) (*channel.StopResponse, error) {
	s.lease.renew()
	if !r.Remove {
		s.stop()
		return &channel.StopResponse{}, nil
	}
	if !s.leave() {
		return nil, &channel.Fault{Code: codeJobRunning, Retryable: true, Message: "a job runs"}
	}
	defer s.stop()
	s.home.abandon()
	left, err := s.home.clear()
	if err != nil {
		return nil, err
	}
	return &channel.StopResponse{Removed: true, Left: left}, nil
}

func (s *service) stop() { s.stopOnce.Do(func() { close(s.stopped) }) }

// readAt reads from a file that may be growing. n is 0 only at or past the end.
func readAt(name string, p []byte, offset int64) (n int, size int64, err error) {
	f, err := openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	n, err = f.ReadAt(p, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return n, 0, err
	}
	return n, max(fi.Size(), min(offset, fi.Size())+int64(n)), nil
}
