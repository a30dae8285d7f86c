package sum

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Reboot is a step: it restarts a target, shows opts.Message to whoever is logged in
// there, and returns when the target answers under another boot ID, which alone
// proves that it has restarted. It waits for opts.Delay, as the target rounds it up,
// and then for Config.Redial.
//
// It fails with errors.ErrUnsupported, before anything is asked, for a target that
// cannot be restarted or tells no boot ID; with agent.ErrJobRunning while a job runs
// on a server, and agent.ErrHostBusy while another manager's does; and with transport.ErrTimeout for one that goes on as before. What
// Deploy left as UpdatedNeedsReboot is proven by [Verify] afterwards.
func Reboot(ctx context.Context, n *Node, opts transport.RebootOptions) (transport.Identity, error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return transport.Identity{}, n.fail("reboot", "", err)
	}
	defer end()
	if err := n.turn.take(ctx); err != nil {
		return transport.Identity{}, n.fail("reboot", "", err)
	}
	defer n.turn.give()
	id, err := n.reboot(ctx, opts)
	return id, n.fail("reboot", "", err)
}

func (n *Node) reboot(ctx context.Context, opts transport.RebootOptions) (transport.Identity, error) {
	before, err := n.identify(ctx)
	if err != nil {
		return before, err
	}
	if before.BootID == "" {
		return before, fmt.Errorf("%w: the target tells no boot ID, by which alone a restart is proven", errors.ErrUnsupported)
	}
	const shortest, longest = time.Second, 10 * time.Second
	patience := (opts.Delay + time.Minute - 1).Truncate(time.Minute) + n.s.cfg.Redial
	began, heard, wait := time.Now(), false, shortest
	for {
		if !heard {
			sent, err := n.askReboot(ctx, opts)
			switch {
			case err != nil && !sent:
				return before, err
			case err == nil:
				began, heard = time.Now(), true
			default: // it may restart, or has not heard
				n.s.log.WarnContext(ctx, "the line was lost while a restart was asked for", "target", n.t.key(), "err", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return before, ctx.Err()
		}
		wait = min(2*wait, longest)
		// A connection of before tells nothing of what is now.
		n.mu.Lock()
		conn := n.conn
		n.mu.Unlock()
		n.drop(ctx, conn, nil)
		now, err := n.identify(ctx)
		if err != nil {
			return before, err
		}
		if now.BootID != before.BootID {
			n.s.log.InfoContext(ctx, "the target has restarted", "target", n.t.key(), "boot_id", now.BootID)
			return now, nil
		}
		if time.Since(began) > patience {
			return now, &transport.Error{Op: "reboot", Target: n.t.Address, Kind: transport.ErrTimeout,
				Err:  fmt.Errorf("it was asked %v ago and has not restarted", time.Since(began).Round(time.Second)),
				Hint: "see what holds up its shutdown"}
		}
	}
}

func (n *Node) identify(ctx context.Context) (id transport.Identity, err error) {
	err = n.withConn(ctx, func(ctx context.Context, conn transport.Conn) (err error) {
		id, err = conn.Identify(ctx)
		return err
	})
	return id, err
}

// askReboot asks once. sent says that the target may have heard although it fails.
func (n *Node) askReboot(ctx context.Context, opts transport.RebootOptions) (sent bool, err error) {
	var lost error
	once := func(err error) error {
		if err == nil || errors.Is(err, transport.ErrConnLost) {
			sent, lost = true, err
			return nil // whoever is told of the loss would ask again
		}
		return err
	}
	if n.t.Kind.IsServer() {
		err = n.withAgent(ctx, func(ctx context.Context, ops agent.Ops) error {
			short, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			return once(ops.Reboot(short, opts))
		})
	} else {
		err = n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
			return once(transport.Reboot(ctx, conn, opts))
		})
	}
	return sent, errors.Join(err, lost)
}
