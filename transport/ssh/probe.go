package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// probe finds out what the server offers, by one command where it has a shell, and
// fills in what Caps and Path return.
func (c *conn) probe(ctx context.Context) error {
	k, err := c.begin(ctx, "dial", "")
	if err != nil {
		return err
	}
	defer k.end()
	c.caps = transport.CapTunnelTCP
	if c.opts.Elevate == NoElevation {
		c.caps |= transport.CapTunnelUnix
	}
	out, files, err := k.probeShell()
	switch {
	case err == nil:
		c.shell = true
		c.caps |= transport.CapRun | transport.CapFiles
	case errors.Is(context.Cause(k.ctx), errSlow):
		return errQuiet // Dial says the rest
	case k.ctx.Err() != nil:
		return k.fail(err)
	case errors.Is(err, transport.ErrTimeout) && !files:
		return err
	case c.opts.Elevate != NoElevation && (errors.Is(err, transport.ErrAuth) || errors.Is(err, errors.ErrUnsupported)):
		return err
	case c.opts.Elevate != NoElevation:
		return &transport.Error{Op: "dial", Target: c.target, Kind: errors.ErrUnsupported, Err: err,
			Hint: "the target offers no shell, so that nothing can be elevated"}
	default:
		// What kept the command from running is no failure of the dial: there are
		// servers for files and for forwarding alone.
		c.noSh = err
		if _, err := c.sftp(k.ctx); err == nil {
			c.caps |= transport.CapFiles
		} else if k.ctx.Err() != nil {
			return k.fail(err)
		}
	}
	c.path = pathOf(c.line, out)
	return nil
}

// probeScript prints what a Path is made of.
const probeScript = `printf '%s' "$SSH_CONNECTION"`

// errQuiet is what there is to say where the time for connecting has gone by.
var errQuiet = errors.New("the login shell has not answered")

// probeShell runs a command to see whether there is a shell, and reports whether
// there is SFTP if a login shell has not answered for long. It may be busy with
// its start files; but there are servers for files alone that let a command hang.
func (k *call) probeShell() (out string, files bool, err error) {
	limit := k.c.opts.ConnectTimeout
	one := *k // ends alone
	one.ctx, one.cancel = context.WithCancelCause(k.ctx)
	defer one.cancel(nil)
	one.patience = limit / 4 * 3
	answered := make(chan struct{})
	k.c.bg.Go(func() {
		defer close(answered)
		out, err = one.elevated()
	})
	early := time.NewTimer(limit / 4)
	defer early.Stop()
	select {
	case <-answered:
		return out, false, err
	case <-early.C:
	}
	var s *sftpClient
	if k.c.opts.Elevate == NoElevation {
		s, _ = k.c.sftp(one.ctx)
	}
	<-answered
	return out, s != nil, err
}

// elevated runs the probe's script. If sudo refuses without having asked for the
// password, it is tried once more with a terminal, for the sake of "Defaults
// requiretty" in sudoers, and the connection remembers what helped.
func (k *call) elevated() (string, error) {
	out, err := k.script(probeScript)
	var plain, withTerminal *refusal
	if !errors.As(err, &plain) || errors.Is(err, errors.ErrUnsupported) {
		return out, err
	}
	k.c.terminal = true
	out, second := k.script(probeScript)
	if second == nil || !errors.Is(second, errors.ErrUnsupported) || !errors.As(second, &withTerminal) {
		return out, second
	}
	k.c.terminal = false
	user := k.c.ssh.User()
	return "", &transport.Error{Op: k.op, Target: k.c.target, Kind: transport.ErrElevation, Code: transport.CodeOf(err),
		Err: fmt.Errorf("%w; on a terminal: %w", plain, withTerminal),
		Hint: fmt.Sprintf("sudo wants a password (Options.SudoPassword), or does not let %s in, or wants a terminal: "+
			"then install script (util-linux) on the target, or add \"Defaults:%s !requiretty\" to its sudoers", user, user)}
}

// pathOf puts together the addresses of the line and those that the server put
// into SSH_CONNECTION: client address and port, server address and port.
func pathOf(nc net.Conn, connection string) transport.Path {
	var p transport.Path
	p.Local, p.Remote = addrPort(nc.LocalAddr()), addrPort(nc.RemoteAddr())
	if !p.Local.IsValid() || !p.Remote.IsValid() {
		p.Local, p.Remote = netip.AddrPort{}, netip.AddrPort{}
	}
	var client, server string
	var cport, sport int
	if _, err := fmt.Sscan(connection, &client, &cport, &server, &sport); err == nil {
		p.SeenAs = addr(client)
	}
	from := p.Remote.Addr()
	if !from.IsValid() {
		from = addr(server)
	}
	if from.IsValid() {
		from = from.WithZone("")
		p.CallbackFrom = []netip.Prefix{netip.PrefixFrom(from, from.BitLen())}
	}
	return p
}

func addr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok || t.Port == 0 {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
