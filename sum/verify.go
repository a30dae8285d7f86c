package sum

import (
	"context"

	"github.com/roundsman-go/roundsman/sum/component"
)

// Verify is a step: it reads the inventory and says for each component of a plan
// whether the target has it. It changes nothing, and needs no Deploy before it
// in the same process. What the plan skips is NotNeeded; what is there is
// Updated; everything else is Unverified.
func Verify(ctx context.Context, n *Node, plan TargetPlan, comps []*component.Component) ([]Outcome, error) {
	byDigest := map[string]*component.Component{}
	for _, c := range comps {
		byDigest[c.Digest()] = c
	}
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("verify", "", err)
	}
	defer end()
	inv, err := n.inventory(ctx, probesOf(comps))
	if err != nil {
		return nil, n.fail("verify", "", err)
	}
	out := make([]Outcome, 0, len(plan.Items))
	for _, it := range plan.Items {
		o := n.outcome(it, Unverified)
		c := byDigest[it.Digest]
		switch {
		case it.Action == Skip && (it.Unknown || it.Refused):
			o.Text = it.Reason
		case it.Action == Skip:
			o.Kind, o.Text = NotNeeded, it.Reason
		case c == nil:
			o.Text = "no component at hand has the digest of the plan"
		default:
			if proven, _ := o.read(c.Current(inv), it, c); proven {
				o.Kind = Updated
			} else {
				o.Text = unproven(it, o, inv, c)
			}
		}
		out = append(out, o)
	}
	return out, nil
}
