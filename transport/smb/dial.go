package smb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
)

// Dial implements transport.Transport. It logs in and connects to Options.Share.
func (t *Transport) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	refuse := func(kind error, hint string) (transport.Conn, error) {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: kind, Hint: hint}
	}
	opts, err := options(ep)
	if err != nil {
		return refuse(transport.ErrInvalid, err.Error())
	}
	host, port, err := ep.HostPort(Port)
	if err != nil {
		return nil, err
	}
	who, err := accountOf(ep, opts)
	switch {
	case err != nil:
		return refuse(transport.ErrInvalid, err.Error())
	case ep.Object != "":
		return refuse(transport.ErrInvalid, "a Windows server has no object")
	case !ep.Trust.IsZero():
		return refuse(transport.ErrTrust, "a server shows no key over SMB, so a Trust cannot be checked: it proves itself by what the login knows, see the package documentation")
	case opts.Kerberos:
		return refuse(errors.ErrUnsupported, "this driver has no Kerberos, and does not use NTLM in its place unless asked to")
	}
	if err := ctx.Err(); err != nil {
		return refuse(err, "")
	}
	d := &dial{t: t, opts: opts, target: ep.Address, host: host, port: port, who: who, named: port != Port || hasPort(ep)}
	dctx, cancel := context.WithTimeoutCause(ctx, opts.ConnectTimeout, errConnect)
	defer cancel()
	c, err := d.run(dctx)
	if err != nil {
		return nil, d.fail(ctx, dctx, err)
	}
	return c, nil
}

// hasPort reports whether the address names a port.
func hasPort(ep transport.Endpoint) bool {
	_, port, err := ep.HostPort(1)
	return err == nil && port != 1
}

// errConnect is the cause when connecting took too long.
var errConnect = errors.New("no answer in time")

// dial is one Dial.
type dial struct {
	t      *Transport
	opts   Options
	target string
	host   string
	port   uint16
	named  bool // the address names the port
	who    account
	hello  greeting
	// reached is the name or address by which the host was reached.
	reached string
}

func (d *dial) fail(ctx, dctx context.Context, err error) error {
	e := &transport.Error{Op: "dial", Target: d.target}
	var dns *net.DNSError
	noName := errors.As(err, &dns)
	if ctx.Err() == nil && errors.Is(context.Cause(dctx), errConnect) {
		e.Kind, e.Err = transport.ErrTimeout, errConnect
		if noName {
			e.Err, e.Hint = err, d.hintName(dns)
			return e
		}
		e.Hint = fmt.Sprintf("the host does not answer, or something on the way swallows what is sent to TCP port %d", d.port)
		return e
	}
	if ctx.Err() != nil {
		return transport.ContextError(ctx, "dial", d.target, err)
	}
	if d.port == sessionService { // to which it may have come by itself
		e.Target = net.JoinHostPort(d.host, strconv.Itoa(sessionService))
	}
	var te *transport.Error
	var op *net.OpError
	switch {
	case errors.As(err, &te):
	case noName:
		e.Kind, e.Err, e.Hint = transport.ErrUnreachable, err, d.hintName(dns)
		return e
	case errors.As(err, &op) && op.Op == "dial":
		e.Kind, e.Err = transport.ErrUnreachable, err
		if d.port == Port && !d.opts.NetBIOS {
			e.Hint = "is file sharing on, and TCP port 445 open? Older networks may have port 139 alone: Options.NetBIOS tries it"
		}
		return e
	}
	return explain(e, err)
}

// What can be done where a name leads to no address: before any port of the host matters.
const (
	hintNoName = "no host has this name: check how it is written, give it with its domain, or give an address instead"
	hintDNS    = "the name servers of this machine do not answer: mend that, try again later, or give an address instead"
)

func (d *dial) hintName(dns *net.DNSError) string {
	switch {
	case !dns.IsNotFound:
		return hintDNS
	case d.opts.NetBIOS && d.t.DialContext == nil && !isNetBIOSName(d.host):
		return hintNoName + "; it was not asked for by NetBIOS, whose names have no dots and 15 characters at most"
	}
	return hintNoName
}

// unnamed is the error where neither DNS nor NetBIOS has an address for a name. What counts
// is what DNS says: that a broadcast has no answer, as where nobody has the name, is no
// timeout of the host.
type unnamed struct{ dns, netbios error }

func (e *unnamed) Error() string {
	return fmt.Sprintf("%v; nor does NetBIOS know it (UDP port %d): %v", e.dns, nameService, e.netbios)
}

