package sum

import (
	"fmt"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// probeSaid says what the probe of a component did that proves nothing, or "" if it
// did prove something or there is none. known is false where it does not even tell
// whether anything is installed.
func probeSaid(inv *transport.Inventory, c subjectReader) (said string, known bool) {
	p, ok := c.Probe()
	if !ok {
		return "", true
	}
	if why := probeFailed(inv, p.Name); why != "" {
		return fmt.Sprintf("the probe %q gave no answer: %s", p.Argv, why), false
	}
	for _, n := range inv.Notes {
		if n.Part == agent.ProbePart(p.Name) {
			return fmt.Sprintf("the probe %q says so: %s", p.Argv, n.Text), true
		}
	}
	for _, f := range c.Current(inv) {
		if !f.Installed {
			continue
		}
		if _, err := c.Compare(f.Version); err != nil {
			return fmt.Sprintf("the probe %q ended with exit status 0, and its first line %.200q is no version: %v", p.Argv, f.Version, err), true
		}
	}
	return "", true
}
