package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// errSlow is the cause with which a dial ends that took longer than ConnectTimeout.
var errSlow = errors.New("connecting took too long")

// Dial implements transport.Transport. The default port is 22. Keys and known_hosts
// files are read before anything is sent. A private key that cannot be used is
// ErrInvalid. A known_hosts file that does not exist knows nobody, as with OpenSSH:
// the error of a target that is not known names it, and where there is nothing else
// to go by, and no FirstUse either, it is ErrTrust and fs.ErrNotExist at once. Names
// in known_hosts are matched as OpenSSH does, a key for port 22 counts on other
// ports, too, and a revoked key is refused whatever name its line has.
func (t *Transport) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	opts, err := optionsOf(ep)
	if err != nil {
		return nil, err
	}
	host, port, err := ep.HostPort(22)
	if err != nil {
		return nil, err
	}
	if ep.Credentials.User == "" {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid,
			Hint: "there is no user name to log in with (Credentials.User)"}
	}
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: err}
	}
	d := &dialer{t: t, ep: ep, opts: opts, addr: net.JoinHostPort(host, strconv.Itoa(int(port)))}
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialer is one dial.
type dialer struct {
	t    *Transport
	ep   transport.Endpoint
	opts Options
	addr string
	line *line
	v    *verifier
	l    *login
	in   bool // the user is logged in
	// twin is the connection to which a second one is made, or nil.
	twin  *conn
	shown atomic.Pointer[[]byte] // the host key, once it was accepted
}

func (d *dialer) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var err error
	if d.v, err = d.newVerifier(ctx); err != nil {
		return nil, err
	}
	if d.l, err = d.newLogin(ctx); err != nil {
		return nil, err
	}
	defer d.l.close()

	// What was done so far is the caller's own: decrypting a key can take seconds.
	clock := time.AfterFunc(d.opts.ConnectTimeout, func() { cancel(errSlow) })
	defer clock.Stop()
	d.v.pause = func() { clock.Stop() }
	d.v.goOn = func() { clock.Reset(d.opts.ConnectTimeout) }
	dial := d.t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	nc, err := dial(ctx, "tcp", d.addr)
	if err != nil {
		return nil, d.netError(ctx, err)
	}
	d.line = newLine(nc)
	stop := context.AfterFunc(ctx, func() { _ = d.line.Close() })
	sc, chans, reqs, err := xssh.NewClientConn(d.line, d.addr, d.config())
	if err != nil {
		stop()
		_ = d.line.Close()
		return nil, d.handshakeError(ctx, err)
	}
	d.in = true
	c := newConn(d.ep.Address, d.opts, d.line, sc, chans, reqs)
	c.hostKey, c.bulk = *d.shown.Load(), d.t.bulk.orDefault()
	if d.twin != nil {
		c.takeAfter(d.twin)
	} else {
		d.v.goOn() // a slow login is no sign of a slow shell
		if err := c.probe(ctx); err != nil {
			stop()
			_ = c.Close(ctx)
			return nil, d.endError(ctx, err)
		}
	}
	if !stop() {
		_ = c.Close(ctx)
		return nil, d.endError(ctx, context.Cause(ctx))
	}
	if !d.l.asked {
		c.second = (&dialer{t: d.t, ep: d.ep, opts: d.opts, addr: d.addr, twin: c}).again
	}
	return c, nil
}

func (d *dialer) config() *xssh.ClientConfig {
	algos := xssh.SupportedAlgorithms() // the library's default has insecure ones as well
	if d.opts.LegacyAlgorithms {
		old := xssh.InsecureAlgorithms()
		algos.KeyExchanges = append(algos.KeyExchanges, old.KeyExchanges...)
		algos.Ciphers = append(algos.Ciphers, old.Ciphers...)
		algos.MACs = append(algos.MACs, old.MACs...)
	}
	return &xssh.ClientConfig{
		Config:            xssh.Config{KeyExchanges: algos.KeyExchanges, Ciphers: algos.Ciphers, MACs: algos.MACs},
		User:              d.l.user(),
		AuthCallback:      d.l.next,
		HostKeyCallback:   d.hostKey,
		HostKeyAlgorithms: d.v.algorithms(),
		ClientVersion:     "SSH-2.0-roundsman",
	}
}

// endError is the error of a dial whose context ended, or else err.
func (d *dialer) endError(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil {
		return err
	}
	if errors.Is(cause, errSlow) {
		if d.line != nil && !d.line.ssh.Load() && len(d.line.said()) > 0 {
			// It had the time for its version, and said something else.
			e := &transport.Error{Op: "dial", Target: d.ep.Address}
			d.notSSH(e)
			return e
		}
		return &transport.Error{Op: "dial", Target: d.ep.Address, Kind: transport.ErrTimeout, Err: err,
			Hint: fmt.Sprintf("%s within %v, which Options.ConnectTimeout sets", d.stage(), d.opts.ConnectTimeout)}
	}
	e := &transport.Error{Op: "dial", Target: d.ep.Address, Kind: ctx.Err()}
	if !errors.Is(cause, ctx.Err()) {
		e.Err = cause
	}
	return e
}

