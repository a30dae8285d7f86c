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
// happens in a row.
func (c *conn) startSession(ctx context.Context, request, what string) (xssh.Channel, <-chan *xssh.Request, error) {
	for try, wait := 1, 10*time.Millisecond; ; try, wait = try+1, 2*wait {
		ch, reqs, err := c.openSession(ctx)
		if err != nil {
			return nil, nil, err
		}
		ok, err := do(ctx, c, func() (bool, error) {
			return ch.SendRequest(request, true, xssh.Marshal(struct{ What string }{what}))
		}, nil)
		if err == nil && ok {
			return ch, reqs, nil
		}
		c.bg.Go(func() { xssh.DiscardRequests(reqs) })
		c.bg.Go(func() { _ = ch.Close() })
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
