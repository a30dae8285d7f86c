package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// A zones opens ports in firewalld: rich rules with a timeout in the zones that a
// peer's packets can arrive in. The rules end by themselves unless they are
// renewed; the clock for that is firewalld's.
type zones struct {
	ttl  time.Duration
	slot int
	log  *slog.Logger

	want    map[Opening]bool
	last    map[Opening]int // generations
	perRule time.Duration   // about how long firewalld takes to change one
	links   string          // the interfaces when we last looked
	orphans bool            // firewalld ended and left its rules, ours among them, in force

	wake chan struct{} // holds one token at most

	// What follows changes under mu: wait and signals run beside the other calls,
	// of which there is one at a time.
	mu     sync.Mutex
	bus    *bus                 // nil before the first connection and after close
	lost   bool                 // the connection is
	rules  map[placed]*zoneRule // in force
	ours   map[zoneText]bool    // texts that only we may remove
	undone map[zoneText]bool    // to be removed, which failed
	check  bool                 // something may have changed
	retry  time.Time            // not before, after a failure
}

// placed is an opening in a zone.
type placed struct {
	zone string
	Opening
}

type zoneText struct{ zone, text string }

type zoneRule struct {
	text string
	due  time.Time // when it is to be renewed, after a third of its time
	late time.Time // when that is urgent
}

func newZones(owner Owner, ttl time.Duration, log *slog.Logger) *zones {
	return &zones{
		ttl: ttl, slot: slotOf(owner), log: log, perRule: 20 * time.Millisecond,
		want: map[Opening]bool{}, last: map[Opening]int{}, wake: make(chan struct{}, 1),
		rules: map[placed]*zoneRule{}, ours: map[zoneText]bool{}, undone: map[zoneText]bool{},
	}
}

// apply opens and closes: all or nothing. If firewalld is not active, it only
// takes note.
func (z *zones) apply(ctx context.Context, active bool, add, remove []Opening) error {
	before := maps.Clone(z.want)
	for _, o := range remove {
		delete(z.want, o)
	}
	for _, o := range add {
		z.want[o] = true
	}
	if !active {
		z.forget()
		return nil
	}
	if len(add) == 0 && len(remove) == 0 {
		z.mu.Lock()
		certain := !z.check
		z.mu.Unlock()
		if certain {
			return nil
		}
	}
	err := z.settle(ctx)
	if err != nil {
		z.want = before
		if !z.dirty() {
			return err
		}
		last, cancel := lastWill(ctx)
		defer cancel()
		if undo := z.settle(last); undo != nil {
			z.again()
		}
	}
	return err
}

// dirty reports whether other rules are in force than are wanted.
func (z *zones) dirty() bool {
	served := map[Opening]bool{}
	for p := range z.rules {
		served[p.Opening] = true
	}
	return len(z.undone) > 0 || !maps.Equal(served, z.want)
}

// settle makes the rules in force those that are wanted: first it adds, then it
// removes.
func (z *zones) settle(ctx context.Context) error {
	if len(z.want) == 0 && len(z.rules) == 0 && len(z.undone) == 0 {
		z.mu.Lock()
		z.check = false
		z.mu.Unlock()
		return nil
	}
	z.mu.Lock()
	check := z.check
	z.check = false
	z.mu.Unlock()
	if err := z.ready(ctx); err != nil {
		z.orphans = z.orphans || errors.Is(err, errNotRunning) && len(z.rules) > 0
		z.again()
		return err
	}
	if check {
		if err := z.verify(ctx); err != nil {
			z.again()
			return err
		}
	}
	target, err := z.places(ctx)
	if err != nil {
		z.again()
		return err
	}
	for p := range target {
		if z.rules[p] != nil {
			continue
		}
		if err := z.add(ctx, p); err != nil {
			z.again()
			return err
		}
		// Many take long: what is in force must not end meanwhile.
		if err := z.renew(ctx, target, func(r *zoneRule) time.Time { return r.late }); err != nil {
			return err
		}
	}
	for p, r := range z.rules {
		if !target[p] {
			z.mu.Lock()
			delete(z.rules, p) // if it is wanted again, it will be another
			z.mu.Unlock()
			if err := z.remove(ctx, zoneText{p.zone, r.text}); err != nil {
				z.again()
				return err
			}
		}
	}
	for t := range z.undone {
		if err := z.remove(ctx, t); err != nil {
			z.again()
			return err
		}
	}
	for o := range z.last {
		if !z.want[o] {
			delete(z.last, o)
		}
	}
	z.pulse()
	return nil
}

// forget takes it that firewalld has ended, and its rules with it.
func (z *zones) forget() {
	z.mu.Lock()
	defer z.mu.Unlock()
	clear(z.rules)
	clear(z.ours)
	clear(z.undone)
	z.check, z.orphans, z.links = false, false, ""
}

