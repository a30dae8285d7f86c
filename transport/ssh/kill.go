package ssh

import (
	"context"
	"errors"
	"strings"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

const (
	killGrace = time.Second      // how long a cancelled call waits for its program to end
	killLimit = time.Minute      // how long the effort goes on behind its back, while the connection is open
	lateStart = 10 * time.Second // how long a login shell may take until the program's number comes
)

// terminate ends the program of a cancelled call: by a signal to its process
// group (RFC 4254, section 6.9) where the server passes signals on, and by a kill
// of its own, which also reaches what runs as root. Whoever called waits a moment
// for it; the rest happens behind its back, before the connection closes, and then
// over is called.
func (p *process) terminate(over func()) {
	if p.t.unkillable || p.c.lost() {
		p.c.bg.Go(func() { _ = p.ch.Close() })
		over()
		return
	}
	p.c.ops.Add(1)
	finished := make(chan struct{})
	p.c.bg.Go(func() {
		defer p.c.ops.Done()
		defer close(finished)
		defer over()
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
	ctx, cancel := context.WithTimeout(context.Background(), killLimit+killGrace)
	defer cancel()
	// What the program prints may be here before its number is, which comes on the
	// other stream.
	p.within(ctx, killGrace/4, p.started)
	word, _ := p.pids.Load().(string)
	ended := false
	if !strings.Contains(word, alone) { // else one process alone would get it, and its children get lost
		_ = p.signal(ctx, "TERM")
		ended = p.within(ctx, killGrace/4, p.done)
		word, _ = p.pids.Load().(string)
	}
	if word == "" && !ended {
		// The signal did not end the login shell, which takes long over its start files on
		// a busy host: the program is yet to come, and must not stay. Close ends the wait.
		late, stop := context.WithCancel(ctx)
		defer context.AfterFunc(p.c.ctx, stop)()
		p.within(late, lateStart, p.started)
		stop()
		word, _ = p.pids.Load().(string)
	}
	// That the streams have ended does not say that everybody has who is in the
	// group.
	if pids := strings.Fields(strings.Replace(word, alone, "", 1)); len(pids) > 0 {
		err := p.c.killProcesses(ctx, pids)
		if err != nil && !ended { // no room for another session, or a login shell that takes too long
			_ = p.signal(ctx, "KILL")
		}
		ended = p.within(ctx, killGrace/4, p.done)
	}
	if ended {
		return // the channel is closed
	}
	_, _ = do(ctx, p.c, func() (bool, error) { return true, p.ch.Close() }, nil)
}

// killProcesses ends processes, which lead process groups or not.
func (c *conn) killProcesses(ctx context.Context, pids []string) error {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	_, err := c.run(ctx, func(error) {}, task{script: scriptWith(killScript, pids...), unkillable: true})
	return err
}

// signal has the server send a signal to the process group of the session.
func (p *process) signal(ctx context.Context, name string) error {
	_, err := do(ctx, p.c, func() (bool, error) {
		return p.ch.SendRequest("signal", false, xssh.Marshal(struct{ Name string }{name}))
	}, nil)
	return err
}

// within waits a while for an event, and reports whether it came.
func (p *process) within(ctx context.Context, while time.Duration, event <-chan struct{}) bool {
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-event:
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
