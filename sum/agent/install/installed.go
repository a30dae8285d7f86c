package install

import (
	"context"
	"errors"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// installed is a running agent.
type installed struct {
	*agent.Client
	*way
	place agent.Place
}

var _ agent.Agent = (*installed)(nil)

func (a *installed) Place() agent.Place { return a.place }

// Close implements agent.Agent.
func (a *installed) Close(ctx context.Context) error {
	defer a.way.close()
	return a.Client.Close(ctx)
}

// Remove implements agent.Agent. Where the channel is dead it goes through the
// connection.
func (a *installed) Remove(ctx context.Context) ([]string, error) {
	_, err := a.Client.Stop(ctx, true)
	if errors.Is(err, agent.ErrJobRunning) || err != nil && ctx.Err() != nil {
		return nil, err
	}
	// The channel goes first: where it is a command on the connection it may
	// take the only place that a limit leaves.
	cerr := a.Close(ctx)
	if err == nil {
		left, rest, werr := a.waitGone(ctx)
		// On Windows it leaves its program, which it cannot delete, and maybe its service.
		if werr == nil && !rest && !isWindows(a.conn) {
			if len(left) == 0 {
				removeEmpty(ctx, a.conn, a.made)
			}
			return left, nil
		}
	}
	left, serr := a.in.sweep(ctx, a.conn, a.place, a.opts.Target)
	if serr != nil {
		return nil, serr
	}
	if err == nil && cerr != nil {
		a.in.log().DebugContext(ctx, "closing the channel", "target", a.opts.Target, "err", cerr)
	}
	return left, nil
}

// waitGone waits until the agent, which answered before it began to delete, is
// done. It gives up when nothing has changed for a while.
func (a *installed) waitGone(ctx context.Context) (left []string, rest bool, err error) {
	deadline := time.Now().Add(transport.CloseGrace)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		d, err := readDir(ctx, a.conn, a.place.Dir)
		left := len(d.Rest)
		if d.Binary && isWindows(a.conn) {
			left--
		}
		if err != nil || left == 0 || time.Now().After(deadline) {
			return d.Logs, left != 0, err
		}
		select {
		case <-ctx.Done():
			return nil, true, ctx.Err()
		case <-time.After(pause):
		}
	}
}
