package sum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// ClassicOptions are for the generation Classic. The zero value is ready.
type ClassicOptions struct {
	// PortPerTarget receives the agent of each target on ports of its own, from 61000
	// up for the first contact; else one port serves the first contact of all, and
	// one the conversations that have moved.
	PortPerTarget bool
	// Stay leaves the conversations, in both directions, at the ports of the first
	// contact, for firewalls that know only those. Else each moves to a port above
	// 1024 that nobody can foresee.
	//
	// A target has one such port: the agent of a second manager, or one beside an agent
	// that a killed run left, gets the next, which such firewalls do not know. So let
	// one manager at a time work on a target; the error of another says who is there.
	// Without Stay the port is free again as soon as a conversation has moved.
	Stay bool
	// OpenRule, if set, is asked to let a target through the manager's firewall to a
	// TCP port, before the target is told of the port; release takes that back. ctx is
	// for the asking alone: the rule lasts until release. It is asked once for each
	// target and start of its agent, also for a port that it was asked for before,
	// and of targets behind one NAT with the same from: whoever keys rules by port
	// must count. A manager that is killed releases nothing.
	//
	// An error leaves the target without a way back, or at the port of the first
	// contact, and its jobs are asked for instead; it should say which rule to add. It
	// is called concurrently.
	OpenRule func(ctx context.Context, port uint16, from []netip.Prefix) (release func(context.Context) error, err error)
}

func (o ClassicOptions) set() bool { return o.PortPerTarget || o.Stay || o.OpenRule != nil }

// ports is the same generation of the manager's own ports.
func (g Generation) ports() portalloc.Generation {
	if g == Classic {
		return portalloc.Classic
	}
	return portalloc.Current
}

// classic receives the agents of a session in the generation Classic.
type classic struct {
	cfg       Config
	log       *slog.Logger
	ports     *portalloc.Allocator
	walls     *walls
	dialer    *portalloc.Dialer
	callbacks *channel.Callbacks
	turn      turn     // to open a port for all
	greeter   *greeter // of Preflight; guarded by turn

	ctx    context.Context // of what is served
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	common map[portalloc.Role]*gate // for all targets
}