// ready connects, if need be, and sees to it that firewalld can be used.
func (z *zones) ready(ctx context.Context) error {
	if z.bus == nil || !z.bus.conn.Connected() {
		b, err := dialBus(ctx, z.heard)
		if err != nil {
			e := &Error{FrontEnd: Firewalld, Cause: err}
			if errors.Is(err, errNotRunning) {
				e.Detail, e.Hint = "its rules are in force, but nobody can change them", "start firewalld"
			}
			return e
		}
		z.mu.Lock()
		z.bus, z.lost = b, false
		z.mu.Unlock()
	}
	var state dbus.Variant
	if err := z.bus.call(ctx, firewalldPath, "org.freedesktop.DBus.Properties.Get", []any{firewalldName, "state"}, &state); err != nil {
		return err
	}
	if s, _ := state.Value().(string); s != "RUNNING" {
		return &Error{FrontEnd: Firewalld, Cause: fmt.Errorf("its state is %q", s), Hint: `see what "firewall-cmd --state" and its log say`}
	}
	if z.orphans {
		// firewalld 1.3.3 adds its rules to those that it finds, and knows nothing of
		// the latter. A reload deletes them, and whatever else is not permanent.
		z.log.Warn("firewalld was killed; every rule that it had, of whomever, stays in force", "hint", "firewall-cmd --reload")
		z.orphans = false
	}
	return nil
}

// verify forgets the rules that are no longer in force.
func (z *zones) verify(ctx context.Context) error {
	inForce := map[string][]string{}
	for p, r := range z.rules {
		texts, ok := inForce[p.zone]
		if !ok {
			err := z.bus.call(ctx, firewalldPath, firewalldZone+"getRichRules", []any{p.zone}, &texts)
			if err != nil && codeOf(err) != "INVALID_ZONE" {
				return err
			}
			inForce[p.zone] = texts
		}
		there := slices.Contains(texts, r.text)
		if !there && len(texts) > 0 { // it may be written in another way
			if err := z.bus.call(ctx, firewalldPath, firewalldZone+"queryRichRule", []any{p.zone, r.text}, &there); err != nil {
				return err
			}
		}
		if !there {
			z.mu.Lock()
			delete(z.rules, p)
			delete(z.ours, zoneText{p.zone, r.text})
			z.mu.Unlock()
		}
	}
	return nil
}

// add puts a rule in force, of a generation that is free.
func (z *zones) add(ctx context.Context, p placed) error {
	generation, ok := z.last[p.Opening]
	if !ok {
		generation = rand.IntN(generations)
	}
	ttl := z.lasting()
	for range generations {
		generation = (generation + 1) % generations
		z.last[p.Opening] = generation
		t := zoneText{p.zone, richRule(z.slot, generation, p.Opening)}
		z.mu.Lock()
		z.ours[t] = true
		z.mu.Unlock()
		start := time.Now()
		err := z.bus.call(ctx, firewalldPath, firewalldZone+"addRichRule", []any{t.zone, t.text, int32((ttl + time.Second - 1) / time.Second)}, new(string))
		if err == nil {
			z.mu.Lock()
			z.rules[p] = &zoneRule{text: t.text, due: start.Add(ttl / 3), late: start.Add(ttl / 2)}
			z.mu.Unlock()
			z.perRule += (time.Since(start) - z.perRule) / 8
			return nil
		}
		z.mu.Lock()
		delete(z.ours, t)
		if codeOf(err) == "" && !errors.Is(err, ErrPermission) && !errors.Is(err, errNotRunning) { // perhaps it was done
			z.undone[t] = true
		}
		z.mu.Unlock()
		if codeOf(err) != "ALREADY_ENABLED" {
			return err
		}
	}
	return &Error{FrontEnd: Firewalld, Detail: fmt.Sprintf("every priority for %s in zone %s is taken", p.Opening, p.zone)}
}

// lasting is how long a rule lasts that is added now. With very many the renewal of
// all takes longer than the ttl allows; it is to keep firewalld busy for not more
// than half of the time.
func (z *zones) lasting() time.Duration {
	return max(z.ttl, 12*z.perRule*time.Duration(max(len(z.rules), len(z.want))))
}

// remove removes a rule. That it is not there is no error.
func (z *zones) remove(ctx context.Context, t zoneText) error {
	z.mu.Lock()
	delete(z.ours, t) // what the signal says is no news
	z.undone[t] = true
	z.mu.Unlock()
	err := z.bus.call(ctx, firewalldPath, firewalldZone+"removeRichRule", []any{t.zone, t.text}, new(string))
	if code := codeOf(err); err != nil && code != "NOT_ENABLED" && code != "INVALID_ZONE" {
		return err
	}
	z.mu.Lock()
	delete(z.undone, t)
	z.mu.Unlock()
	return nil
}

// renew puts the rules in force anew whose time has come, then removes the old.
func (z *zones) renew(ctx context.Context, target map[placed]bool, when func(*zoneRule) time.Time) error {
	now := time.Now()
	for p, r := range z.rules {
		if !target[p] || when(r).After(now) {
			continue
		}
		if err := z.add(ctx, p); err != nil {
			z.again()
			return err
		}
		if err := z.remove(ctx, zoneText{p.zone, r.text}); err != nil {
			z.again()
			return err
		}
	}
	return nil
}

// close removes every rule, if firewalld is active.
func (z *zones) close(ctx context.Context, active bool) error {
	clear(z.want)
	var err error
	if active {
		err = z.settle(ctx)
	} else {
		z.forget()
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.bus != nil {
		z.bus.close()
		z.bus = nil
	}
	return err
}
