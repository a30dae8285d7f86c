package portalloc

import (
	"context"
	"errors"
)

// Listen opens a listener on the first port that the role's policy allows and
// that is free, and keeps it: the port is not tested beforehand, so nobody can
// take it in between.
//
// It fails with ErrDisabled for a role that is off; with ErrExhausted when no
// port of the range is free; with ErrBusy when a role without range, NoFallback or
// Options.Port has its port taken; with fs.ErrPermission when the system refuses
// every port that is not another role's or excluded; with ErrInvalid when
// Config.Exclude has the only port; and with the error of the system when another
// port would not help. For ManagerToTarget, which never listens, it fails with
// errors.ErrUnsupported.
func (a *Allocator) Listen(ctx context.Context, r Role, o Options) (*Lease, error) {
	eps, pl, err := a.prepare("listen", r, o)
	if err != nil {
		return nil, err
	}
	defer a.leave()
	if err := a.takeTurn(ctx, pl); err != nil {
		return nil, err
	}
	l, short, err := a.listenOn(ctx, pl, eps)
	a.endTurn()
	if short != nil {
		return nil, a.explain(ctx, short)
	}
	return l, err
}

// prepare checks the arguments and begins the call; the caller must leave.
func (a *Allocator) prepare(op string, r Role, o Options) ([]endpoint, plan, error) {
	if r == ManagerToTarget {
		return nil, plan{}, &Error{Op: op, Role: r, Kind: errors.ErrUnsupported,
			Advice: "this role is the source port of connections: use Allocator.Dialer"}
	}
	eps, err := o.endpoints(op, r)
	if err != nil {
		return nil, plan{}, err
	}
	pl, err := a.enter(op, r)
	if err != nil {
		return nil, plan{}, err
	}
	if o.Port != 0 {
		pl.policy, pl.asked = Fixed(o.Port), true
	}
	pl.preferOnly = o.NoFallback
	if o.NoFallback && len(pl.policy.Prefer) == 0 {
		a.leave()
		return nil, plan{}, invalid(op, r, "NoFallback needs a preferred port, and the policy is %s", pl.policy)
	}
	return eps, pl, nil
}

func (a *Allocator) takeTurn(ctx context.Context, pl plan) error {
	if ctx.Err() != nil {
		return stopped("listen", pl, ctx)
	}
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return stopped("listen", pl, ctx)
	case <-a.ended.Done():
		return &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
	}
}

func (a *Allocator) endTurn() { <-a.turn }

// listenOn opens the endpoints on the first port that all of them can have. Where
// there is none it returns what the error has to say. The caller has the turn.
func (a *Allocator) listenOn(ctx context.Context, pl plan, eps []endpoint) (*Lease, *shortage, error) {
	var tried map[uint16]Skip
	var skips []Skip
	for port := range a.candidates(pl, &skips) {
		if _, again := tried[port]; again { // preferred, and of the range too
			a.release(port)
			continue
		}
		if err := a.interrupted(ctx, pl); err != nil {
			a.release(port)
			return nil, nil, err
		}
		lns, err := a.bind(ctx, eps, port)
		if err == nil {
			l := &Lease{a: a, role: pl.role, port: port, listeners: lns, skipped: skips}
			if !a.keep(l) {
				l.Close()
				return nil, nil, &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
			}
			return l, nil, nil
		}
		a.release(port)
		reason := passOver(err)
		if reason == 0 {
			if e := a.interrupted(ctx, pl); e != nil {
				return nil, nil, e
			}
			return nil, nil, failed("listen", pl, err)
		}
		if tried == nil {
			tried = make(map[uint16]Skip)
		}
		tried[port] = Skip{Range: Range{port, port}, Reason: reason, Err: err}
		skips = appendSkip(skips, tried[port])
	}
	return nil, a.shortage("listen", pl, tried), nil
}

func (a *Allocator) interrupted(ctx context.Context, pl plan) error {
	switch {
	case ctx.Err() != nil:
		return stopped("listen", pl, ctx)
	case a.ended.Err() != nil:
		return &Error{Op: "listen", Role: pl.role, Policy: pl.policy, Kind: ErrClosed}
	}
	return nil
}
