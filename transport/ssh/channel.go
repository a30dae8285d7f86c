package ssh

import (
	"context"
	"errors"
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
