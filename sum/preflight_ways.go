package sum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

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
	p.wayBack(ctx, conn, look)
}

// short is a context for one question.
func short(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callLimit)
}

// wayTo has the target listen where its agent will, and dials that. 0 is a port to
// which the conversation would move.
func (p *preflight) wayTo(ctx context.Context, conn transport.Conn, look agent.Inspector, port uint16) {
	if !conn.Path().Remote.IsValid() {
		p.add(toPort(port, "").as(FindUntried, Notice, "the connection does not know the target's own address, as behind a jump host: the agent is reached through it", ""))
		return
	}
	bad, add := Notice, p.addSample // it stays at the first one
	if port != 0 {
		bad, add = Blocks, p.add
	}
	if have := p.agentPort(); have != 0 { // it is there
		if port != 0 {
			f := toPort(have, hostPort(peerOf(conn), have))
			_, err := p.dialAgent(ctx, f.Addr)
			f.Err = err
			p.add(f.reached(agent.HowReached(err), "", bad))
		}
		return
	}
	greeting := newID()
	opts := agent.ListenOptions{Port: port, Next: true, Greeting: greeting}
	if p.n.s.cfg.OpenFirewall {
		a := conn.Path().SeenAs.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() {
			add(toPort(port, "").as(FindFirewall, bad, "the connection does not tell for whom the target's firewall is to be opened", "open the port there by hand, and leave the firewalls alone"))
			return
		}
		opts.Firewall = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	lctx, cancel := short(ctx)
	l, err := look.Listen(lctx, opts)
	cancel()
	f := toPort(port, "")
	f.Err = err
	switch {
	case err == nil:
	case errors.Is(err, agent.ErrFirewall):
		advice := "put that right on the target, or open the port there by hand and leave the firewalls alone"
		if denied(err) {
			advice = "log in as root, or open the port there by hand and leave the firewalls alone"
		}
		add(f.as(FindFirewall, bad, err.Error(), advice))
		return
	case len(opts.Firewall) > 0 && errors.Is(err, errors.ErrUnsupported):
		add(f.as(FindUntried, Notice, "nobody on the target can listen, or open its firewall: "+err.Error(), ""))
		return
	case errors.Is(err, errors.ErrUnsupported):
		add(f.as(FindUntried, Notice, "nobody on the target can listen", ""))
		return
	default:
		add(f.as(FindFailed, bad, "the target cannot listen: "+err.Error(), ""))
		return
	}
	f = toPort(l.Port, hostPort(peerOf(conn), l.Port))
	if l.Taken != "" {
		p.add(toPort(port, "").as(FindTaken, Notice, fmt.Sprintf("the agent would listen on %d: %s", l.Port, l.Taken), "another manager's agent may be at work there"))
	}
	got, err := p.dialAgent(ctx, f.Addr)
	switch {
	case err == nil && got == greeting:
		add(f.reached(agent.ReachedPeer, "", bad))
	case err == nil:
		add(f.as(FindService, bad, fmt.Sprintf("something else answers at %s: %.40q", f.Addr, got), "a NAT or a proxy may be in between"))
	default:
		f.Err = err
		add(f.reached(agent.HowReached(err), "from the manager's ports 60000 and up", bad))
	}
	uctx, cancel := short(ctx)
	defer cancel()
	if err := look.Unlisten(uctx, l); err != nil && ctx.Err() == nil {
		p.add(toPort(l.Port, "").as(FindFailed, Notice, "the target may listen a moment longer: "+err.Error(), ""))
	}
}

// addSample adds a finding of one of the ports to which the conversation may move.
func (p *preflight) addSample(f Finding) {
	f.Sample = true
	if f.Severity != Passed {
		f.Text += " (a sample of the ports 1025 to 65535, to one of which the conversation would move)"
		f.Advice = "nothing has to be done: it stays at the first port then; to have it move, let the manager through to all of them"
	}
	p.add(f)
}

// agentPort is the TCP port of the node's agent, or 0.
func (p *preflight) agentPort() uint16 {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	if p.n.ag == nil || p.n.place == nil {
		return 0
	}
	return tcpPort(p.n.place.Addr)
}

// dialAgent dials from the ports that the agent will be dialled from.
func (p *preflight) dialAgent(ctx context.Context, addr string) (string, error) {
	c, err := p.dial(ctx, p.n.s.classic.dialer.DialContext, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(min(p.opts.Patience, 2*time.Second))) // to greet
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
		code := FindTaken
		if denied(err) {
			code = FindDenied
		}
		p.add(Finding{Err: err, Direction: ToManager, Protocol: "tcp", Port: p.firstBack()}.as(code, Notice, err.Error(), "jobs are asked for news instead"))
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
	dctx, cancel := short(ctx)
	defer cancel()
	r, err := look.Dial(dctx, netip.AddrPortFrom(path.SeenAs.Unmap().WithZone(""), port))
	if err != nil || r.How != agent.ReachedPeer {
		defer p.filters(ctx, c.walls) // behind the port's own finding
	}
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
			if text, open := leftAlone(ctx, port, path.CallbackFrom); text != "" {
				f.Advice += "; " + text + ": " + open
			}
		}
		p.add(f)
	}
}

// leftAlone says that this host's firewall, which a session leaves alone, may keep a
// target out, and how to open it. It says nothing where there is none.
func leftAlone(ctx context.Context, port uint16, from []netip.Prefix) (text, open string) {
	add, guessed := byHand(ctx, port, from)
	if len(add) == 0 {
		return "", ""
	}
	text = "this host has a firewall, which is left alone and may keep the target out"
	if guessed {
		text = "if this host has a firewall, which only root can see, it is left alone and may keep the target out"
	}
	return text, "open it by: " + strings.Join(add, "; ") + "; or have it opened (Config.OpenFirewall)"
}

// firstBack is the port on which agents are received, if it is free.
func (p *preflight) firstBack() uint16 {
	for _, f := range p.flows {
		if f.Direction == ToManager && f.Role == portalloc.TargetToManager {
			return f.First
		}
	}
	return 0
}

// greeter listens where agents will be received, for all targets that are tried at the
// time, as one port will serve them all.
type greeter struct {
	lease    *portalloc.Lease
	greeting string
	users    int
	done     chan struct{}
}

// receive listens where agents are received. Where the session does so already, that
// is the port, and there is no greeting.
func (p *preflight) receive(ctx context.Context, role portalloc.Role) (port uint16, greeting string, end func(), err error) {
	c := p.n.s.classic
	if err := c.turn.take(ctx); err != nil {
		return 0, "", nil, err
	}
	defer c.turn.give()
	own := c.cfg.Classic.PortPerTarget
	g := c.greeter
	if own || g == nil {
		c.mu.Lock()
		common := c.common[role]
		c.mu.Unlock()
		if common != nil && common.ended.Err() == nil {
			return common.lease.Port(), "", func() {}, nil
		}
		lease, err := c.ports.Listen(ctx, role, portalloc.Options{Addrs: c.cfg.Listen})
		if err != nil {
			return 0, "", nil, err
		}
		g = &greeter{lease: lease, greeting: newID(), done: make(chan struct{})}
		go func() {
			defer close(g.done)
			agent.Greet(lease, g.greeting)
		}()
		if !own {
			c.greeter = g
		}
	}
	g.users++
	return g.lease.Port(), g.greeting, func() {
		_ = c.turn.take(context.WithoutCancel(ctx)) // nobody keeps it for long
		defer c.turn.give()
		if g.users--; g.users > 0 {
			return
		}
		if c.greeter == g {
			c.greeter = nil
		}
		_ = g.lease.Close()
		<-g.done
	}, nil
}
