package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/roundsman-go/roundsman/transport"
)

// Time limits of one part.
const (
	partTimeout = 20 * time.Second
	rpmTimeout  = 90 * time.Second // a large database on a slow disk
)

// Bounds of one inventory. No host reaches them; a broken one must not fill the
// memory of agent or manager.
const (
	maxDevices  = 4096
	maxSoftware = 100_000
	maxProblems = 256
	maxText     = 1024 // bytes of one string
)

// Options say what to read. The zero value reads the running system.
type Options struct {
	// Root is a directory to read instead of "/", such as a made-up sysfs tree or
	// the mounted file system of another host. The running kernel and the
	// programs of the running system are then not asked.
	Root string

	// timeout replaces the limits of the parts; tests set it.
	timeout time.Duration
	// parts replaces the parts; tests set it.
	parts []part
}

// part reads one piece of an inventory and hands on each find at once, so that
// a later hang loses nothing.
type part struct {
	name    string
	timeout time.Duration
	read    func(ctx context.Context, out *finds)
}

// Collect reads the running system. It returns when every part has ended or
// reached its limit, or soon after ctx has ended; Taken is left to the caller.
// It is safe for concurrent use.
func Collect(ctx context.Context) *transport.Inventory { return Options{}.Collect(ctx) }

// Collect reads what the options say. See the function [Collect].
//
// A read that hangs inside the kernel cannot be interrupted. The goroutine that
// waits for it is left behind until the kernel answers; what it finds then is
// dropped.
func (o Options) Collect(ctx context.Context) *transport.Inventory {
	parts := o.parts
	if parts == nil {
		parts = o.systemParts()
	}
	inv := &transport.Inventory{}
	var wg sync.WaitGroup
	outs := make([]*finds, len(parts))
	for i, p := range parts {
		limit := cmp.Or(o.timeout, p.timeout, partTimeout)
		outs[i] = &finds{part: p.name}
		wg.Go(func() { runPart(ctx, p, limit, outs[i]) })
	}
	wg.Wait()
	for _, out := range outs {
		out.into(inv)
	}
	tidy(inv)
	return inv
}

// runPart runs p and closes out when p has ended or may go on no longer.
func runPart(ctx context.Context, p part, limit time.Duration, out *finds) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The parts go through libraries that read what hardware and other
		// programs wrote. The agent must outlive whatever that trips over.
		defer func() {
			if r := recover(); r != nil {
				out.problem("stopped: %v", r)
			}
		}()
		p.read(ctx, out)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		// A part that heeds its context is about to end and may have more to say.
		select {
		case <-done:
		case <-time.After(min(limit, time.Second)):
		}
	}
	// A part that has ended may have done so because it could not go on.
	switch ctx.Err() {
	case nil:
	case context.DeadlineExceeded:
		out.problem("not finished within %v", limit)
	default:
		out.problem("not finished: %v", context.Cause(ctx))
	}
	out.close()
}

// finds gathers what one part reads. It is safe for concurrent use.
type finds struct {
	part string

	mu       sync.Mutex
	closed   bool
	identity *transport.Identity
	devices  []transport.Device
	software []transport.Software
	problems []transport.Problem
	notes    []transport.Problem
}

func (f *finds) add(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		change()
	}
}

func (f *finds) close() { f.add(func() { f.closed = true }) }

// device adds d, or replaces what is known of it so far.
func (f *finds) device(d transport.Device) {
	f.add(func() {
		same := func(o transport.Device) bool { return o.Class == d.Class && o.ID == d.ID }
		if i := slices.IndexFunc(f.devices, same); i >= 0 {
			f.devices[i] = d
			return
		}
		f.devices = append(f.devices, d)
	})
}

func (f *finds) installed(s transport.Software) {
	f.add(func() { f.software = append(f.software, s) })
}

func (f *finds) who(id transport.Identity) { f.add(func() { f.identity = &id }) }

func (f *finds) problem(format string, args ...any) {
	p := transport.Problem{Part: f.part, Text: fmt.Sprintf(format, args...)}
	f.add(func() { f.problems = append(f.problems, p) })
}

// note tells what there is no field for.
func (f *finds) note(format string, args ...any) {
	n := transport.Problem{Part: f.part, Text: fmt.Sprintf(format, args...)}
	f.add(func() { f.notes = append(f.notes, n) })
}

// into adds what was found to inv. The part must have been closed.
func (f *finds) into(inv *transport.Inventory) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.identity != nil {
		inv.Identity = *f.identity
	}
	inv.Devices = append(inv.Devices, f.devices...)
	inv.Software = append(inv.Software, f.software...)
	inv.Problems = append(inv.Problems, f.problems...)
	inv.Notes = append(inv.Notes, f.notes...)
}

// tidy makes every string fit for XML, JSON and terminals, and the order that of
// the contents.
func tidy(inv *transport.Inventory) {
	id := &inv.Identity
	for _, s := range []*string{&id.Name, &id.Vendor, &id.Product, &id.Serial, &id.UUID,
		&id.OS, &id.Version, &id.Kernel, &id.Arch, &id.BootID} {
		*s = clean(*s)
	}
	for i := range inv.Devices {
		d := &inv.Devices[i]
		for _, s := range []*string{&d.ID, &d.Class, &d.Name, &d.Vendor, &d.Model, &d.Serial,
			&d.Location, &d.Firmware, &d.Driver, &d.DriverVersion} {
			*s = clean(*s)
		}
		for j := range d.HardwareIDs {
			d.HardwareIDs[j] = clean(d.HardwareIDs[j])
		}
	}
	for i := range inv.Software {
		s := &inv.Software[i]
		for _, p := range []*string{&s.Name, &s.Version, &s.Arch, &s.Source} {
			*p = clean(*p)
		}
	}
	slices.SortStableFunc(inv.Devices, func(a, b transport.Device) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name))
	})
	slices.SortStableFunc(inv.Software, func(a, b transport.Software) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
	})
	inv.Devices = bound(inv, inv.Devices, maxDevices, "devices")
	inv.Software = bound(inv, inv.Software, maxSoftware, "packages")
	inv.Problems, inv.Notes = tidyTexts(inv.Problems), tidyTexts(inv.Notes)
}

func tidyTexts(s []transport.Problem) []transport.Problem {
	for i := range s {
		s[i].Text = clean(s[i].Text)
	}
	slices.SortStableFunc(s, func(a, b transport.Problem) int {
		return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Text, b.Text))
	})
	return s[:min(len(s), maxProblems)]
}

func bound[T any](inv *transport.Inventory, s []T, limit int, what string) []T {
	if len(s) <= limit {
		return s
	}
	inv.Problems = append(inv.Problems, transport.Problem{Part: "limits",
		Text: fmt.Sprintf("%d %s found, only %d reported", len(s), what, limit)})
	return s[:limit]
}

// clean drops what hardware puts around its strings (padding, zero bytes, bytes
// that are no text) and bounds their length.
func clean(s string) string {
	s = s[:min(len(s), maxText)]
	s = strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar, !unicode.IsPrint(r) && !unicode.IsSpace(r):
			return -1
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
