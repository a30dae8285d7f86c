package portalloc

import (
	"context"
	"net"
	"net/netip"
)

// PairOptions configures [Allocator.ListenPair].
type PairOptions struct {
	// OneNIC applies the classic rule for a host with IPv4 only and one network
	// adapter, where both ports come from the range of TargetToManager. The
	// function [OneNIC] tells whether this host is one.
	OneNIC bool
	// Local says where the LocalIPC listener listens, Remote the same for
	// TargetToManager. With OneNIC they may not ask for IPv6.
	Local, Remote Options
}

// ListenPair opens the two listeners of a classic manager in one step: one for
// messages between local processes, and one that receives from targets. Either
// both are returned or none is open, and no other call of this Allocator comes
// between.
//
// With OneNIC the lowest free port of TargetToManager's policy is the local
// one, the next free one the remote one, upwards even if the policy is random.
// Without it each role has the ports of its own policy. The errors are those of
// [Allocator.Listen].
func (a *Allocator) ListenPair(ctx context.Context, o PairOptions) (local, remote *Lease, err error) {
	localRole := LocalIPC
	if o.OneNIC {
		if o.Local.Family == IPv6 || o.Remote.Family == IPv6 {
			return nil, nil, invalid("listen", TargetToManager, "OneNIC is a rule for IPv4, and IPv6 is asked for")
		}
		o.Local.Family, o.Remote.Family = IPv4, IPv4
		o.Local.Loopback = o.Local.Loopback || len(o.Local.Addrs) == 0
		localRole = TargetToManager
	}
	localEps, localPlan, err := a.prepare("listen", localRole, o.Local)
	if err != nil {
		return nil, nil, err
	}
	defer a.leave()
	remoteEps, remotePlan, err := a.prepare("listen", TargetToManager, o.Remote)
	if err != nil {
		return nil, nil, err
	}
	defer a.leave()
	if o.OneNIC {
		localPlan.role = LocalIPC
		for _, p := range []*Policy{&localPlan.policy, &remotePlan.policy} {
			p.Random, p.RandomStart = false, false
		}
	}

	if err := a.takeTurn(ctx, localPlan); err != nil {
		return nil, nil, err
	}
	local, remote, short, err := a.listenBoth(ctx, localPlan, remotePlan, localEps, remoteEps, o.OneNIC)
	a.endTurn()
	if short != nil {
		err = a.explain(ctx, short)
	}
	return local, remote, err
}

// listenBoth does the work of ListenPair. The caller has the turn.
func (a *Allocator) listenBoth(ctx context.Context, localPlan, remotePlan plan, localEps, remoteEps []endpoint, oneNIC bool) (local, remote *Lease, short *shortage, err error) {
	local, short, err = a.listenOn(ctx, localPlan, localEps)
	if local == nil {
		return nil, nil, short, err
	}
	if oneNIC {
		// Next means above: a port below may have come free a moment ago.
		remotePlan.bounds = remotePlan.with(span{Range: Range{1, local.port}, reason: Held, role: LocalIPC})
	}
	remote, short, err = a.listenOn(ctx, remotePlan, remoteEps)
	if remote == nil {
		local.Close()
		return nil, nil, short, err
	}
	return local, remote, nil, nil
}

// OneNIC reports whether this host has IPv4 only and one network adapter: exactly
// one interface besides loopback is up and has addresses, one of them IPv4 and
// none a routable IPv6 address.
func OneNIC() (bool, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, &Error{Op: "list adapters", Cause: err}
	}
	var nics [][]netip.Addr
	for _, ifc := range interfaces {
		if ifc.Flags&net.FlagUp == 0 || ifc.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := ifc.Addrs()
		if err != nil {
			return false, &Error{Op: "list adapters", Cause: err}
		}
		var nic []netip.Addr
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				nic = append(nic, p.Addr().Unmap())
			}
		}
		nics = append(nics, nic)
	}
	return oneNIC(nics), nil
}

func oneNIC(nics [][]netip.Addr) bool {
	n := 0
	for _, addrs := range nics {
		has4 := false
		for _, a := range addrs {
			switch {
			case a.Is4():
				has4 = true
			case !a.IsLinkLocalUnicast():
				return false
			}
		}
		if has4 {
			n++
		}
	}
	return n == 1
}
