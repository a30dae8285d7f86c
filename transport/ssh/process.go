package ssh

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// task is a script to run on the target.
type task struct {
	script         string
	private        string    // the first bytes of standard input, which the script reads
	stdin          io.Reader // nil: none
	mayHang        bool      // a read from stdin may never return: nobody waits for it
	stdout, stderr io.Writer // nil: dropped
	buf            int       // bytes of each write to standard input; 0 means 32 KiB
	stallIn        *stall    // watches writes to standard input; nil: they may take as long as they like
	stallOut       *stall    // likewise reads from standard output
	unkillable     bool      // is itself what kills
	asUser         bool      // is not elevated
	patience       time.Duration
	over           func() // called when the program has ended, or the effort to end it; may be nil
}

// exec runs a task of the call when there is a place for it, and waits for its
// end. Errors are ready to be returned to the caller.
func (k *call) exec(t task) (transport.Exit, error) {
	select {
	case k.c.sessions <- struct{}{}:
	case <-k.ctx.Done():
		return transport.Exit{}, k.fail(k.ctx.Err())
	}
	t.over = func() { <-k.c.sessions }
	t.patience = k.patience
	exit, err := k.c.run(k.ctx, k.cancel, t)
	return exit, k.fail(err)
}

// script runs a fixed script and returns its output; another exit status than 0
// is an error.
func (k *call) script(script string, args ...string) (string, error) {
	var out, errs head
	out.limit, errs.limit = maxAnswer, 4096
	exit, err := k.exec(task{script: scriptWith(script, args...), stdout: &out, stderr: &errs})
	switch {
	case err != nil:
		return "", err
	case exit != (transport.Exit{}):
		return "", k.exitError(exit, errs.String())
	case out.over:
		return "", &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Kind: transport.ErrProtocol,
			Err: fmt.Errorf("more than %d bytes of output", maxAnswer)}
	}
	return out.String(), nil
}

// maxAnswer bounds what scripts may answer: a directory of some 100,000 entries.
const maxAnswer = 16 << 20

// head keeps the first bytes that are written to it.
type head struct {
	bytes.Buffer
	limit int
	over  bool
}

func (h *head) Write(p []byte) (int, error) {
	room := h.limit - h.Len()
	if len(p) > room {
		h.over = true
		_, _ = h.Buffer.Write(p[:max(0, room)])
		return len(p), nil
	}
	return h.Buffer.Write(p)
}

// process is a task that runs.
type process struct {
	c      *conn
	t      task
	ch     xssh.Channel
	token  string
	first  string // of standard input
	as     rights
	cancel context.CancelCauseFunc

	started chan struct{} // closed when the script proper begins, or never will
	start   sync.Once
	onStart func() bool

	closeInput func()       // may be called often
	deaf       atomic.Bool  // nothing more is read from stdin
	outer      atomic.Int32 // how often outerToken came by
	asked      atomic.Int32 // how often sudo asked for the password
	pids       atomic.Value // string: the leaders of the process groups
	exit       transport.Exit
	exited     bool          // exit is known
	words      lastWords     // what came on standard error before the script began
	done       chan struct{} // closed when the streams and the channel have ended
	out, err   *gate
}

// run runs a task. When ctx ends, the program is ended, too; cancel ends ctx.
func (c *conn) run(ctx context.Context, cancel context.CancelCauseFunc, t task) (transport.Exit, error) {
	over := t.over
	if over == nil {
		over = func() {}
	}
	isOver := true
	defer func() {
		if isOver {
			over()
		}
	}()
	p := &process{c: c, t: t, token: newToken(), cancel: cancel, started: make(chan struct{}), done: make(chan struct{}),
		out: newGate(t.stdout), err: newGate(t.stderr)}
	if c.opts.Elevate == Sudo && !t.asUser {
		p.as = rights{sudo: true, terminal: c.terminal}
		if !c.opts.SudoPassword.IsZero() {
			p.as.prompt = newToken()
		}
		if c.sudoRefused.Load() {
			return transport.Exit{}, &transport.Error{Op: "run", Kind: transport.ErrElevation,
				Hint: "sudo has refused the password before; it is not tried again on this connection"}
		}
	}
	if p.as.sudo && len(asRoot(t.script, p.token)) > maxString {
		return transport.Exit{}, tooLong(maxString)
	}
	text := wrapped(t.script, p.token, p.as)
	if len(text) > maxStrings {
		return transport.Exit{}, tooLong(maxStrings)
	}
	line, input := commandLine(text)
	p.first = input
	if limit := cmp.Or(t.patience, c.opts.StallTimeout); limit > 0 {
		watch := time.AfterFunc(limit, func() { p.cancel(&silentError{limit, p.said()}) })
		defer watch.Stop()
		p.onStart = watch.Stop
	}
	var late func(xssh.Channel, <-chan *xssh.Request)
	if !t.unkillable {
		late = func(ch xssh.Channel, reqs <-chan *xssh.Request) {
			p.out.shut()
			p.err.shut()
			p.deaf.Store(true)
			p.t.stdin = nil // it is the caller's again
			p.attach(ch, reqs)
			c.bg.Go(p.pumpStdin)
			p.kill()
		}
	}
	ch, reqs, err := c.startSession(ctx, "exec", line, late)
	if err != nil {
		return transport.Exit{}, err
	}
	if ch == nil {
		return transport.Exit{}, &transport.Error{Op: "run", Kind: transport.ErrRejected, Hint: "the server runs no commands"}
	}
	p.attach(ch, reqs)
	defer p.deaf.Store(true)
	if t.mayHang && t.stdin != nil {
		go p.pumpStdin()
	} else {
		c.bg.Go(p.pumpStdin)
	}

	select {
	case <-p.done:
	case <-ctx.Done():
		isOver = false
		p.terminate(over)
		p.out.shut()
		p.err.shut()
		return transport.Exit{}, context.Cause(ctx)
	}
	return p.result(ctx)
}

// attach reads what comes from a program that the server has started.
func (p *process) attach(ch xssh.Channel, reqs <-chan *xssh.Request) {
	p.ch, p.closeInput = ch, sync.OnceFunc(func() { _ = ch.CloseWrite() })
	reqsDone := make(chan struct{})
	p.c.bg.Go(func() {
		defer close(reqsDone)
		p.requests(reqs)
	})
	p.c.bg.Go(func() {
		defer close(p.done)
		var wg sync.WaitGroup
		wg.Go(p.pumpStderr)
		p.pumpStdout()
		wg.Wait()
		<-reqsDone
		p.begun()
		_ = ch.Close()
	})
}

// result is how a program ended that was not cancelled.
func (p *process) result(ctx context.Context) (transport.Exit, error) {
	switch {
	case !p.exited:
		return transport.Exit{}, p.c.explain(ctx, &transport.Error{Op: "run", Kind: transport.ErrProtocol,
			Err: errors.New("the program ended without an exit status")})
	case p.pids.Load() == nil:
		return transport.Exit{}, p.notStarted()
	}
	return p.exit, nil
}

// requests waits for the end of the program (RFC 4254, section 6.10).
func (p *process) requests(reqs <-chan *xssh.Request) {
	for req := range reqs {
		switch req.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if xssh.Unmarshal(req.Payload, &m) == nil {
				p.exit, p.exited = transport.Exit{Code: int(m.Status)}, true
			}
		case "exit-signal":
			var m struct {
				Name      string
				Core      bool
				Msg, Lang string
			}
			if xssh.Unmarshal(req.Payload, &m) == nil {
				p.exit, p.exited = transport.Exit{Code: -1, Signal: m.Name}, true
			}
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
}
