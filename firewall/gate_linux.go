package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A gate opens ports in nftables and iptables. Two things make it:
//
//   - a table of our own marks packets that match an opening. It belongs to this
//     process's socket and ends with it, or its openings end by themselves;
//   - a rule at the head of every input chain of others accepts marked packets.
//     That is the gate itself. It never changes, serves every living owner, and
//     lets nothing in when no table marks anything.
type gate struct {
	owner      Owner
	mark, mask uint32
	check      time.Duration
	ttl        time.Duration
	ownerFlag  uint32
	lockFile   string
	log        *slog.Logger
	events     *events

	timed     bool      // the kernel has no tables that end with the process
	own       *ownTable // nil before the first Apply and after Close
	stale     bool      // own is to be made anew: its socket's state is unknown
	used      bool      // there may be gates that Close has to see to
	held      *os.File  // the lock file while it is locked
	have      map[Opening]bool
	firewalld bool // firewalld was there when we last looked

	clock sync.Mutex
	due   time.Time // when a timed table is to be renewed; guarded by clock, because Wait runs beside other calls
}

func newGate(o Options, owner Owner) (*gate, error) {
	g := &gate{
		owner: owner, mark: o.Mark, mask: o.Mask, check: o.Check, ttl: o.TTL, ownerFlag: o.ownerFlag,
		lockFile: o.LockFile, log: o.Logger, have: map[Opening]bool{},
	}
	if g.lockFile == "" {
		g.lockFile = "/run/roundsman-firewall.lock"
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.ttl == 0 {
		g.ttl = defaultTTL
	}
	if g.ownerFlag == 0 {
		g.ownerFlag = tableOwner
	}
	var err error
	g.events, err = newEvents()
	return g, err
}

// lock excludes other managers of the host. It does not wait for long: whoever
// waits cannot renew what it has open.
func (g *gate) lock(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("it is not free for 10 seconds"))
	defer cancel()
	file, unlock, err := lock(ctx, g.lockFile)
	if err != nil {
		return nil, err
	}
	g.held = file
	return func() { g.held = nil; unlock() }, nil
}

// sweep removes what no living owner needs, and returns what it saw before. Whether
// an owner lives is known from its table, whatever namespace of processes the
// owner is in.
func (g *gate) sweep(ctx context.Context) ([]Leftover, *survey, error) {
	s, err := look(ctx)
	if err != nil {
		return nil, nil, err
	}
	var left []Leftover
	living := false
	for _, t := range s.rules.tables {
		if !strings.HasPrefix(t.Name, tablePrefix) {
			continue
		}
		if t.alive {
			living = true
			continue
		}
		// The owner of a timed table died, or somebody restored a saved ruleset with
		// a table of ours in it.
		conn, err := nftables.New()
		if err != nil {
			return left, s, err
		}
		conn.DelTable(&t.Table)
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return left, s, fmt.Errorf("delete table %s: %w", t.Name, err)
		}
		o, _ := ownerOf(t)
		left = append(left, Leftover{FrontEnd: NFT, What: "table " + familyNames[t.Family] + " " + t.Name, Owner: o})
	}
	if living {
		return left, s, nil
	}
	for _, p := range append(s.places, s.strays...) {
		gates, err := p.remove(ctx, g)
		left = append(left, gates...)
		if err != nil {
			return left, s, err
		}
	}
	return left, s, nil
}

// apply opens and closes in one step.
func (g *gate) apply(ctx context.Context, add, remove []Opening) error {
	first := g.own == nil
	if first && len(add) == 0 {
		return nil
	}
	err := g.change(ctx, add, remove)
	if err != nil && first {
		ctx, cancel := lastWill(ctx)
		defer cancel()
		err = also(err, g.takeBack(ctx))
	}
	return err
}

