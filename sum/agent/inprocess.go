package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// InProcessOptions are the options of NewInProcess.
type InProcessOptions struct {
	// Target is the target's name, for errors and the log.
	Target string
	// Dir is the agent's directory: a native path. It must be there, belong to this
	// user, and lie where nobody else can exchange it. The directory above it, which
	// is the base directory, must be there and writable: by a file in it jobs exclude
	// each other.
	Dir string
	// Shim says that this program can be started anew as the shim of a job: called
	// by the name BinaryName it is Main, as install.RunAgent makes it.
	Shim bool
	// KeepLogs is as that of StartOptions.
	KeepLogs time.Duration
	// Lease is how long a shim whose manager has died waits after the end of its
	// job before it cleans up, and half of how long agents of others leave what is
	// here alone once nobody has it; 0 means DefaultLease.
	Lease time.Duration
}

// NewInProcess makes this process the agent of its own host and returns a Client
// that asks it: with the same Ops, records and logs as any other, but without a
// program that is copied, a socket, a listener or keys.
//
// The directory is locked as long as the Client is open. An agent of another
// process that serves there has to go, as one would for its successor. Another
// manager that is itself the agent there, or another Client of this process, is
// transport.ErrBusy; nothing ever ends such a process because of the directory. A full disk
// is transport.ErrNoSpace.
//
// # What is different
//
// There is no lease that ends it. The directory of a process that was killed, or was
// closed without Stop, stays until an agent with the same directory, or [Remove], clears
// it, or an agent with another one below the same base directory does: when nobody
// has asked or closed this one for twice InProcessOptions.Lease and two minutes.
//
// With InProcessOptions.Shim each job has its shim, a process of its own, and
// nothing else is different. Without, this process is the shim of its jobs. Each
// runs in a session of its own and writes its log itself, so that it goes on when
// this process ends, but nobody then enforces its timeout, and nobody sees how it
// ends: the next agent finds it Running by its record, and when it has ended,
// Interrupted. An inventory has to tell what came of it. Its log is cut to the
// usual limit only five times a second. Close does not end a job, nor the
// goroutine that watches over it.
func NewInProcess(ctx context.Context, opts InProcessOptions) (*Client, error) {
	c := &Client{target: opts.Target, log: slog.New(slog.DiscardHandler), cancel: func() {}}
	if err := Supported(); err != nil {
		return nil, c.wrap("start", err)
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, c.wrap("start", err)
	}
	p, err := startInProcess(ctx, home(dir), opts)
	if isNoSpace(err) {
		return nil, &Error{Op: "start", Target: opts.Target, Kind: transport.ErrNoSpace, Err: err, Hint: "make room on the file system of " + dir}
	}
	if err != nil {
		return nil, c.wrap("start", err)
	}
	c.ch = p
	return c, nil
}

