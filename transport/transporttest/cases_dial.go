package transporttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func dialCases() []Case {
	return []Case{
		{Name: "dial/good", run: func(ctx context.Context, e *env) error {
			return e.with(ctx, func(transport.Conn) error { return nil })
		}},
		{Name: "dial/wrong-secret", run: func(ctx context.Context, e *env) error {
			if e.WrongSecret == nil {
				return e.missing("WrongSecret")
			}
			err := e.refused(ctx, *e.WrongSecret, transport.ErrAuth)
			if err == nil {
				err = e.with(ctx, func(transport.Conn) error { return nil })
			}
			return err
		}},
		{Name: "dial/wrong-trust", run: func(ctx context.Context, e *env) error {
			if e.WrongTrust == nil {
				return e.missing("WrongTrust")
			}
			return e.refused(ctx, *e.WrongTrust, transport.ErrTrust)
		}},
		{Name: "dial/empty-trust", run: func(ctx context.Context, e *env) error {
			ep := e.Endpoint
			ep.Trust = transport.Trust{}
			return e.refused(ctx, ep, transport.ErrTrust)
		}},
		{Name: "dial/first-use", run: dialFirstUse},
		{Name: "dial/cancelled", run: func(ctx context.Context, e *env) error {
			dead, cancel := context.WithCancel(ctx)
			cancel()
			late, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
			defer cancel()
			return errors.Join(
				e.refused(dead, e.Endpoint, context.Canceled),
				e.refused(late, e.Endpoint, context.DeadlineExceeded))
		}},
		{Name: "dial/stalled", run: func(ctx context.Context, e *env) error {
			if e.Stall == nil {
				return e.missing("Stall")
			}
			release := e.Stall()
			defer release()
			ctx, cancel := context.WithCancel(ctx)
			defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
			return e.refused(ctx, e.Endpoint, context.Canceled)
		}},
		{Name: "dial/foreign-options", run: func(ctx context.Context, e *env) error {
			type optionsOfNobody struct{ X int }
			ep := e.Endpoint
			ep.Options = optionsOfNobody{1}
			return e.refused(ctx, ep, transport.ErrInvalid)
		}},
		{Name: "dial/bad-address", run: func(ctx context.Context, e *env) error {
			ep := e.Endpoint
			ep.Address = "host:no-port"
			return e.refused(ctx, ep, transport.ErrInvalid)
		}},
	}
}

// refused dials and wants an error of this kind and no connection.
func (e *env) refused(ctx context.Context, ep transport.Endpoint, kind error) error {
	what := "dial"
	var conn transport.Conn
	err := e.within(what, func() (err error) {
		conn, err = e.Transport.Dial(ctx, ep)
		return err
	})
	if conn != nil {
		_ = conn.Close(context.Background())
		if err != nil {
			return fmt.Errorf("dial returned a connection together with the error %q", err)
		}
	}
	at := *e
	at.Endpoint.Address = ep.Address
	return errors.Join(at.wantErr(what, err, kind), e.noSecretIn(ep, what, err))
}

// noSecretIn is noSecret for an endpoint that is not part of the harness.
func (e *env) noSecretIn(ep transport.Endpoint, what string, err error) error {
	if err == nil {
		return nil
	}
	at := *e
	at.Endpoint = ep
	return at.noSecret(what, err)
}

func dialFirstUse(ctx context.Context, e *env) error {
	var f failures
	var seen []transport.SeenIdentity
	errNo := errors.New("the operator said no")
	answer := error(nil)
	firstUse := func(_ context.Context, s transport.SeenIdentity) error {
		seen = append(seen, s)
		return answer
	}

	// Accepted: asked once, and the connection works.
	at := *e
	at.Endpoint.Trust = transport.Trust{FirstUse: firstUse}
	f.add(at.with(ctx, func(transport.Conn) error { return nil }))
	if len(seen) != 1 {
		f.addf("FirstUse was called %d times for one dial, want 1", len(seen))
	} else {
		s := seen[0]
		if s.Address == "" || s.Type == "" || len(s.Key) == 0 {
			f.addf("FirstUse was told too little: %+v", s)
		}
		if want := transport.Fingerprint(s.Key); s.Fingerprint != want {
			f.addf("FirstUse was given the fingerprint %q of a key whose fingerprint is %q", s.Fingerprint, want)
		}
	}

	// Refused: before credentials are sent, so wrong ones must not show.
	answer = errNo
	ep := at.Endpoint
	if e.WrongSecret != nil {
		ep.Credentials, ep.Options = e.WrongSecret.Credentials, e.WrongSecret.Options
	}
	err := at.refused(ctx, ep, transport.ErrTrust)
	f.add(err)
	if err == nil {
		_, err = e.Transport.Dial(ctx, ep)
		if !errors.Is(err, errNo) {
			f.addf("the error %v does not wrap that of FirstUse", err)
		}
	}

	// A target whose recorded identity changed is never put to FirstUse.
	if e.WrongTrust != nil {
		seen, answer = nil, nil
		ep := *e.WrongTrust
		ep.Trust.FirstUse = firstUse
		f.add(at.refused(ctx, ep, transport.ErrTrust))
		if len(seen) != 0 {
			f.addf("FirstUse was asked about an identity that contradicts the recorded one")
		}
	}
	return f.err()
}