// stage says what had not happened when a dial ended.
func (d *dialer) stage() string {
	switch {
	case d.line == nil:
		return "no network connection came about (a firewall may drop what is sent)"
	case !d.line.ssh.Load():
		return "the target took the connection, but did not speak SSH (the usual port is 22)"
	case !d.v.decided:
		return "the target did not show its key"
	case !d.in:
		return "the login did not come to its end"
	}
	return "the target let the user in, but did not say what it offers"
}

// netError is why there is no network connection.
func (d *dialer) netError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return d.endError(ctx, nil)
	}
	var te *transport.Error
	if errors.As(err, &te) && te.Kind != nil { // of the jump host
		return &transport.Error{Op: "dial", Target: d.ep.Address, Kind: te.Kind, Err: err}
	}
	kind := transport.ErrUnreachable
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		kind = transport.ErrTimeout
	}
	return &transport.Error{Op: "dial", Target: d.ep.Address, Kind: kind, Err: err}
}

// handshakeError is why key exchange or login failed. What happened is read off
// the line and the callbacks: the library's errors say it in words alone.
func (d *dialer) handshakeError(ctx context.Context, err error) error {
	e := &transport.Error{Op: "dial", Target: d.ep.Address, Err: err}
	var algo *xssh.AlgorithmNegotiationError
	switch {
	case d.v.err != nil && ctx.Err() == nil:
		return d.v.err
	case ctx.Err() != nil:
		return d.endError(ctx, nil) // err says that the line was closed
	case !d.line.ssh.Load():
		d.notSSH(e)
	case errors.As(err, &algo):
		d.noCommon(e, algo)
	case d.broke(err) && !(d.l.pending != "" && errors.Is(d.line.broken(), io.EOF)):
		e.Kind = transport.ErrConnLost
	case d.v.decided:
		// Some servers hang up instead of refusing. Were that a lost line, a retry
		// would offer the same secret again.
		e.Kind, e.Hint = transport.ErrAuth, d.l.refusal()
		if d.l.err != nil {
			e.Err = fmt.Errorf("%w; %w", err, d.l.err)
		}
	default:
		e.Kind = transport.ErrProtocol
	}
	return e
}

// notSSH says what a target did that never said a version of SSH.
func (d *dialer) notSSH(e *transport.Error) {
	hungUp, said := d.broke(e.Err), d.line.said()
	if len(said) > 0 {
		first, _, _ := bytes.Cut(said, []byte("\n"))
		e.Err = fmt.Errorf("it said %.200q", bytes.TrimSpace(first))
	}
	text := !bytes.ContainsFunc(said, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) })
	switch {
	case !hungUp || !text || bytes.HasPrefix(said, []byte("HTTP/")):
		e.Kind, e.Hint = transport.ErrProtocol, "what listens on this port does not speak SSH: check the port of the address (the usual one is 22)"
	default: // a server may say why before it hangs up (RFC 4253, section 4.2)
		e.Kind = transport.ErrUnreachable
		e.Hint = "the target hung up at once: it has too many logins under way (MaxStartups of sshd), or does not let this address in"
		if len(said) == 0 {
			e.Hint += ", or something else listens on this port (the usual one is 22)"
		}
	}
}

// noCommon says why target and driver agree on no algorithm.
func (d *dialer) noCommon(e *transport.Error, algo *xssh.AlgorithmNegotiationError) {
	hostKeys := d.v.restricted() && slices.Equal(algo.SupportedAlgorithms, d.v.algorithms())
	old := xssh.InsecureAlgorithms()
	insecure := slices.Concat(old.KeyExchanges, old.Ciphers, old.MACs, old.HostKeys)
	var offered []string
	for _, a := range algo.RequestedAlgorithms {
		if slices.Contains(insecure, a) && (!hostKeys || d.v.fits(a, d.v.known) || d.v.fitsPin(a)) {
			offered = append(offered, a)
		}
	}
	e.Kind = transport.ErrRejected
	switch {
	case len(offered) > 0 && !d.opts.LegacyAlgorithms:
		e.Hint = fmt.Sprintf("the target has nothing better than %s, which is not secure; update it, or allow that (Options.LegacyAlgorithms) "+
			"for a target whose key is known", strings.Join(offered, ", "))
	case hostKeys:
		e.Kind = transport.ErrTrust
		e.Hint = "the target has no key of a type that is recorded or expected for it"
	default:
		e.Hint = "the target speaks no algorithm that this program knows"
	}
}

// broke reports whether a handshake failed with an error of the line. That the
// line has one is not enough: a target may hang up once it has refused a login.
func (d *dialer) broke(err error) bool {
	cause := d.line.broken()
	return cause != nil && (errors.Is(err, cause) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}
