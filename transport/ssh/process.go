package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// task is a script to run on the target.
type task struct {
	script         string
	stdin          io.Reader // nil: none
	stdout, stderr io.Writer // nil: dropped
	buf            int       // bytes of each write to standard input; 0 means 32 KiB
	stallIn        *stall    // watches writes to standard input; nil: they may take as long as they like
	stallOut       *stall    // likewise reads from standard output
	unkillable     bool      // is itself what kills
}

const (
	killGrace = time.Second     // how long a cancelled call waits for its program to end
	killLimit = 4 * time.Second // how long the effort goes on behind its back
)

// exec runs a task of the call when there is a place for it, and waits for its
// end. Errors are ready to be returned to the caller.
func (k *call) exec(t task) (transport.Exit, error) {
	select {
	case k.c.sessions <- struct{}{}:
	case <-k.ctx.Done():
		return transport.Exit{}, k.fail(k.ctx.Err())
	}
	defer func() { <-k.c.sessions }()
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
	prompt string
	cancel context.CancelCauseFunc

	started  chan struct{} // closed when the script proper begins, or never will
	start    sync.Once
	outer    atomic.Bool  // a POSIX sh was reached
	asked    atomic.Int32 // how often sudo asked for the password
	pid      atomic.Value // string: the leader of the process group
	exit     transport.Exit
	exited   bool          // exit is known
	noise    head          // what came on standard error before the script began
	done     chan struct{} // closed when the streams and the channel have ended
	out, err *gate
}

// run runs a task. When ctx ends, the program is ended, too.
func (c *conn) run(ctx context.Context, cancel context.CancelCauseFunc, t task) (transport.Exit, error) {
	ch, reqs, err := c.openSession(ctx)
	if err != nil {
		return transport.Exit{}, err
	}
	p := &process{c: c, t: t, ch: ch, token: newToken(), cancel: cancel,
		started: make(chan struct{}), done: make(chan struct{}), noise: head{limit: 4096},
		out: newGate(t.stdout), err: newGate(t.stderr)}
	if c.opts.Elevate == Sudo && !c.opts.SudoPassword.IsZero() {
		p.prompt = newToken()
	}
	line := commandLine(t.script, p.token, c.opts.Elevate == Sudo, p.prompt)
	reqsDone := make(chan struct{})
	c.bg.Go(func() {
		defer close(reqsDone)
		p.requests(reqs)
	})
	ok, err := do(ctx, c, func() (bool, error) {
		return ch.SendRequest("exec", true, xssh.Marshal(struct{ Command string }{line}))
	}, nil)
	if err != nil || !ok {
		c.bg.Go(func() { _ = ch.Close() })
		if err == nil {
			return transport.Exit{}, &transport.Error{Op: "run", Kind: transport.ErrRejected, Hint: "the server runs no commands"}
		}
		return transport.Exit{}, c.explain(ctx, err)
	}
	c.bg.Go(func() {
		defer close(p.done)
		var wg sync.WaitGroup
		wg.Go(p.pumpStderr)
		p.pumpStdout()
		wg.Wait()
		<-reqsDone
		p.start.Do(func() { close(p.started) })
		_ = ch.Close()
	})
	c.bg.Go(p.pumpStdin)

	select {
	case <-p.done:
	case <-ctx.Done():
		p.terminate()
		p.out.shut()
		p.err.shut()
		return transport.Exit{}, context.Cause(ctx)
	}
	return p.result(ctx)
}

// result is how a program ended that was not cancelled.
func (p *process) result(ctx context.Context) (transport.Exit, error) {
	switch {
	case !p.exited:
		return transport.Exit{}, p.c.explain(ctx, &transport.Error{Op: "run", Kind: transport.ErrProtocol,
			Err: errors.New("the program ended without an exit status")})
	case p.pid.Load() == nil:
		return transport.Exit{}, p.notStarted()
	}
	return p.exit, nil
}

// notStarted is why the script never began.
func (p *process) notStarted() error {
	e := &transport.Error{Op: "run", Code: exitCode(p.exit)}
	if text := strings.TrimSpace(p.noise.String()); text != "" {
		e.Err = fmt.Errorf("%q", text)
	}
	switch {
	case !p.outer.Load():
		e.Kind, e.Hint = transport.ErrRejected, "the server did not run sh, but something else"
	case p.asked.Load() > 1:
		e.Kind, e.Hint = transport.ErrAuth, "sudo refused the password"
	case p.exit.Code == 126 || p.exit.Code == 127:
		e.Kind, e.Hint = errors.ErrUnsupported, "sudo is not installed on the target"
	case p.prompt == "":
		e.Kind, e.Hint = transport.ErrAuth, "sudo wants a password (Options.SudoPassword), or does not let this user in"
	default:
		e.Kind, e.Hint = transport.ErrAuth, "sudo does not let this user in"
	}
	return e
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

// terminate ends the program of a cancelled call: by a signal to its process
// group (RFC 4254, section 6.9) where the server passes signals on, and by a kill
// of its own, which also reaches what runs as root. Whoever called waits a moment
// for it; the rest happens behind its back, before the connection closes.
func (p *process) terminate() {
	if p.t.unkillable || p.c.lost() {
		p.c.bg.Go(func() { _ = p.ch.Close() })
		return
	}
	p.c.ops.Add(1)
	finished := make(chan struct{})
	p.c.bg.Go(func() {
		defer p.c.ops.Done()
		defer close(finished)
		p.kill()
	})
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case <-p.done:
	case <-finished:
	case <-grace.C:
	}
}

func (p *process) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	_, _ = do(ctx, p.c, func() (bool, error) {
		return p.ch.SendRequest("signal", false, xssh.Marshal(struct{ Name string }{"TERM"}))
	}, nil)
	if p.ended(ctx, killGrace/4) {
		return
	}
	if pid, ok := p.pid.Load().(string); ok {
		_, _ = p.c.run(ctx, func(error) {}, task{script: scriptWith(killScript, pid), unkillable: true})
		p.ended(ctx, killGrace/4)
	}
	_, _ = do(ctx, p.c, func() (bool, error) { return true, p.ch.Close() }, nil)
}

// ended waits a while for the end of the program.
func (p *process) ended(ctx context.Context, while time.Duration) bool {
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// lost reports whether the line broke.
func (c *conn) lost() bool {
	var lost *lostError
	return errors.As(context.Cause(c.ctx), &lost)
}
