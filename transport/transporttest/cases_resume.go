package transporttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// updateCheckpoints: the state is durable before the request that cannot be
// taken back, and again after its answer.
func updateCheckpoints(ctx context.Context, u *updating) error {
	var f failures
	before := u.Updates.Applied()
	sent := -1
	opts := u.options(func(i int, s transport.State) error {
		if s.Driver == "" || s.Version <= 0 || s.Phase == "" {
			f.addf("state %d lacks a driver, a version or a phase: %+v", i, s)
		}
		if s.Sent && sent < 0 {
			sent = i
		}
		if sent < 0 || sent == i {
			if err := u.count("before the first checkpoint with Sent has returned", before, 0); err != nil {
				f.add(err)
			}
		}
		if pw := u.Endpoint.Credentials.Password; !pw.IsZero() && strings.Contains(string(s.Data), pw.Reveal()) {
			f.addf("state %d holds the password", i)
		}
		return nil
	})
	f.add(u.apply(ctx, u.Updates.Next(), opts))
	switch {
	case sent < 0:
		f.addf("no checkpoint of %d had Sent set, though a payload was applied", len(u.states))
	case sent == len(u.states)-1:
		f.addf("the checkpoint with Sent was the last: none followed the answer")
	}
	return f.err()
}

// updateCheckpointFails: a checkpoint that fails stops the update, and before
// the first request nothing has happened.
func updateCheckpointFails(ctx context.Context, u *updating) error {
	var f failures
	errFull := errors.New("the journal's disk is full")
	p := u.Updates.Next()
	before := u.Updates.Applied()
	calls := 0
	opts := u.options(func(_ int, s transport.State) error {
		calls++
		if s.Sent {
			return errFull
		}
		return nil
	})
	_, err := u.update(ctx, p, opts)
	f.add(u.wantErr("update whose checkpoint failed", err, errFull))
	f.add(u.count("update whose checkpoint failed", before, 0))
	n := len(u.states)
	if calls != n+1 {
		f.addf("after the checkpoint that failed %d more were tried", calls-n-1)
	}
	opts = u.options(nil)
	opts.Resume = nil
	f.add(u.apply(ctx, p, opts))
	return f.err()
}

// updateManagerDies kills the manager, as far as the driver can tell, before and
// after each checkpoint, and has another one go on from the journal.
func updateManagerDies(ctx context.Context, u *updating) error {
	var f failures
	const most = 50
	for k := range most {
		died := false
		for _, death := range []error{errDied, errDiedAfter} {
			p := u.Updates.Next()
			before := u.Updates.Applied()
			what := fmt.Sprintf("checkpoint %d, %v", k, death)
			opts := u.options(func(i int, _ transport.State) error {
				if i == k {
					return death
				}
				return nil
			})
			res, err := u.update(ctx, p, opts)
			if err == nil { // the update has fewer checkpoints than that
				f.add(u.proven(ctx, res, p.Version))
				continue
			}
			died = true
			f.add(u.wantErr(what, err, death))
			resume := u.last()
			opts = u.options(nil)
			opts.Resume = resume
			res, err = u.update(ctx, p, opts)
			if err != nil {
				f.addf("%s: resumed: %w", what, err)
				continue
			}
			n := u.Updates.Applied() - before
			if n > 1 {
				f.addf("%s: resumed: the target applied %d payloads", what, n)
			}
			// Only after a request that may have been lost the driver may not know.
			if res.Verdict == transport.VerdictUnknown && resume != nil && resume.Sent {
				continue
			}
			if err := u.proven(ctx, res, p.Version); err != nil {
				f.addf("%s: resumed: %w", what, err)
			}
			if n != 1 {
				f.addf("%s: resumed: the target applied %d payloads, want 1", what, n)
			}
		}
		if !died {
			if k == 0 {
				f.addf("the update never called Checkpoint")
			}
			return f.err()
		}
	}
	f.addf("the update called Checkpoint more than %d times", most)
	return f.err()
}

func updateCancelled(ctx context.Context, u *updating) error {
	var f failures
	dead, cancel := context.WithCancel(ctx)
	cancel()
	before := u.Updates.Applied()
	opts := u.options(nil)
	f.add(u.with(ctx, func(conn transport.Conn) error {
		_, err := transport.Update(dead, conn, u.Updates.Next(), opts)
		return u.wantErr("update with an ended context", err, context.Canceled)
	}))
	f.add(u.count("update with an ended context", before, 0))
	for _, s := range u.states {
		if s.Sent {
			f.addf("update with an ended context made a checkpoint with Sent")
		}
	}
	return f.err()
}

