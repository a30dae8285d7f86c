package sum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// classicWays tries the ports of the generation Classic in both directions.
func (p *preflight) classicWays(ctx context.Context, conn transport.Conn, look agent.Inspector) {
	p.wayTo(ctx, conn, look, agent.DefaultPort)
	if !p.n.s.cfg.Classic.Stay {
		p.wayTo(ctx, conn, look, 0)
	}
	if p.opts.Phase == PhaseDeploy || p.n.s.cfg.Generation == Classic {
		p.wayBack(ctx, conn, look)
	}
}

// wayTo has the target listen where its agent will, and dials that. 0 is a port to
// which the conversation would move.
func (p *preflight) wayTo(ctx context.Context, conn transport.Conn, look agent.Inspector, port uint16) {
	if !conn.Path().Remote.IsValid() {
		p.add(toPort(port, "").as(FindUntried, Notice, "the connection does not know the target's own address, as behind a jump host: the agent is reached through it", ""))
		return
	}
	bad := Notice // it stays at the first one
	if port != 0 {
		bad = Blocks
	}
	greeting := newID()
	opts := agent.ListenOptions{Port: port, Next: true, Greeting: greeting}
	if seen := conn.Path().SeenAs; p.n.s.cfg.OpenFirewall && seen.IsValid() {
		a := seen.Unmap().WithZone("")
		opts.Firewall = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	l, err := look.Listen(ctx, opts)
	f := toPort(port, "")
	f.Err = err
	switch {
	case err == nil:
	case errors.Is(err, errors.ErrUnsupported):
		p.add(f.as(FindUntried, Notice, "nobody on the target can listen", ""))
		return
	case denied(err) && len(opts.Firewall) > 0:
		p.add(f.as(FindFirewall, Blocks, err.Error(), "log in as root, or open the port by hand and leave the firewalls alone"))
		return
	default:
		p.add(f.as(FindFailed, bad, "the target cannot listen: "+err.Error(), ""))
		return
	}
	f = toPort(l.Port, hostPort(peerOf(conn), l.Port))
	if l.Taken != "" {
		p.add(toPort(port, "").as(FindTaken, Notice, fmt.Sprintf("the agent would listen on %d: %s", l.Port, l.Taken), "another manager's agent may be at work there"))
	}
	got, err := p.dialAgent(ctx, f.Addr)
	switch {
	case err == nil && got == greeting:
		p.add(f.reached(agent.ReachedPeer, "", bad))
	case err == nil:
		p.add(f.as(FindService, bad, fmt.Sprintf("something else answers at %s: %.40q", f.Addr, got), "a NAT or a proxy may be in between"))
	default:
		f.Err = err
		p.add(f.reached(agent.HowReached(err), "from the manager's ports 60000 and up", bad))
	}
	if err := look.Unlisten(ctx, l); err != nil && ctx.Err() == nil {
		p.add(toPort(l.Port, "").as(FindFailed, Notice, "the target may listen a moment longer: "+err.Error(), ""))
	}
}

// dialAgent dials from the ports that the agent will be dialled from.
func (p *preflight) dialAgent(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Patience)
	defer cancel()
	c, err := p.n.s.classic.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	got, _ := io.ReadAll(io.LimitReader(c, 64))
	return strings.TrimSuffix(string(got), "\n"), nil
}

// wayBack has the target dial the manager where its agent will.
func (p *preflight) wayBack(ctx context.Context, conn transport.Conn, look agent.Inspector) {
	c := p.n.s.classic
	path, err := c.wayBack(p.n, conn.Path())
	if err != nil {
		p.add(Finding{Err: err, Direction: ToManager}.as(FindUntried, Notice, err.Error(), ""))
		return
	}
	port, greeting, end, err := p.receive(ctx, portalloc.TargetToManager)
	if err != nil {
		p.add(Finding{Err: err, Direction: ToManager, Protocol: "tcp", Port: 61000}.as(FindTaken, Notice, err.Error(), "jobs are asked for news instead"))
		return
	}
	defer end()
	f := backPort(port, hostPort(path.SeenAs.WithZone(""), port))
	open := c.cfg.Classic.OpenRule
	if open == nil {
		open = c.walls.allow
	}
	release, err := open(ctx, port, path.CallbackFrom)
	if err != nil {
		f.Err = err
		p.add(f.as(FindFirewall, Notice, err.Error(), "jobs are asked for news instead"))
		return
	}
	if release != nil {
		defer func() {
			ctx, cancel := cleanup(ctx)
			defer cancel()
			_ = release(ctx)
		}()
	}
	r, err := look.Dial(ctx, netip.AddrPortFrom(path.SeenAs.Unmap().WithZone(""), port))
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		p.add(f.as(FindUntried, Notice, "nobody on the target can try to reach the manager", ""))
	case err != nil:
		f.Err = err
		p.add(f.as(FindFailed, Notice, err.Error(), ""))
	case r.How == agent.ReachedPeer && greeting != "" && r.Greeting != greeting:
		p.add(f.as(FindService, Notice, fmt.Sprintf("something else answers the target at %s: %.40q", f.Addr, r.Greeting),
			"a NAT or a proxy is in between: Config.Way can say under which address the target finds the manager"))
	default:
		f = f.reached(r.How, r.Text, Notice) // the manager can ask instead
		if f.Code != FindReached && c.walls == nil && c.cfg.Classic.OpenRule == nil {
			if add := byHand(ctx, port, path.CallbackFrom); len(add) > 0 {
				f.Advice += "; this host's own firewall is left alone, and opened by: " + strings.Join(add, "; ")
			}
		}
		p.add(f)
	}
}

