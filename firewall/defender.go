package firewall

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A defender is the Driver for Windows Defender Firewall: rules of the local
// policy, through INetFwPolicy2 (netfw.h). What it does is in files for every
// system; only the calls themselves need Windows.
type defender struct {
	owner    Owner
	app      string // the path of the program that listens
	prefix   string
	check    time.Duration
	log      *slog.Logger
	alive    func(Owner) (bool, error)
	guard    []string
	guardian *guardian
	com      *apartment
	server   comServer
	closed   bool

	rules map[string]*defenderRule // by name; only in the apartment
}

// newDefender enters the apartment.
func newDefender(ctx context.Context, o Options, owner Owner, app string, alive func(Owner) (bool, error), enter func() (comServer, error)) (*defender, error) {
	com, server, err := newApartment(ctx, enter)
	if err != nil {
		return nil, defenderError(err)
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id) // it never fails
	return &defender{
		owner: owner, app: app, prefix: defenderPrefix(owner, hex.EncodeToString(id)), check: o.Check, log: o.Logger,
		alive: alive, guard: o.Guardian, com: com, server: server, rules: map[string]*defenderRule{},
	}, nil
}

// defenderError gives an error of COM its front end, and its kind.
func defenderError(err error) error {
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	e := &Error{FrontEnd: Windows, Cause: err}
	if errors.Is(err, fs.ErrPermission) {
		e.Kind = ErrPermission
	}
	return e
}

// collection calls f with the policy and its rules.
func (d *defender) collection(f func(policy, rules comObject) error) error {
	policy, err := d.server.create("HNetCfg.FwPolicy2")
	if err != nil {
		return fmt.Errorf("create HNetCfg.FwPolicy2: %w", err)
	}
	defer policy.release()
	rules, err := property[comObject](policy, "Rules")
	if err != nil {
		return err
	}
	defer rules.release()
	return f(policy, rules)
}

// State implements [Driver].
func (d *defender) State(ctx context.Context) (State, error) {
	var s State
	err := d.com.do(ctx, func(func() bool) error {
		return d.collection(func(policy, rules comObject) error {
			profiles, err := d.profiles(policy)
			if err != nil {
				return err
			}
			if profiles.filter() {
				s.FrontEnds = []FrontEnd{Windows}
			}
			s.Blocks = profiles.blocks()
			var unread unreadable
			defer unread.tell(d.log)
			return rules.each(func(r comObject) error {
				l, err := readRule(r)
				if err != nil {
					return unread.skip(err)
				}
				return d.note(&s, profiles, l)
			})
		})
	})
	if err != nil {
		return State{}, defenderError(err)
	}
	return s, nil
}

// note adds a rule of the host to what is known of it, if it is somebody's of ours
// or blocks our program.
func (d *defender) note(s *State, profiles profiles, l listedRule) error {
	if l.direction != fwIn || !l.enabled {
		return nil
	}
	if o, ok := defenderOwner(l.name); ok && l.group == defenderGroup {
		if slices.Contains(s.Owners, o) {
			return nil
		}
		living, err := d.alive(o)
		if living {
			s.Owners = append(s.Owners, o)
		}
		return err
	}
	ours := strings.EqualFold(l.app, d.app) || l.app == "" && l.service == ""
	if l.action == fwBlock && ours && profiles.active&l.profiles != 0 && slices.Contains([]int32{fwTCP, fwUDP, fwAny}, l.protocol) {
		s.Blocks = append(s.Blocks, Block{Where: fmt.Sprintf("rule %q", l.name), Why: "it blocks, and in Windows what blocks comes before what allows"})
	}
	return nil
}

// Sweep implements [Driver].
func (d *defender) Sweep(ctx context.Context) ([]Leftover, error) {
	var left []Leftover
	err := d.com.do(ctx, func(keep func() bool) error {
		return d.collection(func(_, rules comObject) error {
			all, err := d.dead(rules)
			var swept []Leftover
			for _, r := range all {
				if err == nil {
					err = ctx.Err()
				}
				if err == nil {
					err = discard(rules, r.rule, r.name, asideName(r.name))
				}
				if err == nil {
					swept = append(swept, Leftover{FrontEnd: Windows, What: fmt.Sprintf("rule %q", r.name), Owner: r.owner})
				}
				r.rule.release()
			}
			if keep() {
				left = swept
			}
			return err
		})
	})
	if errors.Is(err, errNoAnswer) {
		return nil, defenderError(err) // the work may still go on
	}
	return left, defenderError(err)
}

// A deadRule is a rule whose owner is dead. The object is the caller's to release.
type deadRule struct {
	rule  comObject
	name  string
	owner Owner
}

