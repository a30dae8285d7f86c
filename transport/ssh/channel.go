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
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil, context.Cause(ctx)
		}
	}
}

// startSession opens a session and has the server start something in it (RFC 4254,
// section 6.5). It returns no channel if the server refuses. Dropbear closes a
// session that is opened just when another one ends; what it closed before it
// answered was not started, so that it can be tried again.
func (c *conn) startSession(ctx context.Context, request, what string) (xssh.Channel, <-chan *xssh.Request, error) {
	for try := 1; ; try++ {
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
		if err = c.explain(ctx, err); !errors.Is(err, io.EOF) || c.ctx.Err() != nil || try == 3 {
			return nil, nil, err
		}
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
