package ssh

import (
	"context"
	"errors"
	"io"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// openSession opens a session channel. A session that ended counts on the server
// for a moment longer: what it refuses for want of room is tried again for a while,
// after what room the driver takes itself has been made.
func (c *conn) openSession(ctx context.Context) (xssh.Channel, <-chan *xssh.Request, error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		ch, reqs, err := c.openChannel(ctx, "session", nil)
		if err == nil {
			c.hadSession.Store(true)
			return ch, reqs, nil
		}
		var refused *xssh.OpenChannelError
		if !errors.As(err, &refused) || !c.hadSession.Load() || wait > time.Second ||
			(refused.Reason != xssh.ConnectionFailed && refused.Reason != xssh.ResourceShortage) {
			return nil, nil, err
		}
		c.retireSFTP()
		if err := pause(ctx, wait); err != nil {
			return nil, nil, err
		}
	}
}

// startSession opens a session and has the server start something in it (RFC 4254,
// section 6.5). It returns no channel if the server refuses. Dropbear (2022.83) closes
// a session that has been opened and in which nothing runs yet when the program of
// another one ends; what it closed before it answered was not started, so that it can
// be tried again. The busier the target, and the more programs end, the more often that
// happens in a row. What the server starts after ctx has ended is given to late, if that is
// not nil: a channel that is closed ends no program.
func (c *conn) startSession(ctx context.Context, request, what string, late func(xssh.Channel, <-chan *xssh.Request)) (xssh.Channel, <-chan *xssh.Request, error) {
	for try, wait := 1, 10*time.Millisecond; ; try, wait = try+1, 2*wait {
		ch, reqs, err := c.openSession(ctx)
		if err != nil {
			return nil, nil, err
		}
		started, err := c.start(ctx, ch, reqs, request, what, late)
		if started {
			return ch, reqs, nil
		}
		if err == nil {
			return nil, nil, nil
		}
		if err = c.explain(ctx, err); !errors.Is(err, io.EOF) || c.ctx.Err() != nil || try == startTries {
			return nil, nil, err
		}
		if err := pause(ctx, wait); err != nil {
			return nil, nil, err
		}
	}
}

// start has the server start something in a session. What does not start is closed.
func (c *conn) start(ctx context.Context, ch xssh.Channel, reqs <-chan *xssh.Request, request, what string, late func(xssh.Channel, <-chan *xssh.Request)) (bool, error) {
	type answer struct {
		ok  bool
		err error
	}
	answers, answered := make(chan answer), make(chan struct{})
	if late != nil { // Close waits a moment for what it ends
		c.ops.Add(1)
	}
	c.bg.Go(func() {
		if late != nil {
			defer c.ops.Done()
		}
		ok, err := ch.SendRequest(request, true, xssh.Marshal(struct{ What string }{what}))
		close(answered)
		cancelled := false
		select {
		case answers <- answer{ok, err}:
		case <-ctx.Done():
			cancelled = true
		}
		started := ok && err == nil
		if started && !cancelled {
			return
		}
		if started && late != nil {
			late(ch, reqs)
			return
		}
		c.bg.Go(func() { xssh.DiscardRequests(reqs) })
		_ = ch.Close()
	})
	select {
	case a := <-answers:
		return a.ok && a.err == nil, a.err
	case <-ctx.Done():
	}
	// A server that does not answer is not waited for without end: what it has not
	// started when the channel is closed it will not start.
	c.bg.Go(func() {
		patience := time.NewTimer(lateStart)
		defer patience.Stop()
		select {
		case <-answered:
			return
		case <-patience.C:
		case <-c.ctx.Done():
			patience.Reset(killGrace)
			select {
			case <-answered:
				return
			case <-patience.C:
			}
		}
		_ = ch.Close()
	})
	return false, context.Cause(ctx)
}

// startTries is how often a session is opened to start one thing in it.
const startTries = 7

// pause waits for a while, or returns why ctx has ended.
func pause(ctx context.Context, while time.Duration) error {
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// openChannel opens a channel; when ctx ends first it is closed as soon as it opens.
func (c *conn) openChannel(ctx context.Context, kind string, extra []byte) (xssh.Channel, <-chan *xssh.Request, error) {
	type opened struct {
		ch   xssh.Channel
		reqs <-chan *xssh.Request
	}
	o, err := do(ctx, c, func() (opened, error) {
		ch, reqs, err := c.ssh.OpenChannel(kind, extra)
		return opened{ch, reqs}, err
	}, func(o opened) {
		c.bg.Go(func() { xssh.DiscardRequests(o.reqs) })
		_ = o.ch.Close()
	})
	var refused *xssh.OpenChannelError
	if err != nil && !errors.As(err, &refused) {
		err = c.explain(ctx, err)
	}
	return o.ch, o.reqs, err
}
