package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// A gate opens ports on Linux. Two things make it:
//
//   - a table of our own marks packets that match an opening. It belongs to this
//     process's socket and ends with it;
//   - a rule at the head of every input chain of others accepts marked packets.
//     That is the gate itself. It never changes, serves every living owner, and
//     lets nothing in when no table marks anything.
type gate struct {
	owner      Owner
	mark, mask uint32
	check      time.Duration
	lockFile   string
	log        *slog.Logger
	events     *events

	own  *ownTable // nil before the first Apply and after Close
	used bool      // there may be gates that Close has to see to
	held *os.File  // the lock file while it is locked
	have map[Opening]bool
}

// system is this host's own firewall.
func system(ctx context.Context, o Options) (Driver, error) {
	owner, err := self(o.Run)
	if err != nil {
		return nil, err
	}
	g := &gate{owner: owner, mark: o.Mark, mask: o.Mask, check: o.Check, lockFile: o.LockFile, log: o.Logger, have: map[Opening]bool{}}
	if g.lockFile == "" {
		g.lockFile = "/run/roundsman-firewall.lock"
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if _, err := look(ctx); err != nil {
		return nil, asSystem(err, o.Rules)
	}
	if g.events, err = newEvents(); err != nil {
		return nil, asSystem(err, o.Rules)
	}
	return g, nil
}

// asSystem gives errors of the first contact their kind and hint.
func asSystem(err error, rules []Rule) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		e := &Error{Kind: ErrPermission, Cause: err, Hint: byHand(guess(), rules)}
		if e.Hint == "" {
			e.Hint = "run as root, or with CAP_NET_ADMIN"
		}
		return e
	case errors.Is(err, errProtocol[0]), errors.Is(err, errProtocol[1]), errors.Is(err, errProtocol[2]):
		return &Error{Kind: errors.ErrUnsupported, Detail: "this kernel has no nftables", Cause: err}
	}
	return err
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
func (g *gate) State(ctx context.Context) (State, error) {
	s, err := look(ctx)
	if err != nil {
		return State{}, err
	}
	return s.state(ctx)
}

// Sweep implements [Driver].
func (g *gate) Sweep(ctx context.Context) ([]Leftover, error) {
	unlock, err := g.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return g.sweep(ctx)
}

// lock excludes other managers of the host.
func (g *gate) lock(ctx context.Context) (func(), error) {
	file, unlock, err := lock(ctx, g.lockFile)
	if err != nil {
		return nil, err
	}
	g.held = file
	return func() { g.held = nil; unlock() }, nil
}

// sweep removes what no living owner needs. An owner lives as long as its table:
// the kernel sees to that, whatever namespace of processes the owner is in.
func (g *gate) sweep(ctx context.Context) ([]Leftover, error) {
	s, err := look(ctx)
	if err != nil {
		return nil, err
	}
	var left []Leftover
	living := false
	for _, t := range s.rules.tables {
		if !strings.HasPrefix(t.Name, tablePrefix) {
			continue
		}
		if t.owned {
			living = true
			continue
		}
		// Somebody restored a saved ruleset with a table of ours in it.
		conn, err := nftables.New()
		if err != nil {
			return left, err
		}
		conn.DelTable(&t.Table)
		if err := conn.Flush(); err != nil {
			return left, fmt.Errorf("delete table %s: %w", t.Name, err)
		}
		o, _ := ownerOf(t)
		left = append(left, Leftover{FrontEnd: NFT, What: "table " + familyNames[t.Family] + " " + t.Name, Owner: o})
	}
	if living {
		return left, nil
	}
	for _, p := range s.places {
		gates, err := p.remove(ctx, g)
		left = append(left, gates...)
		if err != nil {
			return left, err
		}
	}
	return left, nil
}

// Apply implements [Driver].
func (g *gate) Apply(ctx context.Context, add, remove []Opening) error {
	first := g.own == nil
	if first && len(add) == 0 {
		return nil
	}
	err := g.apply(ctx, add, remove)
	if err != nil && first {
		ctx, cancel := lastWill(ctx)
		defer cancel()
		if undo := g.takeBack(ctx); undo != nil {
			err = errors.Join(err, undo)
		}
	}
	return err
}