func newClassic(cfg Config, ports *portalloc.Allocator) (*classic, error) {
	dialer, err := ports.Dialer(portalloc.DialOptions{})
	if err != nil {
		return nil, fmt.Errorf("%w: Config.Ports: %w", ErrInvalid, err)
	}
	c := &classic{
		cfg: cfg, log: cfg.Logger, ports: ports, dialer: dialer, callbacks: &channel.Callbacks{Logger: cfg.Logger},
		turn: make(turn, 1), common: map[portalloc.Role]*gate{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// close ends what is received. The nodes are closed before.
func (c *classic) close(ctx context.Context) error {
	if c == nil {
		return nil
	}
	err := c.callbacks.Close(ctx)
	c.cancel()
	c.wg.Wait()
	return err
}

// gate is a port on which agents are received.
type gate struct {
	lease *portalloc.Lease
	shut  context.CancelFunc
	ended context.Context // done when nobody is received any more
}

// open opens a port, for the agents that only are about, or for all.
func (c *classic) open(ctx context.Context, role portalloc.Role, only ...*channel.ManagerCredentials) (*gate, error) {
	lease, err := c.ports.Listen(ctx, role, portalloc.Options{Addrs: c.cfg.Listen})
	if err != nil {
		return nil, err
	}
	sctx, shut := context.WithCancel(c.ctx)
	ended, end := context.WithCancel(context.Background())
	g := &gate{lease, shut, ended}
	c.wg.Go(func() {
		defer end()
		err := c.callbacks.Serve(sctx, lease, only...) // closes lease
		if sctx.Err() == nil && !errors.Is(err, channel.ErrClosed) {
			c.log.Error("agents are no longer received: they are asked instead", "port", lease.Port(), "err", err)
		}
		shut()
	})
	return g, nil
}

// gate returns a port of a role: one for all targets, or one for the agent that m
// is about, which the caller shuts.
func (c *classic) gate(ctx context.Context, role portalloc.Role, m *channel.ManagerCredentials) (g *gate, own bool, err error) {
	if c.cfg.Classic.PortPerTarget {
		g, err = c.open(ctx, role, m)
		return g, true, err
	}
	if err := c.turn.take(ctx); err != nil {
		return nil, false, err
	}
	defer c.turn.give()
	c.mu.Lock()
	g = c.common[role]
	c.mu.Unlock()
	if g != nil && g.ended.Err() == nil {
		return g, false, nil
	}
	if g, err = c.open(ctx, role); err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	c.common[role] = g
	c.mu.Unlock()
	return g, false, nil
}

// options are what an Installer needs for the agent of a node.
func (c *classic) options(n *Node, conn transport.Conn) *agent.Classic {
	if c == nil {
		return nil
	}
	return &agent.Classic{
		Dial: c.dialer.DialContext, Stay: c.cfg.Classic.Stay, OpenFirewall: c.cfg.OpenFirewall,
		Callback: func(ctx context.Context, m *channel.ManagerCredentials) ([]string, func(), error) {
			n.setBack(nil)
			addr, release, err := c.receive(ctx, n, conn.Path(), m)
			if err == nil {
				return []string{addr}, release, nil
			}
			if ctx.Err() != nil {
				return nil, nil, err
			}
			// Nothing depends on the way back: what comes over it can be asked for.
			c.log.WarnContext(ctx, "the target cannot tell of news and is asked for them", "target", n.t.key(), "err", err)
			return nil, nil, nil
		},
	}
}

// wayBack is where an agent finds the manager, and from where it comes.
func (c *classic) wayBack(n *Node, path transport.Path) (transport.Path, error) {
	if !path.Remote.IsValid() && c.cfg.Way == nil {
		return path, errors.New("the connection does not know the target's own address, as behind a jump host: only Config.Way can say where such a target finds the manager")
	}
	path, err := wayBack(c.cfg, n.t, path)
	if err == nil {
		err = needsZone(path.SeenAs)
	}
	return path, err
}

// needsZone returns an error for an address of the manager that a target could dial only
// with a zone.
func needsZone(seenAs netip.Addr) error {
	if !seenAs.Is6() || !seenAs.IsLinkLocalUnicast() {
		return nil
	}
	return fmt.Errorf("%v is link-local, and the manager cannot know the zone that it has on the target: let Config.Way give another address", seenAs)
}

// receive gets ready for the agent of a node and returns where the agent finds the
// manager.
func (c *classic) receive(ctx context.Context, n *Node, path transport.Path, m *channel.ManagerCredentials) (string, func(), error) {
	path, err := c.wayBack(n, path)
	if err != nil {
		return "", nil, err
	}
	g, own, err := c.gate(ctx, portalloc.TargetToManager, m)
	if err != nil {
		return "", nil, err
	}
	r := &receiver{c: c, n: n, m: m, from: path.CallbackFrom}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	if own {
		r.give(func(context.Context) error { g.shut(); return nil })
	}
	if err := r.rule(ctx, g.lease.Port()); err != nil {
		r.release()
		return "", nil, err
	}
	remove, err := c.callbacks.Add(n.t.key(), m, r)
	if err != nil {
		r.release()
		return "", nil, err
	}
	r.give(func(context.Context) error { remove(); return nil })
	r.back.addr = net.JoinHostPort(path.SeenAs.Unmap().WithZone("").String(), strconv.Itoa(int(g.lease.Port())))
	r.back.since, r.back.calls = time.Now(), make(chan struct{})
	n.setBack(&r.back)
	return r.back.addr, r.release, nil
}

// receiver is what the agent of one node calls.
type receiver struct {
	c    *classic
	n    *Node
	m    *channel.ManagerCredentials
	from []netip.Prefix
	back backWay

	ctx    context.Context // ends with release
	cancel context.CancelFunc

	mu     sync.Mutex
	given  []func(context.Context) error // to be given back, last first
	closed bool
	tried  bool  // to move
	moved  *gate // where the agent was told to go
}

var _ channel.CallbackHandler = (*receiver)(nil)

// give has something given back by release, or at once if that was called already.
func (r *receiver) give(back func(context.Context) error) {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.given = append(r.given, back)
	}
	r.mu.Unlock()
	if closed {
		r.giveBack(back)
	}
}

func (r *receiver) giveBack(list ...func(context.Context) error) {
	ctx, cancel := cleanup(context.Background())
	defer cancel()
	for i := len(list) - 1; i >= 0; i-- {
		if err := list[i](ctx); err != nil {
			r.c.log.Error("giving back a port of the classic generation", "target", r.n.t.key(), "err", err)
		}
	}
}

// rule opens the firewall for a port.
func (r *receiver) rule(ctx context.Context, port uint16) error {
	open := r.c.cfg.Classic.OpenRule
	if open == nil {
		open = r.c.walls.allow
	}
	release, err := open(ctx, port, r.from)
	if err != nil {
		return fmt.Errorf("no firewall rule for TCP port %d: %w", port, err)
	}
	if release != nil {
		r.give(release)
	}
	return nil
}

// release gives everything back. It does not wait for calls of the agent, which
// give back by themselves what they get after it.
func (r *receiver) release() {
	r.mu.Lock()
	given := r.given
	r.given, r.closed = nil, true
	r.mu.Unlock()
	r.cancel()
	r.giveBack(given...)
}

// Contact implements channel.CallbackHandler.
func (r *receiver) Contact(context.Context, *channel.ContactRequest) (*channel.ContactResponse, error) {
	r.back.contacted()
	r.mu.Lock()
	try := !r.c.cfg.Classic.Stay && !r.closed && (!r.tried || r.moved != nil && r.moved.ended.Err() != nil)
	if try {
		r.tried, r.moved = true, nil // once: what was refused will be again
	}
	r.mu.Unlock()
	if try {
		if err := r.move(); err != nil && r.ctx.Err() == nil {
			r.c.log.Warn("news of the target come on the port of the first contact, where a port scanner may disturb them", "target", r.n.t.key(), "err", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved == nil || r.closed {
		return &channel.ContactResponse{}, nil
	}
	return &channel.ContactResponse{Port: uint32(r.moved.lease.Port())}, nil
}

// move opens a port to which the agent is told to go.
func (r *receiver) move() error {
	g, own, err := r.c.gate(r.ctx, portalloc.Dynamic, r.m)
	if err != nil {
		return err
	}
	if own {
		r.give(func(context.Context) error { g.shut(); return nil })
	}
	if err := r.rule(r.ctx, g.lease.Port()); err != nil {
		if own {
			g.shut()
		}
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved = g
	return nil
}

// Report implements channel.CallbackHandler.
func (r *receiver) Report(_ context.Context, q *channel.ReportRequest) (*channel.ReportResponse, error) {
	r.back.contacted()
	r.n.mu.Lock()
	watched := r.n.watched
	r.n.mu.Unlock()
	if q.JobID == watched {
		select {
		case r.n.news <- struct{}{}:
		default:
		}
	}
	return &channel.ReportResponse{}, nil
}

// backWay is what is known of the way back from one agent.
type backWay struct {
	addr  string // of the manager, as the target was told
	since time.Time

	mu       sync.Mutex
	calls    chan struct{} // closed when it is reached
	reached  bool
	reported bool // that it is not
}

func (b *backWay) contacted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.reached {
		close(b.calls)
	}
	b.reached = true
}

// setBack sets the way back of the agent that the node has now; nil is none.
func (n *Node) setBack(b *backWay) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.back = b
}

// setWatched says of which job news are wanted.
func (n *Node) setWatched(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watched = id
}

// wayBack returns the way back of the node's agent, which may be nil.
func (n *Node) wayBack() *backWay {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.back
}

// tells reports whether the target tells of news by itself.
func (b *backWay) tells() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reached
}

// blocked returns, once, the address of the manager that the target has not reached
// though it has had patience to.
func (b *backWay) blocked(patience time.Duration) string {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reached || b.reported || time.Since(b.since) < patience {
		return ""
	}
	b.reported = true
	return b.addr
}

// endPatience is how long a target must have had to call by the end of a job. One that
// ends sooner waits for that, once: else a site whose jobs are short would never hear
// of a blocked way back.
const endPatience = 3 * time.Second

// await waits until the target has called, or has had patience to.
func (b *backWay) await(ctx context.Context, patience time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	settled, left := b.reached || b.reported, patience-time.Since(b.since)
	b.mu.Unlock()
	if settled || left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-b.calls:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// sayBlocked says, once, that the target has not called by now.
func (n *Node) sayBlocked(ctx context.Context, component string, patience time.Duration, opts DeployOptions) {
	addr := n.wayBack().blocked(patience)
	if addr == "" {
		return
	}
	text := "the target has not reached the manager at " + addr + ", TCP: a firewall or a missing route may block the way back; it is asked for news instead"
	n.s.log.WarnContext(ctx, text, "target", n.t.key())
	opts.event(n, component, "callback", func(e *Event) { e.Text = text })
}