// dead is what dead owners left. It changes nothing: a collection must not change
// while it is enumerated.
func (d *defender) dead(rules comObject) ([]deadRule, error) {
	var all []deadRule
	var unread unreadable
	defer unread.tell(d.log)
	living := map[Owner]bool{}
	err := rules.each(func(r comObject) error {
		name, err := ours(r)
		if err != nil {
			return unread.skip(err)
		}
		o, ok := defenderOwner(name)
		if !ok {
			return nil
		}
		if _, ok := living[o]; !ok {
			if living[o], err = d.alive(o); err != nil {
				return err
			}
		}
		if !living[o] {
			r.retain()
			all = append(all, deadRule{r, name, o})
		}
		return nil
	})
	return all, err
}

// ours is the name of a rule that is of our group, and "" for others.
func ours(r comObject) (string, error) {
	if group, err := property[string](r, "Grouping"); err != nil || group != defenderGroup {
		return "", err
	}
	return property[string](r, "Name")
}

// discard removes this very rule. Remove goes by the name, and does not say which it
// takes of several: so the rule gets another one first, aside.
func discard(rules, rule comObject, name, aside string) error {
	if err := rule.put("Name", aside); err != nil {
		return fmt.Errorf("rename rule %q, to remove it: %w", name, err)
	}
	if _, err := rules.call("Remove", aside); err != nil {
		return fmt.Errorf("remove rule %q, which was %q: %w", aside, name, err)
	}
	return nil
}

// Apply implements [Driver].
func (d *defender) Apply(ctx context.Context, add, remove []Opening) error {
	if len(add) == 0 && len(remove) == 0 {
		return nil
	}
	if len(add) > 0 {
		if err := d.watched(ctx); err != nil {
			return err
		}
	}
	return defenderError(d.com.do(ctx, func(keep func() bool) error {
		return d.collection(func(policy, rules comObject) error {
			if len(add) > 0 {
				profiles, err := d.profiles(policy)
				if err != nil {
					return err
				}
				if err := profiles.effective(add); err != nil {
					return err
				}
			}
			changes := planRules(d.prefix, d.rules, add, remove)
			for i, c := range changes {
				err := ctx.Err()
				if err == nil {
					err = d.put(rules, c.name, c.port, c.after)
				}
				if err != nil {
					return also(err, d.undo(rules, changes[:i+1]))
				}
			}
			if !keep() {
				return also(ctx.Err(), d.undo(rules, changes))
			}
			return nil
		})
	}))
}

// undo puts back what was before the changes. That the last one failed does not
// say that it did nothing.
func (d *defender) undo(rules comObject, changes []change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		if err := d.put(rules, c.name, c.port, c.before); err != nil {
			errs = append(errs, err)
			d.log.Error("a rule of the firewall could not be put back; trying again", "rule", c.name, "err", err)
			r := d.rules[c.name] // which Repair then puts back, and Close removes
			r.from, r.remote = slices.Clone(c.before), ""
		}
	}
	return errors.Join(errs...)
}

// put makes a rule what it is to be, whatever there is.
func (d *defender) put(rules comObject, name string, p port, from []netip.Prefix) error {
	r := d.rules[name]
	if r == nil {
		r = &defenderRule{port: p}
		d.rules[name] = r // before it is tried: Close removes what failed half way
	}
	if r.aside != "" { // it was to be removed; if it was, or has its old name, this has no effect
		if _, err := rules.call("Remove", r.aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove rule %q, which was %q: %w", r.aside, name, err)
		}
		r.aside = ""
	}
	if len(from) == 0 {
		if err := d.remove(rules, name, r); err != nil {
			return err
		}
		delete(d.rules, name)
		return nil
	}
	err := d.edit(rules, name, from)
	if errors.Is(err, fs.ErrNotExist) {
		err = d.add(rules, name, p, from)
	}
	if err != nil {
		return err
	}
	item, err := d.item(rules, name)
	if err != nil {
		return err
	}
	defer item.release()
	remote, err := property[string](item, "RemoteAddresses")
	if err != nil {
		return err
	}
	if (remote == "*" || remote == "") && remoteAddresses(from) != "*" {
		return fmt.Errorf("rule %q was to be for %s, and Windows made it one for everybody", name, remoteAddresses(from))
	}
	r.from, r.remote = slices.Clone(from), remote
	return nil
}

