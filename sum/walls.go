package sum

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/roundsman-go/roundsman/firewall"
)

// walls opens the firewall of the manager's host for a session. A nil *walls leaves
// it alone.
type walls struct {
	opts  firewall.Options
	log   *slog.Logger
	books *books
	id    string // of the record of its openings
	turn  turn
	old   []string // IDs of such records of runs that were dead at the start

	fw     *firewall.Firewall
	noted  bool  // that there are openings
	failed error // of a Driver that was given, which is closed with the first failure
	shut   bool
}

// newWalls opens no port, and removes what dead runs left in the firewall. That this
// cannot be done, as without administrator rights, matters only to who needs a port:
// a fleet of Linux servers needs none.
func newWalls(ctx context.Context, cfg Config, b *books) *walls {
	if !cfg.OpenFirewall {
		return nil
	}
	w := &walls{opts: wallOptions(cfg), log: cfg.Logger, books: b, id: newID(), turn: make(turn, 1), old: b.leftRules()}
	if w.opts.Run == "" { // so that the journal says whose a rule is
		w.opts.Run = w.id
	}
	if err := w.open(ctx); err != nil {
		w.log.DebugContext(ctx, "the firewall of this host cannot be opened", "err", err)
	}
	return w
}

func wallOptions(cfg Config) firewall.Options {
	opts := cfg.Firewall
	if opts.Logger == nil {
		opts.Logger = cfg.Logger
	}
	return opts
}

// sweep removes what dead runs that were taken over left in the firewall.
func (w *walls) sweep(ctx context.Context, cfg Config, b *books) {
	dead := slices.DeleteFunc(b.pendingFor(rulesOwner.id()), func(p openRecord) bool {
		return !p.dead || w != nil && !slices.Contains(w.old, p.id)
	})
	if len(dead) == 0 {
		return
	}
	var err error
	if w != nil {
		err = w.ready(ctx) // it has swept as it was opened
	} else {
		var left []firewall.Leftover
		left, err = firewall.Sweep(ctx, wallOptions(cfg))
		for _, l := range left {
			cfg.Logger.WarnContext(ctx, "removed what a dead run left in the firewall", "what", l.What, "owner", l.Owner.String())
		}
	}
	for _, p := range dead {
		failed := err
		if failed == nil {
			failed = b.closed(ctx, p.kind, rulesOwner, p.id)
		}
		if failed != nil {
			cfg.Logger.WarnContext(ctx, "what a dead run left in the firewall may still be there; the next run tries again", "err", failed)
		}
	}
}

// ready opens the firewall, and no port.
func (w *walls) ready(ctx context.Context) error {
	if err := w.turn.take(ctx); err != nil {
		return err
	}
	defer w.turn.give()
	if w.shut {
		return ErrClosed
	}
	return w.open(ctx)
}

// open needs the turn, or nobody else to know of w.
func (w *walls) open(ctx context.Context, rules ...firewall.Rule) error {
	if w.fw != nil || w.failed != nil {
		return w.failed
	}
	opts := w.opts
	opts.Rules = rules
	fw, err := firewall.Open(ctx, opts)
	if err != nil && opts.Driver != nil {
		w.failed = err
	}
	w.fw = fw
	return err
}

// allow lets peers through to a TCP port until release is called. A session that
// leaves the firewall alone lets in whomever the firewall does.
func (w *walls) allow(ctx context.Context, port uint16, from []netip.Prefix) (release func(context.Context) error, err error) {
	if w == nil {
		return func(context.Context) error { return nil }, nil
	}
	rule := firewall.Rule{Network: "tcp", Port: port, From: peers(from)}
	if err := w.turn.take(ctx); err != nil {
		return nil, err
	}
	defer w.turn.give()
	if w.shut {
		return nil, ErrClosed
	}
	if err := w.open(ctx, rule); err != nil {
		return nil, err
	}
	if !w.noted {
		if err := w.books.opened(ctx, kindRules, rulesOwner, w.id, struct{}{}); err != nil {
			return nil, err
		}
		w.noted = true
	}
	lease, err := w.fw.Allow(ctx, rule)
	if err != nil {
		return nil, err
	}
	return lease.Close, nil
}

// blocks are the filters of this host that no opening overrides, where that is known.
func (w *walls) blocks(ctx context.Context) []firewall.Block {
	if w == nil || w.turn.take(ctx) != nil {
		return nil
	}
	defer w.turn.give()
	if w.fw == nil {
		return nil
	}
	state, err := w.fw.State(ctx)
	if err != nil {
		w.log.DebugContext(ctx, "what else filters on this host is not known", "err", err)
	}
	return state.Blocks
}

// peers are prefixes as a rule has them.
func peers(from []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(from))
	for _, p := range from {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out
}

// close closes every port that is still open.
func (w *walls) close(ctx context.Context) error {
	if w == nil {
		return nil
	}
	if err := w.turn.take(context.WithoutCancel(ctx)); err != nil { // calls end with their contexts
		return err
	}
	defer w.turn.give()
	w.shut = true
	if w.fw == nil {
		return nil
	}
	if err := w.fw.Close(ctx); err != nil || !w.noted {
		return err
	}
	return w.books.closed(ctx, kindRules, rulesOwner, w.id)
}

// released gives several things back, also after a failure of one.
func released(ctx context.Context, list []func(context.Context) error) error {
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		errs = append(errs, list[i](ctx))
	}
	return errors.Join(errs...)
}

// byHand are the commands that open a TCP port of this host for peers, in the syntax of
// the front ends that are found on it, or that it may have where that cannot be seen. It
// only looks.
func byHand(ctx context.Context, port uint16, from []netip.Prefix) (commands []string, guessed bool) {
	fw, err := firewall.Open(ctx, firewall.Options{Driver: firewall.None()})
	if err != nil {
		return nil, false
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	defer func() { _ = fw.Close(ctx) }()
	lease, err := fw.Allow(ctx, firewall.Rule{Network: "tcp", Port: port, From: peers(from)})
	if err != nil {
		return nil, false
	}
	defer func() { _ = lease.Close(ctx) }()
	state, err := fw.State(ctx)
	return lease.ByHand(), err != nil || state.Guessed
}
