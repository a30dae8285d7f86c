package firewall

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// A host is this host's own firewall: gates in everything that nftables and
// iptables filter with, and rules of firewalld where that runs, whose chains take
// no gate.
type host struct {
	gate  *gate
	zones *zones
}

// system is this host's own firewall.
func system(ctx context.Context, o Options) (Driver, error) {
	owner, err := self(o.Run)
	if err != nil {
		return nil, err
	}
	if _, err := look(ctx); err != nil {
		return nil, asSystem(err, o.Rules)
	}
	g, err := newGate(o, owner)
	if err != nil {
		return nil, asSystem(err, o.Rules)
	}
	return &host{gate: g, zones: newZones(owner, g.ttl, g.log)}, nil
}

// asSystem gives errors of the first contact their kind and hint.
func asSystem(err error, rules []Rule) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		e := &Error{Kind: ErrPermission, Cause: err, Hint: byHand(guess(), rules)}
		if e.Hint == "" {
			e.Hint = "run as root"
		}
		return e
	case errors.Is(err, errProtocol[0]), errors.Is(err, errProtocol[1]), errors.Is(err, errProtocol[2]):
		return &Error{Kind: errors.ErrUnsupported, Detail: "this kernel has no nftables", Cause: err, Hint: byHand(guess(), rules)}
	}
	return err
}

// inSight is what front ends there are, as far as this process can see.
func inSight(ctx context.Context) State {
	if s, err := look(ctx); err == nil {
		if frontEnds, err := s.frontEnds(ctx); err == nil {
			return State{FrontEnds: frontEnds}
		}
	}
	return State{FrontEnds: guess(), Guessed: true}
}

// guess is what can be known of the front ends without rights.
func guess() []FrontEnd {
	if ufwEnabled() {
		return []FrontEnd{UFW}
	}
	if _, err := os.Stat("/run/firewalld"); err == nil {
		return []FrontEnd{Firewalld}
	}
	if lookPath("nft") == "" && lookPath("iptables") != "" {
		return []FrontEnd{IptablesNFT}
	}
	return []FrontEnd{NFT}
}

// State implements [Driver].
func (h *host) State(ctx context.Context) (State, error) {
	s, err := look(ctx)
	if err != nil {
		return State{}, err
	}
	state, err := s.state(ctx)
	if err == nil && s.firewalld {
		var blocks []Block
		blocks, err = h.zones.blocks(ctx)
		state.Blocks = append(state.Blocks, blocks...)
	}
	return state, err
}

// Sweep implements [Driver].
func (h *host) Sweep(ctx context.Context) ([]Leftover, error) {
	unlock, err := h.gate.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	left, s, err := h.gate.sweep(ctx)
	if err == nil && s.firewalld {
		var rules []Leftover
		rules, err = h.zones.sweep(ctx, s.owners())
		left = append(left, rules...)
	}
	return left, err
}

// Apply implements [Driver].
func (h *host) Apply(ctx context.Context, add, remove []Opening) error {
	if err := h.gate.apply(ctx, add, remove); err != nil {
		return err
	}
	err := h.zones.apply(ctx, h.gate.firewalld, add, remove)
	if err != nil {
		ctx, cancel := lastWill(ctx)
		defer cancel()
		undo := h.gate.apply(ctx, remove, add)
		if len(h.gate.have) == 0 {
			undo = errors.Join(undo, h.gate.takeBack(ctx))
		}
		err = also(err, undo)
	}
	return err
}

// Wait implements [Driver].
func (h *host) Wait(ctx context.Context) error {
	both, cancel := context.WithCancel(ctx)
	var joined sync.WaitGroup
	joined.Go(func() {
		h.zones.wait(both)
		cancel()
	})
	err := h.gate.wait(both)
	cancel()
	joined.Wait()
	if errors.Is(err, context.Canceled) {
		return ctx.Err()
	}
	return err
}

// Repair implements [Driver].
func (h *host) Repair(ctx context.Context) error {
	err := h.gate.repair(ctx)
	return errors.Join(err, h.zones.repair(ctx, h.gate.firewalld))
}

// Close implements [Driver]. The rules of firewalld go before the table by which
// others see that their owner lives.
func (h *host) Close(ctx context.Context) error {
	s, err := look(ctx)
	err = errors.Join(h.zones.close(ctx, err != nil || s.firewalld), h.gate.takeBack(ctx))
	if err != nil {
		return err
	}
	return h.gate.events.close()
}

// owners are the living owners.
func (s *survey) owners() []Owner {
	var owners []Owner
	for _, t := range s.rules.tables {
		if o, ok := ownerOf(t); ok && t.alive && !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	}
	return owners
}
