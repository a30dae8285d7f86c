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
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

const maxReady = 64 << 10 // bytes

// launch starts the agent that is in r.dir and connects to it.
func (r *run) launch(ctx context.Context) (*installed, error) {
	manager, theirs, err := channel.NewIdentity(r.opts.Target)
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	nonce := channel.NewJobID()
	if err := r.putBootstrap(ctx, theirs, nonce); err != nil {
		return nil, err
	}
	out, exit, err := output(ctx, r.conn, r.name(agent.BinaryName), "start", "-dir", r.dir)
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	if exit.Code != 0 || exit.Signal != "" {
		if gone := r.vanished(ctx); gone != nil {
			return nil, gone
		}
		return nil, &agent.Error{Op: "start", Target: r.opts.Target, Kind: agent.ErrStart, Code: exitCode(exit),
			Err: fmt.Errorf("%.2000s", bytes.TrimSpace(out)), Hint: "see " + r.name(agent.LogName)}
	}
	ready, err := r.ready(ctx, nonce)
	if err != nil {
		return nil, err
	}
	place := r.place()
	place.Addr = ready.Addr
	if err := r.opened(ctx, place); err != nil {
		return nil, err
	}
	d := &dialer{run: r, ready: ready}
	client, err := agent.NewClient(ctx, agent.ClientOptions{Target: r.opts.Target, Credentials: manager, Dial: d.dial, Epoch: ready.Epoch, Logger: r.in.Logger})
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	return &installed{Client: client, in: r.in, conn: r.conn, target: r.opts.Target, place: place}, nil
}

func (r *run) putBootstrap(ctx context.Context, theirs *channel.AgentCredentials, nonce string) error {
	credentials, err := theirs.MarshalBootstrap()
	if err != nil {
		return r.fail(nil, err, "")
	}
	network := r.in.Network
	if network == "" {
		network = "unix"
	}
	data, err := json.Marshal(agent.Bootstrap{
		Version: 1, Nonce: nonce, Target: r.opts.Target, Credentials: credentials,
		// A lease that is not whole seconds is rounded up: it must not become 0,
		// which is the default.
		LeaseSeconds: int((max(r.opts.Lease, 0) + time.Second - 1) / time.Second),
		Network:      network, Listen: r.in.Listen, AllowForeign: r.in.AllowForeign,
	})
	if err != nil {
		return r.fail(nil, err, "")
	}
	_, err = transport.Put(ctx, r.conn, r.name(agent.BootstrapName), transport.BytesFile(agent.BootstrapName, data), transport.PutOptions{Mode: 0o600})
	if err != nil {
		return r.fail(nil, err, "")
	}
	return nil
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
	case ready.Network != "unix" && ready.Network != "tcp", ready.Addr == "",
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
	if d.ready.Network == "tcp" {
		return d.dialTCP(ctx)
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
	host, port := listen.Addr().Unmap(), strconv.Itoa(int(listen.Port()))
	remote := conn.Path().Remote
	switch {
	case remote.IsValid() && !remote.Addr().IsUnspecified():
		host = remote.Addr().Unmap()
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
	c, err := dial(ctx, "tcp", net.JoinHostPort(host.String(), port))
	if err != nil {
		return nil, &transport.Error{Op: "dial", Target: d.run.opts.Target, Path: d.ready.Addr, Kind: transport.ErrUnreachable, Err: err,
			Hint: "the firewall of the target must let the manager reach TCP port " + port}
	}
	return c, nil
}