// Remove ends the agent of a directory of this host, unless a job runs there
// (ErrJobRunning), deletes everything but logs, and returns their paths. A manager
// that is itself the agent there is transport.ErrBusy. It is what the command
// "remove" of Main does; that the directory is missing is no error.
func Remove(ctx context.Context, dir string) (left []string, err error) {
	c := &Client{}
	if err := Supported(); err != nil {
		return nil, c.wrap("remove", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, c.wrap("remove", err)
	}
	left, err = removeAgent(ctx, home(dir), holder{Manager: thisProcess()})
	return left, c.wrap("remove", err)
}

// caller is what a Client asks: a channel.Client, or the service itself.
type caller interface {
	channel.Handler
	PutBlob(ctx context.Context, sha256 string, size int64, open func(ctx context.Context, offset int64) (io.ReadCloser, error), progress func(int64)) error
	CopyLog(ctx context.Context, name string, offset int64, w io.Writer) (int64, error)
	Close(ctx context.Context) error
}

var (
	_ caller = (*channel.Client)(nil)
	_ caller = (*inProcess)(nil)
)

// inProcess is a service that is asked without a channel.
type inProcess struct {
	svc  *service
	lock *os.File
	log  *agentLog

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	noted  time.Time      // when the file of the lease was last touched
	calls  sync.WaitGroup // those that run, also when their caller has left
	once   sync.Once
}

// startInProcess is serve without a server.
func startInProcess(ctx context.Context, h home, opts InProcessOptions) (*inProcess, error) {
	if err := h.prepare(); err != nil {
		return nil, err
	}
	lock, err := takeOver(ctx, h, holder{Manager: thisProcess()})
	if err != nil {
		return nil, err
	}
	lease := opts.Lease
	if lease <= 0 {
		lease = DefaultLease
	}
	p, fresh := &inProcess{lock: lock}, false
	err = func() error {
		// Again: whoever held the lock may have deleted everything as it left.
		if err := h.prepare(); err != nil {
			return err
		}
		h.removeSocket() // of an agent that was killed
		fresh = h.fresh()
		for _, name := range []string{ReadyName, BootstrapName} {
			if err := removeAll(h.path(name)); err != nil {
				return err
			}
		}
		if p.log, err = openAgentLog(h.path(LogName), maxAgentLog); err != nil {
			return err
		}
		return h.noteLease(lease)
	}()
	if err != nil {
		p.release()
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(p.log, nil)).With("pid", os.Getpid())
	h.tidy()
	p.svc = newService(h, newLease(lease), log)
	p.svc.target, p.svc.fresh, p.noted = opts.Target, fresh, time.Now()
	h.reconcile(ctx, log)
	if err := ctx.Err(); err != nil {
		p.release()
		return nil, err
	}
	h.prune(opts.KeepLogs, log)
	p.svc.spawn = func(id string) (<-chan struct{}, error) { return spawnInProcess(h, id) }
	if opts.Shim {
		p.svc.spawn = func(id string) (<-chan struct{}, error) { return spawnSelf(h, id, log) }
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	log.Info("the manager is the agent", "target", opts.Target, "version", version(), "shim", opts.Shim)
	p.svc.reviveAll()
	return p, nil
}

func (p *inProcess) release() {
	if p.log != nil {
		_ = p.log.Close()
	}
	_ = p.lock.Close()
}

// direct calls an operation of the service. The call returns when ctx ends or the
// client is closed; the operation may go on for a while then.
func direct[Q, P any](ctx context.Context, p *inProcess, f func(context.Context, *Q) (*P, error), req *Q) (*P, error) {
	return call(ctx, p, func(ctx context.Context) (*P, error) { return f(ctx, req) })
}

func call[T any](ctx context.Context, p *inProcess, f func(ctx context.Context) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return zero, channel.ErrClosed
	}
	p.calls.Add(1)
	p.noteAsked()
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	type result struct {
		v   T
		err error
	}
	answer := make(chan result, 1)
	go func() {
		defer p.calls.Done()
		v, err := f(ctx)
		answer <- result{v, err}
	}()
	select {
	case r := <-answer:
		if r.err != nil && p.ctx.Err() != nil {
			return zero, channel.ErrClosed
		}
		return r.v, p.fault(r.err)
	case <-ctx.Done():
		if p.ctx.Err() != nil {
			return zero, channel.ErrClosed
		}
		return zero, ctx.Err()
	}
}

// noteAsked tells the agents of others that somebody works here, as service.note does. The
// caller has mu.
func (p *inProcess) noteAsked() {
	if _, length := p.svc.lease.left(); time.Since(p.noted) >= noteEvery(length) {
		p.svc.home.touchLease()
		p.noted = time.Now()
	}
}

// fault gives errors the codes that they would have over the channel.
func (p *inProcess) fault(err error) error {
	switch {
	case err == nil || errors.Is(err, channel.ErrFault):
		return err
	case errors.Is(err, channel.ErrDigest):
		return &channel.Fault{Code: channel.CodeDigest, Retryable: true, Message: err.Error()}
	case errors.Is(err, channel.ErrOffset):
		return &channel.Fault{Code: channel.CodeOffset, Retryable: true, Message: err.Error()}
	}
	return p.svc.store.explain(err)
}

// Inventory implements channel.Handler.
func (p *inProcess) Inventory(ctx context.Context, r *channel.InventoryRequest) (*channel.InventoryResponse, error) {
	return direct(ctx, p, p.svc.Inventory, r)
}

// Install implements channel.Handler.
func (p *inProcess) Install(ctx context.Context, r *channel.InstallRequest) (*channel.JobStatus, error) {
	return direct(ctx, p, p.svc.Install, r)
}

// Status implements channel.Handler.
func (p *inProcess) Status(ctx context.Context, r *channel.StatusRequest) (*channel.JobStatus, error) {
	return direct(ctx, p, p.svc.Status, r)
}

// ListJobs implements channel.Handler.
func (p *inProcess) ListJobs(ctx context.Context, r *channel.ListJobsRequest) (*channel.ListJobsResponse, error) {
	return direct(ctx, p, p.svc.ListJobs, r)
}

// Cancel implements channel.Handler.
func (p *inProcess) Cancel(ctx context.Context, r *channel.CancelRequest) (*channel.JobStatus, error) {
	return direct(ctx, p, p.svc.Cancel, r)
}

// Heartbeat implements channel.Handler.
func (p *inProcess) Heartbeat(ctx context.Context, r *channel.HeartbeatRequest) (*channel.HeartbeatResponse, error) {
	return direct(ctx, p, p.svc.Heartbeat, r)
}

// Reboot implements channel.Handler.
func (p *inProcess) Reboot(ctx context.Context, r *channel.RebootRequest) (*channel.RebootResponse, error) {
	return direct(ctx, p, p.svc.Reboot, r)
}

// Move implements channel.Handler.
func (p *inProcess) Move(ctx context.Context, r *channel.MoveRequest) (*channel.MoveResponse, error) {
	return direct(ctx, p, p.svc.Move, r)
}

// Stop implements channel.Handler. It is the last call.
func (p *inProcess) Stop(ctx context.Context, r *channel.StopRequest) (*channel.StopResponse, error) {
	resp, err := direct(ctx, p, p.svc.Stop, r)
	if err == nil {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
	}
	return resp, err
}

// PutBlob copies what the store lacks of a file. What open returns is closed once:
// before PutBlob returns, unless ctx ended and a Read of it hangs.
func (p *inProcess) PutBlob(ctx context.Context, sha256 string, size int64, open func(ctx context.Context, offset int64) (io.ReadCloser, error), progress func(int64)) error {
	offset, err := call(ctx, p, func(ctx context.Context) (int64, error) { return p.svc.Offset(ctx, sha256, size) })
	if err != nil {
		return err
	}
	if progress != nil {
		progress(offset)
	}
	if offset == size && size > 0 {
		return nil
	}
	src, err := open(ctx, offset)
	if err != nil {
		return fmt.Errorf("open the content: %w", err)
	}
	in := &blobReader{ctx: ctx, src: src, at: offset, progress: progress, idle: make(chan struct{})}
	defer in.close()
	end, err := call(ctx, p, func(ctx context.Context) (int64, error) {
		return p.svc.Append(ctx, sha256, size, offset, in)
	})
	if err == nil && end != size {
		err = &channel.Fault{Code: channel.CodeDigest, Message: fmt.Sprintf("the content has %d bytes instead of %d", end, size)}
	}
	return err
}

// blobReader is the source of a PutBlob. It reports what was read until PutBlob
// returns, which may be before the operation that reads it ends; no source need
// bear to be closed while it is read.
type blobReader struct {
	ctx      context.Context
	src      io.ReadCloser
	progress func(int64)

	mu      sync.Mutex
	at      int64
	reading bool
	closed  bool
	idle    chan struct{} // closed when the source is
}

func (r *blobReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return 0, io.ErrClosedPipe
	}
	r.reading = true
	r.mu.Unlock()
	n, err := r.src.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = false
	if r.closed {
		r.end()
		return 0, io.ErrClosedPipe
	}
	if r.at += int64(n); n > 0 && r.progress != nil && r.ctx.Err() == nil {
		r.progress(r.at)
	}
	return n, err
}

