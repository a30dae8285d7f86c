package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os/exec"

	"github.com/roundsman-go/roundsman/transport"
)

// errClosed is the cause with which the contexts of calls end when the connection
// is closed.
var errClosed = errors.New("closed by the caller")

// streamError is an error of the caller's own reader or writer.
type streamError struct{ cause error }

func (e *streamError) Error() string { return fmt.Sprintf("caller's stream: %v", e.cause) }
func (e *streamError) Unwrap() error { return e.cause }

// fail says why a call failed: because its context ended, or because of err.
func (k *call) fail(err error) error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Op: k.op, Target: Address, Path: k.path}
	var te *transport.Error
	var stream *streamError
	cause := context.Cause(k.ctx)
	switch {
	case errors.As(cause, &stream), cause == nil && errors.As(err, &stream):
		e.Err = stream.cause
		if errors.As(stream.cause, &te) {
			e.Kind = te.Kind
		}
	case errors.Is(cause, errClosed):
		e.Kind = transport.ErrClosed
	case cause != nil:
		e.Kind = k.ctx.Err()
		if !errors.Is(cause, e.Kind) {
			e.Err = cause
		}
	case errors.As(err, &te):
		if te.Op != "" {
			return err
		}
		*e = *te // made where the call was not known
		e.Op, e.Target, e.Path = k.op, Address, k.path
	default:
		e.Kind, e.Code, e.Err = classOf(err), codeOf(err), err
		// The class and the code say it all, unless another file is meant.
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) && !e.Code.IsZero() && sameName(pe.Path, k.path) {
			e.Err = nil
		}
	}
	return e
}

// classOf is the class of an error of package os, net or exec.
func classOf(err error) error {
	var oe *net.OpError
	for _, kind := range []error{fs.ErrNotExist, fs.ErrPermission, fs.ErrExist} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	if kind := classOfErrno(err); kind != nil {
		return kind
	}
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, exec.ErrDot):
		return fs.ErrNotExist
	case errors.As(err, &oe) && oe.Timeout():
		return transport.ErrTimeout
	case oe != nil:
		return transport.ErrUnreachable
	}
	return transport.ErrRejected
}

// invalid is the error for arguments that make no sense.
func (k *call) invalid(hint string) error {
	return &transport.Error{Op: k.op, Target: Address, Path: k.path, Kind: transport.ErrInvalid, Hint: hint}
}
