package ssh

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// conn is one connection. It is safe for concurrent use.
type conn struct {
	target string
	opts   Options
	line   *line
	ssh    xssh.Conn

	caps  transport.Caps
	path  transport.Path
	shell bool  // a POSIX sh can be had
	noSh  error // why not

	terminal    bool        // sudo wants a terminal
	sudoRefused atomic.Bool // sudo has refused the password

	hostKey []byte // what the target showed
	bulk    bulkSizes
	// second makes another connection to the same target, for a large transfer.
	second func(context.Context) (*conn, error)

	ctx    context.Context // ends when the connection is closed or lost; its cause says which
	cancel context.CancelCauseFunc

	hadSession  atomic.Bool    // the server has opened a session before
	fewSessions atomic.Bool    // the server refused a session that one can do without
	sessions    chan struct{}  // a place for each command that may run
	ops         sync.WaitGroup // calls, and what ends the programs of cancelled calls
	bg          sync.WaitGroup // goroutines that end with the line at the latest

	mu      sync.Mutex
	closing bool
	once    sync.Once

	sftpTurn   chan struct{} // holds the right to look at and set these
	sftpShared *sftpClient
	sftpErr    error                  // why the server has no SFTP
	sftpUses   atomic.Int32           // calls that use sftpShared
	sftpUser   atomic.Pointer[uint32] // the owner of the files that SFTP creates, once it is known

	puts sync.Map // partial files that are being written: name to chan struct{}
}

var _ interface {
	transport.Conn
	transport.FileStore
	transport.Runner
	transport.Tunneler
} = (*conn)(nil)

func newConn(target string, opts Options, l *line, sc xssh.Conn, chans <-chan xssh.NewChannel, reqs <-chan *xssh.Request) *conn {
	c := &conn{target: target, opts: opts, line: l, ssh: sc, sessions: make(chan struct{}, opts.MaxSessions),
		sftpTurn: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.bg.Go(func() { xssh.DiscardRequests(reqs) })
	c.bg.Go(func() {
		for nc := range chans {
			_ = nc.Reject(xssh.Prohibited, "no channels from this side")
		}
	})
	c.bg.Go(func() {
		err := sc.Wait()
		if broken := l.broken(); broken != nil {
			err = broken
		}
		c.lose(err)
	})
	if opts.KeepAlive > 0 {
		c.bg.Go(c.keepAlive)
	}
	return c
}

// lose ends the connection because the line broke.
func (c *conn) lose(err error) {
	c.cancel(&lostError{err}) // without effect after Close
	_ = c.line.Close()
}

// keepAlive asks a silent target for a sign of life, as OpenSSH does (PROTOCOL,
// section 2.3 for the name; a refusal is as good an answer as any).
func (c *conn) keepAlive() {
	var asking atomic.Bool
	timer := time.NewTimer(c.opts.KeepAlive)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		silence := c.line.silence()
		switch {
		case silence >= 3*c.opts.KeepAlive:
			c.lose(fmt.Errorf("no sign of life for %v", silence.Round(time.Second)))
			return
		case silence >= c.opts.KeepAlive && asking.CompareAndSwap(false, true):
			c.bg.Go(func() {
				_ = c.ask()
				asking.Store(false)
			})
		}
		timer.Reset(c.opts.KeepAlive - silence%c.opts.KeepAlive)
	}
}

// ask makes the target answer.
func (c *conn) ask() error {
	_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
	return err
}

// explain says why a channel ended without a word: because the connection is
// lost, or else for the reason given.
func (c *conn) explain(ctx context.Context, otherwise error) error {
	_, err := do(ctx, c, func() (struct{}, error) { return struct{}{}, c.ask() }, nil)
	if err == nil {
		return otherwise
	}
	if ctx.Err() == nil {
		<-c.ctx.Done() // the goroutine that waits for the end of the line is about to say so
	}
	return err
}

// call is one call of the caller's.
type call struct {
	c        *conn
	op, path string
	ctx      context.Context // ends with the caller's context and with the connection
	cancel   context.CancelCauseFunc
	stop     func() bool
	patience time.Duration // with a shell that does not answer; 0 means Options.StallTimeout
}

// begin starts a call. The caller must call end, unless there is an error.
func (c *conn) begin(ctx context.Context, op, path string) (*call, error) {
	k := &call{c: c, op: op, path: path}
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: op, Target: c.target, Path: path, Kind: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, &transport.Error{Op: op, Target: c.target, Path: path, Kind: transport.ErrClosed}
	}
	if c.ctx.Err() != nil {
		return nil, c.fail(c.ctx, op, path, c.ctx.Err())
	}
	c.ops.Add(1)
	k.ctx, k.cancel = context.WithCancelCause(ctx)
	k.stop = context.AfterFunc(c.ctx, func() { k.cancel(context.Cause(c.ctx)) })
	return k, nil
}

func (k *call) end() {
	k.stop()
	k.cancel(nil)
	k.c.ops.Done()
}

// fail returns err as the error of the call.
func (k *call) fail(err error) error { return k.c.fail(k.ctx, k.op, k.path, err) }

// invalid is the error for arguments that make no sense.
func (c *conn) invalid(op, path, hint string) error {
	return &transport.Error{Op: op, Target: c.target, Path: path, Kind: transport.ErrInvalid, Hint: hint}
}

// do runs f, which cannot be interrupted, and returns when it does or when ctx
// ends. In the second case drop gets what f returns later, unless it fails.
func do[T any](ctx context.Context, c *conn, f func() (T, error), drop func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result)
	c.bg.Go(func() {
		v, err := f()
		select {
		case answer <- result{v, err}:
		case <-ctx.Done():
			if err == nil && drop != nil {
				drop(v)
			}
		}
	})
	select {
	case r := <-answer:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// Caps implements transport.Conn.
func (c *conn) Caps() transport.Caps { return c.caps }

// Path implements transport.Conn.
func (c *conn) Path() transport.Path { return c.path }

// WhyNot implements transport.Explainer.
func (c *conn) WhyNot(want transport.Caps) error {
	if c.caps.Has(want) || want&(transport.CapRun|transport.CapFiles) == 0 {
		return nil
	}
	return c.noSh
}

// Close implements transport.Conn. Programs that still run are ended. It is
// ErrTimeout if something of the connection hangs all the same, such as a writer of
// the caller's.
func (c *conn) Close(ctx context.Context) (err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.closing = true
		c.mu.Unlock()
		c.cancel(errClosed)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
		defer cancel()
		patience, cancel := context.WithTimeout(grace, transport.CloseGrace/2)
		defer cancel()
		wait(patience, &c.ops)
		_ = c.line.Close()
		if !wait(grace, &c.bg) {
			err = &transport.Error{Op: "close", Target: c.target, Kind: transport.ErrTimeout}
		}
	})
	return err
}

// wait waits for wg until ctx ends, and reports whether wg was first.
func wait(ctx context.Context, wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