// remove removes a rule that is there.
func (d *defender) remove(rules comObject, name string, r *defenderRule) error {
	item, err := d.item(rules, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer item.release()
	r.aside = asideName(name)
	if err := discard(rules, item, name, r.aside); err != nil {
		return err
	}
	r.aside = ""
	return nil
}

// item finds our rule by its name. Names need not be unique, and which of several
// Item gives is not documented: ours is the one of our group. Where none is, there is
// no rule of ours, whatever bears its name.
func (d *defender) item(rules comObject, name string) (comObject, error) {
	v, err := rules.call("Item", name)
	if err != nil {
		return nil, fmt.Errorf("find rule %q: %w", name, err)
	}
	item, ok := v.(comObject)
	if !ok {
		return nil, fmt.Errorf("find rule %q: it is a %T", name, v)
	}
	mine, unread := ours(item) // what cannot be read may be ours
	if mine != "" {
		return item, nil
	}
	item.release()
	var own comObject
	err = rules.each(func(r comObject) error {
		if found, err := property[string](r, "Name"); own != nil || err != nil || found != name {
			return nil
		}
		mine, err := ours(r)
		if err != nil {
			unread = err
		} else if mine != "" {
			r.retain()
			own = r
		}
		return nil
	})
	if err == nil && own != nil {
		return own, nil
	}
	if own != nil {
		own.release()
	}
	if err == nil {
		err = unread
	}
	if err == nil {
		err = fs.ErrNotExist
	}
	return nil, fmt.Errorf("find rule %q: %w", name, err)
}

// edit changes a rule that is there, in one step.
func (d *defender) edit(rules comObject, name string, from []netip.Prefix) error {
	item, err := d.item(rules, name)
	if err != nil {
		return err
	}
	defer item.release()
	if err := item.put("RemoteAddresses", remoteAddresses(from)); err != nil {
		return fmt.Errorf("change rule %q: %w", name, err)
	}
	if on, err := property[bool](item, "Enabled"); on || err != nil {
		return err
	}
	return item.put("Enabled", true)
}

func (d *defender) add(rules comObject, name string, p port, from []netip.Prefix) error {
	r, err := d.server.create("HNetCfg.FWRule")
	if err != nil {
		return fmt.Errorf("create HNetCfg.FWRule: %w", err)
	}
	defer r.release()
	for _, p := range rulePuts(name, d.app, d.owner, p, from) {
		if err := r.put(p.name, p.value); err != nil {
			return fmt.Errorf("make rule %q: set %s: %w", name, p.name, err)
		}
	}
	if _, err := rules.call("Add", r); err != nil {
		return fmt.Errorf("add rule %q: %w", name, err)
	}
	return nil
}

// Wait implements [Driver]. Windows tells nobody of changes.
func (d *defender) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d.check):
		return nil
	}
}

// Repair implements [Driver].
func (d *defender) Repair(ctx context.Context) error {
	var guarded error
	if d.guardian != nil {
		guarded = d.watched(ctx)
	}
	repaired := defenderError(d.com.do(ctx, func(func() bool) error {
		if len(d.rules) == 0 {
			return nil
		}
		return d.collection(func(_, rules comObject) error {
			var errs []error
			for name, r := range d.rules {
				if ctx.Err() != nil {
					break
				}
				if len(r.from) == 0 { // what failed half way, and could not be undone
					errs = append(errs, d.put(rules, name, r.port, nil))
					continue
				}
				same, err := d.same(rules, name, r)
				if err == nil && !same {
					d.log.Info("putting back a rule of the firewall that somebody changed", "rule", name)
					err = d.put(rules, name, r.port, r.from)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
	}))
	return errors.Join(guarded, repaired)
}

func (d *defender) same(rules comObject, name string, r *defenderRule) (bool, error) {
	item, err := d.item(rules, name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	defer item.release()
	remote, err := property[string](item, "RemoteAddresses")
	if err != nil || remote != r.remote {
		return false, err
	}
	return property[bool](item, "Enabled")
}

// watched sees to it that the guardian runs, if there is to be one.
func (d *defender) watched(ctx context.Context) error {
	if len(d.guard) == 0 || d.guardian != nil && !d.guardian.ended() {
		return nil
	}
	if d.guardian != nil {
		d.log.Warn("the guardian of the firewall's rules has ended; starting another", "err", d.guardian.close(ctx))
	}
	g, err := startGuardian(ctx, d.guard, d.owner)
	if err != nil {
		return &Error{
			FrontEnd: Windows, Detail: "the guardian does not start, and without it the rules would outlive a killed process", Cause: err,
			Hint: fmt.Sprintf("see to it that this host can run %q, or have Options.Guardian name another command that calls Guard", d.guard),
		}
	}
	d.guardian = g
	return nil
}

// Close implements [Driver].
func (d *defender) Close(ctx context.Context) error {
	if d.closed {
		return nil
	}
	err := d.com.do(ctx, func(func() bool) error {
		if len(d.rules) == 0 {
			return nil
		}
		return d.collection(func(_, rules comObject) error {
			var errs []error
			for name, r := range d.rules {
				errs = append(errs, d.put(rules, name, r.port, nil))
			}
			return errors.Join(errs...)
		})
	})
	if err != nil {
		return defenderError(err)
	}
	d.com.close()
	d.closed = true
	if d.guardian != nil {
		if err := d.guardian.close(ctx); err != nil {
			d.log.Warn("the guardian of the firewall's rules failed", "err", err)
		}
	}
	return nil
}