func (g *gate) apply(ctx context.Context, add, remove []Opening) error {
	if len(remove) == 0 || len(add) > 0 {
		if err := g.ready(ctx); err != nil {
			return err
		}
	}
	if err := g.own.apply(add, remove); err != nil {
		err = fmt.Errorf("change the sets of table inet %s: %w", g.own.Name, err)
		// What of the transaction the socket still has to say is not known.
		return errors.Join(err, g.renew(g.have))
	}
	for _, o := range remove {
		delete(g.have, o)
	}
	for _, o := range add {
		g.have[o] = true
	}
	return nil
}

// ready sees to it that the table and every gate are there.
func (g *gate) ready(ctx context.Context) error {
	missing, err := g.missing(ctx)
	if err != nil || g.own != nil && len(missing) == 0 {
		return err
	}
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	g.used = true
	if g.own == nil {
		if err := g.renew(g.have); err != nil {
			return err
		}
	}
	return g.addGates(ctx)
}

// addGates adds the gates that are missing now that the lock is held.
func (g *gate) addGates(ctx context.Context) error {
	missing, err := g.missing(ctx)
	if err != nil {
		return err
	}
	for _, p := range missing {
		if err := p.add(ctx, g); err != nil {
			return err
		}
		g.log.Info("opened the way for leases", "gate", p.String())
	}
	return nil
}

// missing finds the input chains without a gate.
func (g *gate) missing(ctx context.Context) ([]place, error) {
	s, err := look(ctx)
	if err != nil {
		return nil, err
	}
	if s.firewalld {
		return nil, &Error{
			FrontEnd: Firewalld, Kind: errors.ErrUnsupported,
			Detail: "firewalld takes away what others put into its host's rules",
		}
	}
	var missing []place
	for _, p := range s.places {
		if has, err := p.has(g); err != nil {
			return nil, err
		} else if !has {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// renew makes the table, with these openings, and then closes an older one.
func (g *gate) renew(openings map[Opening]bool) error {
	rules, err := list()
	if err != nil {
		return err
	}
	name := ""
	for n := 1; name == ""; n++ { // other Firewalls of this process have theirs
		name = fmt.Sprintf("%s%d-%s", tablePrefix, n, g.owner)
		if slices.ContainsFunc(rules.tables, func(t table) bool { return t.Name == name }) {
			name = ""
		}
	}
	all := make([]Opening, 0, len(openings))
	for o := range openings {
		all = append(all, o)
	}
	own, err := newOwnTable(name, g.mark, g.mask, all)
	if err != nil {
		return err
	}
	if g.own != nil {
		_ = g.own.conn.CloseLasting() // the kernel destroys its table
	}
	g.own = own
	return nil
}

// Repair implements [Driver]. The table itself nobody else can take away.
func (g *gate) Repair(ctx context.Context) error {
	if g.own == nil {
		return nil
	}
	if missing, err := g.missing(ctx); err != nil || len(missing) == 0 {
		return err
	}
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return g.addGates(ctx)
}

// Wait implements [Driver].
func (g *gate) Wait(ctx context.Context) error { return g.events.wait(ctx, g.check) }

// Close implements [Driver].
func (g *gate) Close(ctx context.Context) error {
	if err := g.takeBack(ctx); err != nil {
		return err
	}
	return g.events.close()
}

// takeBack takes back everything. The ports close first, whether the lock can be
// had or not.
func (g *gate) takeBack(ctx context.Context) error {
	if !g.used {
		return nil
	}
	var err error
	if g.own != nil {
		err = g.own.close()
		g.own = nil
		clear(g.have)
	}
	unlock, lockErr := g.lock(ctx)
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	if _, sweepErr := g.sweep(ctx); err != nil || sweepErr != nil {
		return errors.Join(err, sweepErr)
	}
	g.used = false
	return nil
}