// receive listens where agents are received. Where the session does so already, that
// is the port, and there is no greeting.
func (p *preflight) receive(ctx context.Context, role portalloc.Role) (port uint16, greeting string, end func(), err error) {
	c := p.n.s.classic
	c.mu.Lock()
	g := c.common[role]
	c.mu.Unlock()
	if g != nil && g.ended.Err() == nil {
		return g.lease.Port(), "", func() {}, nil
	}
	lease, err := c.ports.Listen(ctx, role, portalloc.Options{Addrs: c.cfg.Listen})
	if err != nil {
		return 0, "", nil, err
	}
	greeting = newID()
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.Greet(lease, greeting)
	}()
	return lease.Port(), greeting, func() { _ = lease.Close(); <-done }, nil
}

// managerPorts looks at the manager's side of the ways back from a device. conn is nil
// where there is no connection.
func (p *preflight) managerPorts(ctx context.Context, conn transport.Conn) {
	if p.n.t.Kind.IsServer() {
		return
	}
	pub := p.n.s.publish
	for _, flow := range p.flows {
		if flow.Direction != ToManager || flow.First != flow.Last || ctx.Err() != nil {
			continue
		}
		f := backPort(flow.First, "")
		bad := Notice
		if flow.Need == Required {
			bad = Blocks
		}
		if pub.opened(flow.Role, flow.First) == nil {
			lease, err := pub.ports.Listen(ctx, flow.Role, portalloc.Options{Port: flow.First, Addrs: pub.cfg.Listen})
			if err != nil {
				f.Err = err
				p.add(f.as(FindTaken, bad, err.Error(), ""))
				continue
			}
			_ = lease.Close()
		}
		if conn == nil {
			continue
		}
		path, err := wayBack(pub.cfg, p.n.t, conn.Path())
		if err != nil {
			f.Err = err
			p.add(f.as(FindUntried, Notice, err.Error(), ""))
			continue
		}
		f.Addr = hostPort(path.SeenAs.WithZone(""), flow.First)
		if pub.walls != nil {
			release, err := pub.walls.allow(ctx, flow.First, path.CallbackFrom)
			if err != nil {
				f.Err = err
				p.add(f.as(FindFirewall, bad, err.Error(), ""))
				continue
			}
			cctx, cancel := cleanup(ctx)
			_ = release(cctx)
			cancel()
		}
		if pub.walls == nil {
			if add := byHand(ctx, flow.First, path.CallbackFrom); len(add) > 0 {
				p.add(f.as(FindFirewall, Notice, "this host has a firewall, which is left alone and may keep the target out", "open it by: "+strings.Join(add, "; ")+"; or have it opened (Config.OpenFirewall)"))
			}
		}
		advice := "let it through on every firewall in between"
		if web := p.web(); web != "" {
			advice += "; where that cannot be, its own web page updates it: " + web
		}
		p.add(f.as(FindUntried, Notice, fmt.Sprintf("nobody can try for the device: it dials the manager at %s (%s)", f.Addr, flow.Purpose), advice))
	}
}

// web is the address of a device's own web page.
func (p *preflight) web() string {
	switch p.n.t.Kind {
	case OA, ILO, VC:
		host, _ := p.address()
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			return "https://" + net.JoinHostPort(host, strconv.Itoa(443)) + "/"
		}
		return "https://" + host + "/"
	}
	return ""
}
