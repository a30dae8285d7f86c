package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

func heading(s string) { fmt.Printf("\n%s\n", s) }

func showInventory(t sum.Target, inv *transport.Inventory) {
	id := inv.Identity
	what := id.Product + ", " + id.Version
	if t.Kind.IsServer() {
		what = id.Version + ", kernel " + id.Kernel
	}
	fmt.Printf("  %-6s %s, %d devices, %d packages\n", t.Name, what, len(inv.Devices), len(inv.Software))
}

func showPlans(nodes []*sum.Node, plans map[string]sum.TargetPlan) {
	for _, n := range nodes {
		for _, it := range plans[n.Target().Name].Items {
			fmt.Printf("  %-6s %s %s %s: %s\n", n.Target().Name, it.Action, it.Component, it.Version, it.Reason)
		}
	}
}

// progress prints what happens on the targets, and a line for each fifth of what takes
// long. It says nothing twice in a row.
type progress struct {
	mu   sync.Mutex
	last map[string]string // by target
}

func (p *progress) event(e sum.Event) {
	switch {
	case e.Phase == "install":
		for line := range strings.Lines(e.Text) {
			fmt.Printf("  %-6s | %s\n", e.Target.Name, strings.TrimSpace(line))
		}
	case e.Total > 0:
		what := e.Text // the file of "stage"
		if what == "" {
			what = e.Phase // a device's own word
		}
		fifths := e.Done * 5 / e.Total
		percent := fmt.Sprintf("%3d%%", e.Done*100/e.Total)
		if e.Kept > 0 {
			percent += fmt.Sprintf(" (%.1f MiB were there already)", float64(e.Kept)/(1<<20))
		}
		if fifths > 0 || e.Kept > 0 {
			p.say(e, fmt.Sprint(what, fifths, e.Kept), what+" "+percent)
		}
	case e.Phase == "fetch" && e.Done > 0:
		p.say(e, e.Phase, fmt.Sprintf("has fetched %.1f MiB from the manager", float64(e.Done)/(1<<20)))
	case e.Phase == "reset":
		p.say(e, e.Phase, "resets; the manager waits for it")
	case e.Phase == "verify":
		p.say(e, e.Phase, "reading the inventory again")
	}
}

// say prints a line, unless what was said last of the target was the same.
func (p *progress) say(e sum.Event, what, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]string{}
	}
	if p.last[e.Target.Name] == what {
		return
	}
	p.last[e.Target.Name] = what
	fmt.Printf("  %-6s %s\n", e.Target.Name, line)
}
