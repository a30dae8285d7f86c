package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
)

func heading(s string) { fmt.Printf("\n%s\n", s) }

// progress prints a line for each fifth of a transfer and for what installers print.
type progress struct {
	mu   sync.Mutex
	last map[string]int64
}

func (p *progress) event(e sum.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := e.Target.Name
	switch {
	case e.Phase == "stage" && e.Total > 0:
		key := name + " " + e.Text
		part := e.Done * 5 / e.Total
		if p.last == nil {
			p.last = map[string]int64{}
		}
		kept := ""
		if e.Kept > 0 {
			kept = fmt.Sprintf(" (%.1f MiB were there already)", float64(e.Kept)/(1<<20))
		}
		if part == p.last[key] && kept == "" {
			return
		}
		p.last[key] = part
		fmt.Printf("  %-6s %s %3d%%%s\n", name, e.Text, e.Done*100/e.Total, kept)
	case e.Phase == "install":
		for line := range strings.Lines(e.Text) {
			fmt.Printf("  %-6s | %s\n", name, strings.TrimSpace(line))
		}
	case e.Phase == "verify":
		fmt.Printf("  %-6s reading the inventory again\n", name)
	}
}
