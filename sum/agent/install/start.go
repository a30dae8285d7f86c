package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

const (
	maxReady = 64 << 10 // bytes
	moveTime = 15 * time.Second
	dialTime = 15 * time.Second // to connect to a port of the agent's own

	opDialAgent = "dial the agent"
)

// way is how one agent is reached, and reaches the manager.
type way struct {
	*run
	callback []string // where the agent reaches the manager
	release  func()   // of Classic.Callback
	once     sync.Once
}

func (w *way) close() {
	w.once.Do(func() {
		if w.release != nil {
			w.release()
		}
	})
}

// start runs the agent on a target that runs programs.
func (r *way) start(ctx context.Context, manager *channel.ManagerCredentials, theirs *channel.AgentCredentials) (*installed, error) {
	if err := r.receive(ctx, manager); err != nil {
		return nil, r.fail(nil, err, "")
	}
	credentials, err := theirs.MarshalBootstrap()
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	boot := agent.Bootstrap{Nonce: channel.NewJobID(), Credentials: credentials, Network: "unix"}
	if err := r.putBootstrap(ctx, boot); err != nil {
		return nil, err
	}
	log, err := r.logSize(ctx)
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	out, exit, err := output(ctx, r.conn, r.name(agent.BinaryName), "start", "-dir", r.dir)
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	if exit.Code != 0 || exit.Signal != "" {
		if gone := r.vanished(ctx); gone != nil {
			return nil, gone
		}
		if exit.Code == agent.ExitNoSpace {
			return nil, &agent.Error{Op: "start", Target: r.opts.Target, Kind: agent.ErrStart, Code: exitCode(exit),
				Err: fmt.Errorf("%w: %.2000s", transport.ErrNoSpace, bytes.TrimSpace(out)), Hint: "make room on the file system of " + r.dir}
		}
		return nil, &agent.Error{Op: "start", Target: r.opts.Target, Kind: agent.ErrStart, Code: exitCode(exit),
			Err: fmt.Errorf("%.2000s", bytes.TrimSpace(out)), Hint: r.seeLog(r.name(agent.LogName))}
	}
	ready, err := r.ready(ctx, boot.Nonce)
	if err != nil {
		return nil, err
	}
	a, err := r.connect(ctx, manager, ready)
	if err != nil && ctx.Err() == nil {
		if said := r.served(ctx, log); said != "" {
			err = r.withLastWords(ctx, err, "the agent had begun, and wrote", said)
		}
	}
	return a, err
}

// receive gets the manager ready for what the agent tells it of itself.
func (r *way) receive(ctx context.Context, manager *channel.ManagerCredentials) (err error) {
	if c := r.opts.Classic; c != nil && c.Callback != nil {
		r.callback, r.release, err = c.Callback(ctx, manager)
	}
	return err
}

// connect connects to the agent, which has said that it is ready.
func (r *way) connect(ctx context.Context, manager *channel.ManagerCredentials, ready agent.Ready) (*installed, error) {
	if len(ready.Swept) > 0 {
		r.in.log().InfoContext(ctx, "removed what dead agents of other managers had left", "target", r.opts.Target, "removed", ready.Swept)
	}
	place := r.place()
	place.Addr = ready.Addr
	if err := r.opened(ctx, place); err != nil {
		return nil, err
	}
	client, err := r.client(ctx, manager, ready)
	if err != nil {
		return nil, r.unreached(ctx, err)
	}
	if c := r.opts.Classic; c != nil && !c.Stay {
		if client, place.Addr, err = r.move(ctx, client, manager, ready); err == nil {
			err = r.opened(ctx, place)
		}
		if err != nil {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
			defer cancel()
			_ = client.Close(cctx)
			return nil, r.unreached(ctx, err)
		}
	}
	return &installed{Client: client, way: r, place: place}, nil
}

// unreached tells a port that nobody can dial from a line that was lost: it is no use
// to dial that again, and the operator has to know which one it is.
func (r *way) unreached(ctx context.Context, err error) error {
	var dial *transport.Error
	if !errors.As(err, &dial) || dial.Kind != transport.ErrUnreachable || dial.Op != opDialAgent || ctx.Err() != nil {
		return r.fail(nil, err, "")
	}
	if _, lost := transport.Stat(ctx, r.conn, r.dir); lost != nil && stops(ctx, lost) {
		return r.fail(nil, lost, "") // so it is the line after all
	}
	return r.fail(transport.ErrUnreachable, dial, "")
}

