package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/roundsman-go/roundsman/transport"
)

// Causes with which the contexts of calls end, beside those of the caller.
var (
	errClosed  = errors.New("closed by the caller")
	errStalled = errors.New("no byte moved")
	errConnect = errors.New("no answer in time")
)

// lostError is the cause with which the connection broke.
type lostError struct{ cause error }

func (e *lostError) Error() string { return fmt.Sprintf("line broke: %v", e.cause) }
func (e *lostError) Unwrap() error { return e.cause }

// redirectError is an answer that sends a request elsewhere: it had no effect where it was
// sent to (RFC 9110, section 15.4).
type redirectError struct{ to string }

func (e *redirectError) Error() string { return "redirected to " + clip(e.to, 300) }

var errTooOften = errors.New("redirected too often")

// ofTheLine reports whether an error says that the target could not be asked, and not
// what it answered.
func ofTheLine(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.Code.IsZero() &&
		(errors.Is(te.Kind, transport.ErrUnreachable) || errors.Is(te.Kind, transport.ErrConnLost) || errors.Is(te.Kind, transport.ErrTimeout))
}

// fail says why a call failed: because of what ended ctx, or else because of err.
func (s *session) fail(ctx context.Context, r request, err error) error {
	e := &transport.Error{Op: r.op, Target: s.target, Path: r.path}
	var lost *lostError
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.Cause(s.ctx) // ctx is about to hear of it
	}
	switch {
	case cause == nil:
	case errors.Is(cause, errClosed):
		e.Kind, e.Path = transport.ErrClosed, ""
		return e
	case errors.Is(cause, errStalled):
		e.Kind, e.Err, e.Hint = transport.ErrTimeout, cause, "the target accepts connections and does not answer"
		return e
	case errors.As(cause, &lost):
		e.Kind, e.Err = transport.ErrConnLost, lost.cause
		return e
	default:
		e.Kind = ctx.Err()
		if e.Kind == nil {
			e.Kind = cause
		} else if !errors.Is(cause, e.Kind) {
			e.Err = cause
		}
		return e
	}
	var te *transport.Error
	if errors.As(err, &te) {
		own := *te
		if own.Op == "" || own.Target == "" {
			own.Op, own.Target = r.op, s.target
		}
		network := errors.Is(own.Kind, transport.ErrUnreachable) || errors.Is(own.Kind, transport.ErrConnLost)
		if network && s.loggedIn() && s.patient.Load() == 0 {
			// There was a connection, and now there is none.
			s.lose(err)
			own.Kind = transport.ErrConnLost
		}
		return &own
	}
	var source *sourceError
	if errors.As(err, &source) {
		e.Err = source
		return e
	}
	e.Kind, e.Err = transport.ErrConnLost, err
	var ue *url.Error
	if errors.As(err, &ue) {
		e.Err = ue.Err
	}
	if s.patient.Load() == 0 {
		s.lose(e.Err)
	}
	return e
}

// sourceError is an error of the payload, on the manager.
type sourceError struct{ cause error }

func (e *sourceError) Error() string { return fmt.Sprintf("reading the payload: %v", e.cause) }
func (e *sourceError) Unwrap() error { return e.cause }