// readGrace is how long a read that is going on when ctx ends is waited for.
const readGrace = time.Second

// close closes the source, or leaves that to the read that is going on if it does
// not end soon; Close waits for that. No other begins.
func (r *blobReader) close() {
	r.mu.Lock()
	r.closed = true
	if !r.reading {
		r.end()
	}
	r.mu.Unlock()
	wait := time.NewTimer(readGrace)
	defer wait.Stop()
	select {
	case <-r.idle:
	case <-wait.C:
	}
}

func (r *blobReader) end() {
	_ = r.src.Close()
	close(r.idle)
}

// CopyLog copies a log from an offset to its present end.
func (p *inProcess) CopyLog(ctx context.Context, name string, offset int64, w io.Writer) (int64, error) {
	if !channel.ValidLogName(name) || offset < 0 {
		return offset, channel.ErrMalformed
	}
	buf := make([]byte, maxPiece)
	for {
		piece, err := call(ctx, p, func(ctx context.Context) ([]byte, error) {
			n, _, err := p.svc.ReadLogAt(ctx, name, buf, offset)
			return buf[:n], err
		})
		if err != nil {
			return offset, err
		}
		n, err := w.Write(piece)
		if offset += int64(n); err != nil || len(piece) == 0 {
			return offset, err
		}
	}
}

// Close ends the calls and gives the directory back. It waits for what they still
// do, at most until transport.CloseGrace after ctx ended. Jobs go on.
func (p *inProcess) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	done := make(chan struct{})
	go func() {
		p.calls.Wait()
		close(done)
	}()
	if !joined(ctx, done) {
		return errors.New("a call did not end")
	}
	p.once.Do(func() {
		p.svc.home.touchLease() // who comes back soon finds what is here
		p.release()
	})
	return nil
}

// joined waits for done, at most until transport.CloseGrace after ctx ended.
func joined(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	grace := time.NewTimer(transport.CloseGrace)
	defer grace.Stop()
	select {
	case <-done:
		return true
	case <-grace.C:
		return false
	}
}