func (g *gate) change(ctx context.Context, add, remove []Opening) error {
	if len(remove) == 0 || len(add) > 0 {
		if err := g.ready(ctx); err != nil {
			return err
		}
	}
	if g.stale {
		if err := g.anew(); err != nil {
			return err
		}
	}
	if err := g.own.apply(add, remove); err != nil {
		err = fmt.Errorf("change the sets of table inet %s: %w", g.own.Name, err)
		if g.timed && errors.Is(err, unix.ENOENT) && g.has(remove) {
			// Somebody flushed the ruleset, or an opening has ended in this moment.
			g.stale = true
			if err := g.anew(); err != nil {
				return err
			}
			err = g.own.apply(add, remove)
		}
		if err != nil {
			// What of the transaction the socket still has to say is not known.
			g.stale = true
			return also(err, g.anew())
		}
	}
	for _, o := range remove {
		delete(g.have, o)
	}
	for _, o := range add {
		g.have[o] = true
	}
	return nil
}

func (g *gate) has(openings []Opening) bool {
	return !slices.ContainsFunc(openings, func(o Opening) bool { return !g.have[o] })
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
		if err := g.anew(); err != nil {
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
	g.firewalld = s.firewalld
	if g.timed && g.own != nil && !slices.ContainsFunc(s.rules.tables, func(t table) bool { return t.Name == g.own.Name }) {
		g.stale = true
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

// anew makes the table, with what is open, and then closes an older one.
func (g *gate) anew() error {
	rules, err := list()
	if err != nil {
		return err
	}
	name := ""
	for n := 1; name == ""; n++ { // other Firewalls of this process have theirs
		name = fmt.Sprintf("%s%d-%s", tablePrefix, n, g.owner)
		if g.own != nil && g.own.Name == name || slices.ContainsFunc(rules.tables, func(t table) bool { return t.Name == name }) {
			name = ""
		}
	}
	all := g.openings()
	var own *ownTable
	if !g.timed {
		if own, err = newOwnTable(name, g.ownerFlag, 0, g.mark, g.mask, all); errors.Is(err, errors.ErrUnsupported) {
			g.log.Info("this kernel has no tables that end with the process: ports close some time after a process that is killed", "after", g.ttl)
			g.timed = true
		}
	}
	if g.timed {
		own, err = newOwnTable(name, 0, g.ttl, g.mark, g.mask, all)
	}
	if err != nil {
		return err
	}
	if g.own != nil {
		g.own.discard()
	}
	g.own, g.stale = own, false
	g.renewed()
	return nil
}

func (g *gate) openings() []Opening { return slices.Collect(maps.Keys(g.have)) }

// renewed notes that what is open now lasts for a whole ttl.
func (g *gate) renewed() {
	g.clock.Lock()
	defer g.clock.Unlock()
	g.due = time.Time{}
	if g.timed && g.own != nil {
		g.due = time.Now().Add(g.ttl / 3)
	}
}

func (g *gate) nextRenewal() time.Time {
	g.clock.Lock()
	defer g.clock.Unlock()
	return g.due
}

// repair renews what ends, and puts back what somebody else took away: the gates,
// and a table that belongs to no socket.
func (g *gate) repair(ctx context.Context) error {
	if g.own == nil {
		return nil
	}
	if due := g.nextRenewal(); !due.IsZero() && time.Now().After(due) {
		if err := g.own.renew(g.openings()); err != nil {
			g.stale = true // the ruleset was flushed, or an opening ended in this moment
		}
		g.renewed() // no sooner if it goes on failing
	}
	missing, err := g.missing(ctx)
	if err != nil {
		return err
	}
	if g.stale {
		if err := g.anew(); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return g.addGates(ctx)
}

// wait returns when a change of nftables or the time calls for repair.
func (g *gate) wait(ctx context.Context) error {
	longest := g.check
	if due := g.nextRenewal(); !due.IsZero() {
		longest = min(longest, max(time.Until(due), 0)+time.Millisecond)
	}
	return g.events.wait(ctx, longest)
}

// takeBack takes back everything. The ports close first, whether the lock can be
// had or not.
func (g *gate) takeBack(ctx context.Context) error {
	if !g.used {
		return nil
	}
	var err error
	if g.own != nil {
		if g.stale {
			g.own.discard()
		} else {
			err = g.own.close()
		}
		g.own, g.stale = nil, false
		g.renewed()
		clear(g.have)
	}
	unlock, lockErr := g.lock(ctx)
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	if _, _, sweepErr := g.sweep(ctx); err != nil || sweepErr != nil {
		return errors.Join(err, sweepErr)
	}
	g.used = false
	return nil
}