func (r *way) client(ctx context.Context, manager *channel.ManagerCredentials, ready agent.Ready) (*agent.Client, error) {
	d := &dialer{run: r.run, ready: ready}
	return agent.NewClient(ctx, agent.ClientOptions{Target: r.opts.Target, Credentials: manager, Dial: d.dial, Epoch: ready.Epoch, Logger: r.in.Logger})
}

// move takes the conversation to a port of its own. Where that one cannot be
// reached, it stays: only a firewall in between that knows the first port alone
// must not stop an update.
func (r *way) move(ctx context.Context, first *agent.Client, manager *channel.ManagerCredentials, ready agent.Ready) (*agent.Client, string, error) {
	stay := func(err error) (*agent.Client, string, error) {
		if ctx.Err() != nil {
			return first, "", err
		}
		r.in.log().WarnContext(ctx, "the conversation stays at the agent's first port, where a port scanner may disturb it",
			"target", r.opts.Target, "addr", ready.Addr, "err", err)
		return first, ready.Addr, nil
	}
	port, err := first.Move(ctx, false)
	if err != nil {
		return stay(err)
	}
	listen, err := netip.ParseAddrPort(ready.Addr)
	if err != nil {
		return stay(err)
	}
	there := ready
	there.Addr = netip.AddrPortFrom(listen.Addr(), port).String()
	dctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	next, err := r.client(dctx, manager, there)
	if err != nil {
		return stay(err)
	}
	if _, err = next.Move(dctx, true); err != nil {
		// The agent may have closed the first port by now.
		_ = next.Close(ctx)
		return first, "", &agent.Error{Op: "start", Target: r.opts.Target, Kind: transport.ErrConnLost, Err: err}
	}
	_ = first.Close(ctx)
	r.in.log().DebugContext(ctx, "the conversation has moved", "target", r.opts.Target, "addr", there.Addr)
	return next, there.Addr, nil
}

// putBootstrap leaves the agent what it begins with: b has the nonce, who the manager is,
// and the network of a target whose agent has no port.
func (r *way) putBootstrap(ctx context.Context, b agent.Bootstrap) error {
	walls, err := r.walls()
	if err != nil {
		return r.fail(nil, err, "")
	}
	if r.opts.Classic != nil || r.in.Network == "tcp" {
		b.Network = "tcp"
	}
	b.Version, b.Target = 1, r.opts.Target
	// A lease that is not whole seconds is rounded up: it must not become 0, which is the
	// default.
	b.LeaseSeconds = int((max(r.opts.Lease, 0) + time.Second - 1) / time.Second)
	b.KeepLogsSeconds = keepSeconds(r.opts.KeepLogs)
	if b.Network == "tcp" {
		b.Listen = r.in.Listen
	}
	b.AllowForeign, b.Callback, b.Firewall = r.in.AllowForeign, r.callback, walls
	data, err := json.Marshal(b)
	if err != nil {
		return r.fail(nil, err, "")
	}
	_, err = transport.Put(ctx, r.conn, r.name(agent.BootstrapName), transport.BytesFile(agent.BootstrapName, data), transport.PutOptions{Mode: 0o600})
	if err != nil {
		return r.fail(nil, err, "")
	}
	return nil
}

// walls are who must get through the target's firewall to the agent: the manager, as
// the target sees it, unless the target itself dials the agent.
func (r *way) walls() ([]netip.Prefix, error) {
	if c := r.opts.Classic; c == nil || !c.OpenFirewall || !remoteKnown(r.conn) {
		return nil, nil
	}
	seen := r.conn.Path().SeenAs.Unmap().WithZone("")
	if !seen.IsValid() || seen.IsUnspecified() {
		return nil, &transport.Error{Op: "start", Target: r.opts.Target, Kind: transport.ErrInvalid,
			Err:  errors.New("the connection does not tell under which address the target sees the manager, and so not for whom its firewall is to be opened"),
			Hint: "leave the target's firewall alone (OpenFirewall), and open TCP port " + strconv.Itoa(agent.DefaultPort) + " there by hand"}
	}
	return []netip.Prefix{netip.PrefixFrom(seen, seen.BitLen())}, nil
}

// ready reads where the agent listens.
func (r *run) ready(ctx context.Context, nonce string) (agent.Ready, error) {
	var buf bytes.Buffer
	if _, err := transport.Get(ctx, r.conn, r.name(agent.ReadyName), &buf, transport.GetOptions{Limit: maxReady}); err != nil {
		return agent.Ready{}, r.fail(nil, err, "")
	}
	ready, err := parseReady(buf.Bytes(), nonce)
	if err != nil {
		return agent.Ready{}, r.fail(agent.ErrStart, fmt.Errorf("%s: %w", agent.ReadyName, err), "another manager may use the same ID")
	}
	return ready, nil
}