// interruptedFlash begins an update, calls interrupt once the request that
// cannot be taken back was answered, and then goes on from the last state.
func (u *updating) interruptedFlash(ctx, first context.Context, what string, kind error, interrupt func()) error {
	var f failures
	p := u.Updates.Next()
	before := u.Updates.Applied()
	sent := false
	opts := u.options(func(_ int, s transport.State) error {
		if sent && interrupt != nil {
			interrupt()
			interrupt = nil
		}
		sent = sent || s.Sent
		return nil
	})
	var res transport.Result
	conn, err := u.dial(ctx)
	if err != nil {
		return err
	}
	err = u.within("update", func() (err error) {
		res, err = transport.Update(first, conn, p, opts)
		return err
	})
	_ = u.within("close", func() error { return conn.Close(context.Background()) })
	if errors.Is(err, errHung) {
		return err
	}
	// The flash may have been over before the driver noticed.
	if err != nil {
		f.add(u.wantErr("update in which "+what, err, kind))
		resume := u.last()
		opts = u.options(nil)
		opts.Resume = resume
		if res, err = u.update(ctx, p, opts); err != nil {
			f.addf("update after %s: resumed: %w", what, err)
			return f.err()
		}
	}
	f.add(u.proven(ctx, res, p.Version))
	f.add(u.count("update in which "+what, before, 1))
	return f.err()
}

func updateCancelInFlash(ctx context.Context, u *updating) error {
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	return u.interruptedFlash(ctx, cancelled, "the context ended", context.Canceled, cancel)
}

func updateCutInFlash(ctx context.Context, u *updating) error {
	if u.Cut == nil {
		return u.missing("Cut")
	}
	return u.interruptedFlash(ctx, ctx, "the line was cut", transport.ErrConnLost, u.Cut)
}

func updateUnknownState(ctx context.Context, u *updating) error {
	var f failures
	p := u.Updates.Next()
	state, err := u.stateOf(ctx, p)
	if err != nil {
		return err
	}
	before := u.Updates.Applied()
	later, foreign, broken := state, state, state
	later.Version += 1000
	foreign.Driver = "another-driver"
	broken.Data = json.RawMessage(`"not what it should be"`)
	for what, s := range map[string]transport.State{"a later version": later, "another driver": foreign, "broken data": broken} {
		opts := u.options(nil)
		opts.Resume = &s
		_, err := u.update(ctx, p, opts)
		f.add(u.wantErr("update resumed from the state of "+what, err))
		f.add(u.count("update resumed from the state of "+what, before, 0))
	}
	opts := u.options(nil)
	opts.Resume = &state
	f.add(u.apply(ctx, p, opts))
	return f.err()
}

// stateOf begins an update of p and stops it before the request that cannot be
// taken back.
func (u *updating) stateOf(ctx context.Context, p transport.Payload) (transport.State, error) {
	opts := u.options(func(_ int, s transport.State) error {
		if s.Sent {
			return errDiedAfter
		}
		return nil
	})
	_, err := u.update(ctx, p, opts)
	if !errors.Is(err, errDiedAfter) {
		return transport.State{}, fmt.Errorf("update whose checkpoint failed: %w, want %w", err, errDiedAfter)
	}
	return *u.last(), nil
}

func undoLeftovers(ctx context.Context, u *updating) error {
	if u.Updates.Leftovers == nil {
		return u.missing("Updates.Leftovers")
	}
	var f failures
	p := u.Updates.Next()
	before := u.Updates.Applied()
	state, err := u.stateOf(ctx, p)
	if err != nil {
		return err
	}
	for range 2 { // that nothing is left is no error
		f.add(u.with(ctx, func(conn transport.Conn) error { return transport.Undo(ctx, conn, state) }))
		if left := u.Updates.Leftovers(); len(left) != 0 {
			f.addf("after undo there is left: %q", left)
		}
	}
	f.add(u.count("undo", before, 0))
	f.add(u.apply(ctx, p, u.options(nil)))
	if left := u.Updates.Leftovers(); len(left) != 0 {
		f.addf("after an update that succeeded there is left: %q", left)
	}
	return f.err()
}

func undoUnknownState(ctx context.Context, u *updating) error {
	var f failures
	state, err := u.stateOf(ctx, u.Updates.Next())
	if err != nil {
		return err
	}
	later, foreign := state, state
	later.Version += 1000
	foreign.Driver = "another-driver"
	f.add(u.with(ctx, func(conn transport.Conn) error {
		return errors.Join(
			u.wantErr("undo of a state of a later version", transport.Undo(ctx, conn, later)),
			u.wantErr("undo of a state of another driver", transport.Undo(ctx, conn, foreign)),
			transport.Undo(ctx, conn, state))
	}))
	return f.err()
}