func (e *unnamed) Unwrap() error { return e.dns }

// run connects, logs in and mounts the share.
func (d *dial) run(ctx context.Context) (*conn, error) {
	if d.who == (account{}) {
		return dialNative(ctx, d.target, d.host, d.port, d.opts)
	}
	var c *conn
	err := d.connected(ctx, func(s *library) error {
		v, err := s.mount(d.opts.Share)
		if err != nil {
			_ = s.logoff()
			return &mountError{err}
		}
		c = newConn(d.target, d.opts, s, v)
		c.host, c.hello = d.host, d.hello
		c.silence = s.line.silence
		c.path = pathOf(s.line.Conn)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.again, c.aside, c.credential = d.again, d.aside(c.path), d.who.credential
	c.start()
	return c, nil
}

// mount connects to the share of Options.Share while ctx lasts. The operating system's own
// client cannot be interrupted, and waits for a minute for a host that does not answer;
// what is left behind ends then.
func (c *conn) mount(ctx context.Context) error {
	k, err := c.begin(ctx, "dial", "")
	if err != nil {
		return err
	}
	defer k.end()
	c.volume, err = lib(k, func() (volume, error) { return c.session.mount(c.opts.Share) }, nil)
	return err
}

// again logs in where d has, for another purpose.
func (d *dial) again(ctx context.Context) (s session, err error) {
	another := *d
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.ConnectTimeout, errConnect)
	defer cancel()
	err = another.connected(ctx, func(l *library) error {
		s = l
		return nil
	})
	if err != nil && errors.Is(context.Cause(ctx), errConnect) {
		err = &transport.Error{Kind: transport.ErrTimeout, Err: errConnect}
	}
	return s, err
}

// aside dials further ports of the host that was reached by path: of a name that several
// hosts have the same one has to answer.
func (d *dial) aside(path transport.Path) aside {
	host := d.reached
	if d.t.DialContext == nil && path.Remote.IsValid() {
		host = path.Remote.Addr().String()
	}
	return func(ctx context.Context, port uint16) (net.Conn, error) {
		return d.t.dialer()(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
}

// connected connects, logs in, and calls use, within the time of ctx.
func (d *dial) connected(ctx context.Context, use func(*library) error) error {
	tcp, err := d.connect(ctx)
	if err != nil {
		return err
	}
	d.hello = greeting{offered: d.opts.Dialect, began: time.Now()}
	l := newLine(tcp, &d.hello)
	// The library is not told of the context: what it is waiting for ends with the line.
	stop := context.AfterFunc(ctx, func() { l.hangUp(ctx.Err()) })
	_, err = guard(func() (any, error) {
		s, err := d.login(l)
		if err != nil {
			return nil, err
		}
		return nil, use(s)
	})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	why := l.ended()
	_ = l.Conn.Close()
	var bad *errFrame
	var te *transport.Error
	if errors.As(why, &bad) || errors.As(why, &te) {
		return why // of which the library says less
	}
	return d.explainLogin(err)
}

// login sets up the session.
func (d *dial) login(l *line) (*library, error) {
	var hash []byte // nil means that there is a password
	if d.who.hash != "" {
		hash = []byte(d.who.hash)
	}
	dialer := &smb2.Dialer{
		Negotiator: smb2.Negotiator{RequireMessageSigning: true, SpecifiedDialect: uint16(d.opts.Dialect)},
		Initiator: &smb2.NTLMInitiator{User: d.who.user, Password: d.who.password, Hash: hash, Domain: d.who.domain,
			TargetSPN: "cifs/" + d.host},
	}
	s, err := dialer.DialContext(context.Background(), l)
	if err != nil {
		return nil, err
	}
	if d.opts.RequireEncryption && !d.hello.encrypted {
		_ = s.Logoff()
		return nil, &transport.Error{Kind: transport.ErrTrust, Err: errors.New("the server does not encrypt the session"),
			Hint: "have the server require encryption for all shares (Set-SmbServerConfiguration -EncryptData $true): this driver cannot ask for it"}
	}
	return &library{s: s, line: l, host: uncHost(d.host)}, nil
}

// mountError is an error of the share, after a login that went well.
type mountError struct{ error }

func (e *mountError) Unwrap() error { return e.error }

// explainLogin says more of an error of the login.
func (d *dial) explainLogin(err error) error {
	var mount *mountError
	e := explain(&transport.Error{}, err)
	te, ok := e.(*transport.Error)
	if !ok {
		return e
	}
	own := *te
	switch {
	case errors.As(err, &mount):
		own.Path = d.opts.Share
		if own.Code.IsZero() && errors.Is(own.Kind, fs.ErrPermission) {
			own.Code, own.Hint = ntCode(statusAccessDenied), hintFilter
		}
	case own.Code.IsZero() && errors.Is(own.Kind, fs.ErrPermission):
		own.Kind, own.Code = transport.ErrAuth, ntCode(statusAccessDenied)
	case own.Code == ntCode(statusLogonFailure) && d.who.domain == "" && d.hello.computer != "" && !strings.Contains(d.who.user, "@"):
		own.Hint = fmt.Sprintf("check user and password of %s; a member of a domain takes an account without a domain for one of the domain: for one of the host itself give %s;%s, and LAB;%[3]s for one of the domain LAB",
			d.who.name(), d.hello.computer, d.who.user)
	case errors.Is(own.Kind, transport.ErrAuth) && own.Hint != "":
		own.Hint = "the account is " + d.who.name() + ": " + own.Hint
	case errors.Is(own.Kind, transport.ErrConnLost):
		own.Hint = fmt.Sprintf("the host ended the connection: it may speak no SMB %v, or serve something else on port %d", d.opts.Dialect, d.port)
	}
	own.Target = ""
	return &own
}

// connect opens the TCP connection.
func (d *dial) connect(ctx context.Context) (net.Conn, error) {
	names, conn, err := d.tcp(ctx)
	if err == nil || !d.opts.NetBIOS || d.named {
		return conn, err
	}
	// Within a session of NetBIOS, as older networks have it.
	for _, name := range names {
		c, serr := d.to(ctx, name, sessionService)
		if serr == nil {
			d.port = sessionService
			return c, nil
		}
		err = errors.Join(err, serr)
	}
	return nil, err
}

// tcp connects to the host, and returns by which names or addresses that is known.
func (d *dial) tcp(ctx context.Context) (names []string, conn net.Conn, err error) {
	names = []string{d.host}
	conn, err = d.to(ctx, d.host, d.port)
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return names, conn, err
	case !d.opts.NetBIOS || d.t.DialContext != nil || !isNetBIOSName(d.host):
		return nil, nil, err // another port would need the same address
	}
	addrs, nerr := lookUp(ctx, d.nameServers(), len(d.opts.NameServers) == 0, d.host, time.Second)
	if nerr != nil {
		return nil, nil, &unnamed{err, nerr}
	}
	names = nil
	for _, a := range addrs {
		names = append(names, a.String())
		if conn, err = d.to(ctx, a.String(), d.port); err == nil {
			return names, conn, nil
		}
	}
	return names, nil, err
}

// to connects to one address, and opens a session of NetBIOS where the port is that of
// its session service.
func (d *dial) to(ctx context.Context, host string, port uint16) (net.Conn, error) {
	conn, err := d.t.dialer()(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err == nil {
		d.reached = host
	}
	if err != nil || port != sessionService {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = requestSession(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func isNetBIOSName(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	return len(host) <= 15 && !strings.ContainsAny(host, ". ")
}

func (d *dial) nameServers() []netip.AddrPort {
	if len(d.opts.NameServers) == 0 {
		return broadcasts()
	}
	var out []netip.AddrPort
	for _, s := range d.opts.NameServers {
		if s.Port() == 0 {
			s = netip.AddrPortFrom(s.Addr(), nameService)
		}
		out = append(out, s)
	}
	return out
}

// uncHost is a host as the path of a share names it: an IPv6 literal has colons, which
// such a path cannot hold.
func uncHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return strings.NewReplacer(":", "-", "%", "s").Replace(host) + ".ipv6-literal.net"
	}
	return host
}

// pathOf says how the two sides of a connection reach each other. One that a jump host
// or a pipe carries has no such addresses.
func pathOf(conn net.Conn) transport.Path {
	var p transport.Path
	addr := func(a net.Addr) netip.AddrPort {
		if t, ok := a.(*net.TCPAddr); ok {
			ap := t.AddrPort()
			return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
		return netip.AddrPort{}
	}
	p.Local, p.Remote = addr(conn.LocalAddr()), addr(conn.RemoteAddr())
	if p.Local.IsValid() {
		p.SeenAs = p.Local.Addr()
	}
	if p.Remote.IsValid() {
		a := p.Remote.Addr().WithZone("")
		p.CallbackFrom = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	return p
}