// parseReady checks what the target says of the agent that was started with nonce.
func parseReady(data []byte, nonce string) (agent.Ready, error) {
	var ready agent.Ready
	err := json.Unmarshal(data, &ready)
	switch {
	case err != nil:
	case ready.Version != 1:
		err = fmt.Errorf("version %d is not known", ready.Version)
	case ready.Nonce != nonce:
		err = errors.New("it was written by another start")
	case ready.Network != "unix" && ready.Network != "tcp" && ready.Network != "pipe", ready.Addr == "",
		ready.Network == "unix" && !path.IsAbs(ready.Addr):
		err = fmt.Errorf("network %.20q, address %.200q", ready.Network, ready.Addr)
	}
	return ready, err
}

// dialer connects to an agent. It remembers the way that worked.
type dialer struct {
	run     *run
	ready   agent.Ready
	command atomic.Bool // the server forbids forwarding
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	conn := d.run.conn
	switch d.ready.Network {
	case "tcp":
		return d.dialTCP(ctx)
	case "pipe":
		return transport.Dial(ctx, conn, "pipe", agent.PipeName(d.run.opts.ID))
	}
	var refused error
	if !d.command.Load() {
		c, err := transport.Dial(ctx, conn, "unix", d.ready.Addr)
		if err == nil || ctx.Err() != nil || errors.Is(err, transport.ErrConnLost) || errors.Is(err, transport.ErrClosed) {
			return c, err
		}
		// Forbidden, not offered, or the login is not the user of the agent.
		refused = err
	}
	c, err := transport.DialCommand(ctx, conn, transport.Command{
		Argv: []string{d.run.name(agent.BinaryName), "connect", "-socket", d.ready.Addr},
	})
	if err != nil {
		if refused != nil {
			err = fmt.Errorf("%w (before that, forwarding: %v)", err, refused)
		}
		return nil, err
	}
	if refused != nil && (errors.Is(refused, errors.ErrUnsupported) || errors.Is(refused, transport.ErrRejected)) {
		d.command.Store(true)
	}
	return c, nil
}

// remoteKnown reports whether a connection knows the target's address.
func remoteKnown(conn transport.Conn) bool {
	remote := conn.Path().Remote
	return remote.IsValid() && !remote.Addr().IsUnspecified()
}

// dialTCP dials the agent's port on the target's own address. Where the
// connection does not know that, as behind a jump host, the target itself dials:
// what the agent says of its address means nothing on the manager, where it might
// even be the manager's own.
func (d *dialer) dialTCP(ctx context.Context) (net.Conn, error) {
	listen, err := netip.ParseAddrPort(d.ready.Addr)
	if err != nil || listen.Port() == 0 {
		return nil, &transport.Error{Op: "dial", Target: d.run.opts.Target, Path: d.ready.Addr, Kind: transport.ErrProtocol, Err: err,
			Hint: "the agent must say at which IP address and port it listens"}
	}
	conn, dial := d.run.conn, d.run.in.DialContext
	if c := d.run.opts.Classic; dial == nil && c != nil && remoteKnown(conn) {
		dial = c.Dial
	}
	host, port := listen.Addr().Unmap(), strconv.Itoa(int(listen.Port()))
	switch {
	case remoteKnown(conn):
		host = conn.Path().Remote.Addr().Unmap()
		if dial == nil {
			dial = (&net.Dialer{}).DialContext
		}
	case dial == nil:
		if host.IsUnspecified() {
			host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return transport.Dial(ctx, conn, "tcp", net.JoinHostPort(host.String(), port))
	case host.IsUnspecified():
		return nil, &transport.Error{Op: "dial", Target: d.run.opts.Target, Path: d.ready.Addr, Kind: transport.ErrInvalid,
			Hint: "the connection does not know the target's address: give Installer.Listen the one to dial"}
	}
	dctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := dial(dctx, "tcp", net.JoinHostPort(host.String(), port))
	if err != nil {
		if dctx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("no answer within %v", dialTime) // not the caller's deadline
		}
		hint := "firewalls, that of the target among them, must let the manager reach TCP port " + port
		if d.run.opts.Classic != nil {
			hint += ", from its ports 60000 and up"
		}
		return nil, &transport.Error{Op: opDialAgent, Target: d.run.opts.Target, Path: net.JoinHostPort(host.String(), port), Kind: transport.ErrUnreachable, Err: err, Hint: hint}
	}
	return c, nil
}
