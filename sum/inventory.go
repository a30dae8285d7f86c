package sum

import (
	"context"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// Inventory is a step: it reads what is in a target. On a server the agent does
// it, and runs the probes of the given components; a device is asked by its
// driver. It changes nothing but that the agent is there until the session ends.
func Inventory(ctx context.Context, n *Node, comps ...*component.Component) (*transport.Inventory, error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("inventory", "", err)
	}
	defer end()
	inv, err := n.inventory(ctx, probesOf(comps))
	return inv, n.fail("inventory", "", err)
}

// inventoryLimit bounds an inventory by an agent, which bounds its parts: the
// slowest of them, a package database, by 90 seconds. Probes come on top.
const inventoryLimit = 5 * time.Minute

// prober has a probe for its version, or none. Components are probers.
type prober interface{ Probe() (agent.Probe, bool) }

func probesOf[P prober](ps []P) []agent.Probe {
	var out []agent.Probe
	for _, p := range ps {
		if probe, ok := p.Probe(); ok {
			out = append(out, probe)
		}
	}
	return out
}

func (n *Node) inventory(ctx context.Context, probes []agent.Probe) (*transport.Inventory, error) {
	var inv *transport.Inventory
	var err error
	if n.t.Kind.IsServer() {
		req := agent.InventoryRequest{Probes: probes}
		limit := inventoryLimit
		for _, p := range probes {
			limit += max(p.Timeout, time.Minute)
		}
		err = n.call(ctx, limit, func(ctx context.Context, ops agent.Ops) error {
			inv, err = ops.Inventory(ctx, req)
			return err
		})
	} else {
		err = n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
			inv, err = transport.ReadInventory(ctx, conn)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if inv.Taken.IsZero() {
		inv.Taken = time.Now().UTC()
	}
	return inv, nil
}

// Children is a step: it names the parts behind a target, such as the hosts of a
// vCenter or the bays of an enclosure.
func Children(ctx context.Context, n *Node) ([]transport.Child, error) {
	var out []transport.Child
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("children", "", err)
	}
	defer end()
	err = n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		out = out[:0]
		for c, err := range transport.Children(ctx, conn) {
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	return out, n.fail("children", "", err)
}
