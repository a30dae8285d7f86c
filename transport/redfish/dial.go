package redfish

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/roundsman-go/roundsman/transport"
)

// Dial implements transport.Transport. It reads what the service is, and logs in. What
// answers and is no Redfish service is errors.ErrUnsupported: there may be another way.
func (t *Transport) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	refuse := func(kind error, hint string) (transport.Conn, error) {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: kind, Hint: hint}
	}
	opts, err := options(ep)
	if err != nil {
		return refuse(transport.ErrInvalid, err.Error())
	}
	host, port, err := ep.HostPort(Port)
	switch {
	case err != nil:
		return nil, err
	case ep.Object != "":
		return refuse(transport.ErrInvalid, "this driver knows no parts of a target by name")
	case ep.Credentials.User == "" || ep.Credentials.Password.IsZero():
		return refuse(transport.ErrInvalid, "a user and a password are needed")
	}
	s := newSession(t, ep, opts, host, port)
	if err := s.trust.check(); err != nil {
		return nil, err
	}
	c := &conn{s: s, updating: make(chan struct{}, 1), leaves: map[Way]bool{}}
	if err := c.open(ctx); err != nil {
		// Of what was said no more is needed than the end of the session.
		_ = s.close(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

// open connects, logs in and finds out what there is.
func (c *conn) open(ctx context.Context) error {
	s := c.s
	fail := func(err error) error {
		e := s.fail(ctx, request{op: "dial"}, err)
		var te *transport.Error
		if errors.As(e, &te) {
			own := *te
			own.Op, own.Path = "dial", ""
			return &own
		}
		return e
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := s.meet(ctx); err != nil {
		return fail(err)
	}
	timed, cancel := context.WithTimeoutCause(ctx, s.opts.ConnectTimeout, errConnect)
	defer cancel()
	err := c.begin(timed)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(timed), errConnect) {
		err = &transport.Error{Kind: transport.ErrTimeout, Err: errConnect, Hint: "the target accepts connections and does not answer"}
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// meet makes sure that the target is who the caller expects, where that takes people:
// their time is nobody's stall.
func (s *session) meet(ctx context.Context) error {
	if s.trust.trust.FirstUse == nil {
		return nil
	}
	l, err := s.connect(ctx)
	var unknown *unknownKey
	switch {
	case errors.As(err, &unknown):
		if err := s.trust.ask(ctx, unknown.seen); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		return nil
	case err != nil:
		return err
	}
	return l.Close()
}

// begin reads the root, logs in, and chooses the profile.
func (c *conn) begin(ctx context.Context) error {
	s := c.s
	// The root is for everybody (DSP0266, "Service root request"): what is no Redfish
	// service gets no credentials.
	rep, err := s.do(ctx, request{op: "dial", method: http.MethodGet, path: rootPath, bare: true})
	if err != nil {
		return err
	}
	switch {
	case rep.ok():
		if err := decode(rep.body, &c.root); err != nil || !c.root.valid() {
			return &transport.Error{Kind: errors.ErrUnsupported, Err: errors.Join(err, errors.New("what is at "+rootPath+" is no service root")),
				Hint: "what answers is no Redfish service"}
		}
	case rep.status == http.StatusUnauthorized || rep.status == http.StatusForbidden: // not as it should be
	default:
		e := refusal(rep)
		if errors.Is(e.Kind, fs.ErrNotExist) {
			e.Kind, e.Hint = errors.ErrUnsupported, "what answers is no Redfish service"
		}
		return e
	}
	if to, err := pathOf(string(c.root.Links.Sessions)); err == nil {
		s.where = to
	}
	if err := c.logIn(ctx); err != nil {
		return err
	}
	if !rep.ok() {
		if err := c.read(ctx, "dial", rootPath, &c.root); err != nil {
			return err
		}
	}
	return c.choose(ctx)
}

// logIn is the first login.
func (c *conn) logIn(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := c.s.logIn(ctx, cancel, 0); err != nil {
		return c.s.fail(ctx, request{op: "login"}, err)
	}
	return nil
}
