// Package firewalltest has a firewall that exists only in memory, for tests of
// programs that use package firewall: no rights, no changes to the machine.
//
//	host := firewalltest.NewHost(t)
//	fw, err := firewall.Open(ctx, firewall.Options{Driver: host.Driver()})
//
// The program under test opens and closes ports; the test asks [Host.Reachable]
// who gets in. What a driver must never be asked fails the test, and so does
// whatever is still open at its end.
package firewalltest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/roundsman-go/roundsman/firewall"
)

// TB is what a Host needs of testing.TB.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Cleanup(func())
}

// A Host is a machine with a firewall that lets nothing in. Its methods may be
// called from several goroutines.
type Host struct {
	t TB

	mu     sync.Mutex
	state  firewall.State
	left   []firewall.Leftover
	faults map[string][]error
	calls  []string
	owners []*driver
}

// NewHost returns a host. At the end of the test nothing may be open on it.
func NewHost(t TB) *Host {
	h := &Host{t: t, state: firewall.State{FrontEnds: []firewall.FrontEnd{firewall.NFT}}, faults: map[string][]error{}}
	t.Cleanup(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, d := range h.owners {
			if !d.closed && !d.dead {
				h.t.Errorf("firewalltest: a firewall was not closed; it has %d openings", len(d.open))
			}
		}
	})
	return h
}

// Driver returns what firewall.Options.Driver is to be. Each is another process's.
func (h *Host) Driver() firewall.Driver {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := &driver{h: h, open: map[firewall.Opening]bool{}, wake: make(chan struct{}, 1)}
	h.owners = append(h.owners, d)
	return d
}

// SetState sets what State reports.
func (h *Host) SetState(s firewall.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = s
}

// Leave puts leftovers of dead owners on the host, for the next sweep.
func (h *Host) Leave(l ...firewall.Leftover) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = append(h.left, l...)
}

// Fail makes the next call of a driver's method, for example "Apply", fail. Called
// again, it fails the one after that too.
func (h *Host) Fail(method string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[method] = append(h.faults[method], err)
}

// Reachable reports whether a peer reaches a port: "tcp" or "udp".
func (h *Host) Reachable(network string, port uint16, from netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.owners, func(d *driver) bool {
		if d.closed || d.dead {
			return false
		}
		for o := range d.open {
			if o.Network == network && o.Port == port && o.From.Contains(from) {
				return true
			}
		}
		return false
	})
}

// Calls returns the drivers' calls so far, each as a line: "Apply +80/tcp from
// 192.0.2.7/32".
func (h *Host) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// Reload makes every driver believe that somebody changed the host's rules.
func (h *Host) Reload() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.owners {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// Kill is the death of every process that has a driver now: what they opened is
// closed, the host has a leftover, and their further calls fail.
func (h *Host) Kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.owners {
		if !d.closed && !d.dead {
			d.dead = true
			h.left = append(h.left, firewall.Leftover{FrontEnd: firewall.NFT, What: "gate of a dead process"})
		}
	}
}

type driver struct {
	h            *Host
	open         map[firewall.Opening]bool
	busy         bool
	closed, dead bool
	wake         chan struct{}
}

var errDead = errors.New("firewalltest: the process is dead")

// call begins a call that must not run beside another one.
func (d *driver) call(ctx context.Context, method, detail string) (func(), error) {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	d.h.calls = append(d.h.calls, method+detail)
	if d.busy {
		d.h.t.Errorf("firewalltest: %s while another call runs", method)
	}
	if d.closed {
		d.h.t.Errorf("firewalltest: %s after Close", method)
	}
	if d.dead {
		return nil, errDead
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f := d.h.faults[method]; len(f) > 0 {
		d.h.faults[method] = f[1:]
		return nil, f[0]
	}
	d.busy = true
	return func() {
		d.h.mu.Lock()
		defer d.h.mu.Unlock()
		d.busy = false
	}, nil
}

func (d *driver) State(ctx context.Context) (firewall.State, error) {
	end, err := d.call(ctx, "State", "")
	if err != nil {
		return firewall.State{}, err
	}
	defer end()
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	return d.h.state, nil
}

func (d *driver) Sweep(ctx context.Context) ([]firewall.Leftover, error) {
	end, err := d.call(ctx, "Sweep", "")
	if err != nil {
		return nil, err
	}
	defer end()
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	left := d.h.left
	d.h.left = nil
	return left, nil
}

func (d *driver) Apply(ctx context.Context, add, remove []firewall.Opening) error {
	detail := ""
	for _, o := range remove {
		detail += fmt.Sprintf(" -%s", o)
	}
	for _, o := range add {
		detail += fmt.Sprintf(" +%s", o)
	}
	end, err := d.call(ctx, "Apply", detail)
	if err != nil {
		return err
	}
	defer end()
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	for _, o := range remove {
		if !d.open[o] {
			d.h.t.Errorf("firewalltest: %s is closed but was not open", o)
		}
		delete(d.open, o)
	}
	for _, o := range add {
		for have := range d.open {
			if have.Network == o.Network && have.Port == o.Port && have.From.Overlaps(o.From) {
				d.h.t.Errorf("firewalltest: %s is opened though %s is open", o, have)
			}
		}
		d.open[o] = true
	}
	return nil
}

func (d *driver) Wait(ctx context.Context) error {
	select {
	case <-d.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *driver) Repair(ctx context.Context) error {
	end, err := d.call(ctx, "Repair", "")
	if err != nil {
		return err
	}
	end()
	return nil
}

func (d *driver) Close(ctx context.Context) error {
	end, err := d.call(ctx, "Close", "")
	if err != nil {
		return err
	}
	defer end()
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	d.closed = true
	return nil
}
