package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// errSlow is the cause with which a dial ends that took longer than ConnectTimeout.
var errSlow = errors.New("connecting took too long")

// Dial implements transport.Transport. The default port is 22.
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
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid, Hint: "Credentials.User is empty"}
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
}

func (d *dialer) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(d.opts.ConnectTimeout, func() { cancel(errSlow) })
	defer clock.Stop()

	var err error
	if d.v, err = newVerifier(ctx, d.ep.Address, d.addr, d.ep.Trust); err != nil {
		return nil, err
	}
	d.v.pause = func() { clock.Stop() }
	d.v.goOn = func() { clock.Reset(d.opts.ConnectTimeout) }
	d.l = &login{ctx: ctx, creds: d.ep.Credentials, opts: d.opts}
	defer d.l.close()

	dial := d.t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	nc, err := dial(ctx, "tcp", d.addr)
	if err != nil {
		return nil, d.netError(ctx, err)
	}
	d.line = &line{Conn: nc}
	stop := context.AfterFunc(ctx, func() { _ = d.line.Close() })
	sc, chans, reqs, err := xssh.NewClientConn(d.line, d.addr, d.config())
	if err != nil {
		stop()
		_ = d.line.Close()
		return nil, d.handshakeError(ctx, err)
	}
	c := newConn(d.ep.Address, d.opts, d.line, sc, chans, reqs)
	if err := c.probe(ctx); err != nil {
		stop()
		_ = c.Close(ctx)
		return nil, d.endError(ctx, err)
	}
	if !stop() {
		_ = c.Close(ctx)
		return nil, d.endError(ctx, context.Cause(ctx))
	}
	return c, nil
}

func (d *dialer) config() *xssh.ClientConfig {
	cfg := &xssh.ClientConfig{
		User:              d.l.user(),
		AuthCallback:      d.l.next,
		HostKeyCallback:   d.v.check,
		HostKeyAlgorithms: d.v.algorithms(d.opts.LegacyAlgorithms),
		ClientVersion:     "SSH-2.0-roundsman",
	}
	if d.opts.LegacyAlgorithms {
		good, old := xssh.SupportedAlgorithms(), xssh.InsecureAlgorithms()
		cfg.KeyExchanges = append(good.KeyExchanges, old.KeyExchanges...)
		cfg.Ciphers = append(good.Ciphers, old.Ciphers...)
		cfg.MACs = append(good.MACs, old.MACs...)
	}
	return cfg
}

// endError is the error of a dial whose context ended, or else err.
func (d *dialer) endError(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil {
		return err
	}
	if errors.Is(cause, errSlow) {
		return &transport.Error{Op: "dial", Target: d.ep.Address, Kind: transport.ErrTimeout, Err: err,
			Hint: fmt.Sprintf("no connection after %v; see Options.ConnectTimeout", d.opts.ConnectTimeout)}
	}
	e := &transport.Error{Op: "dial", Target: d.ep.Address, Kind: ctx.Err()}
	if !errors.Is(cause, ctx.Err()) {
		e.Err = cause
	}
	return e
}

// netError is why there is no network connection.
func (d *dialer) netError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return d.endError(ctx, err)
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
		return d.endError(ctx, err)
	case errors.As(err, &algo):
		if slices.Equal(algo.SupportedAlgorithms, d.config().HostKeyAlgorithms) && d.v.restricted {
			e.Kind = transport.ErrTrust
			e.Hint = "the target has no key of a type that is known for it"
			break
		}
		e.Kind = transport.ErrRejected
		e.Hint = "the target speaks old algorithms only; see Options.LegacyAlgorithms"
	case d.broke(err) && d.line.heard.Load() == 0:
		e.Kind = transport.ErrUnreachable
		e.Hint = "the target hung up without a word: its limit on logins (MaxStartups) or an address rule"
	case d.broke(err):
		e.Kind = transport.ErrConnLost
	case d.v.decided:
		e.Kind = transport.ErrAuth
		e.Hint = fmt.Sprintf("the target takes %v", d.l.allowed)
		if d.l.err != nil {
			e.Err = errors.Join(err, d.l.err)
		}
	default:
		e.Kind = transport.ErrProtocol
	}
	return e
}

// broke reports whether a handshake failed with an error of the line. That the
// line has one is not enough: a target may hang up once it has refused a login.
func (d *dialer) broke(err error) bool {
	cause := d.line.broken()
	return cause != nil && (errors.Is(err, cause) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}
