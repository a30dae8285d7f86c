package smb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
)

// Causes with which the contexts of calls end, beside those of the caller.
var (
	errClosed  = errors.New("closed by the caller")
	errStalled = errors.New("no byte moved")
)

// lostError is the cause with which a connection broke.
type lostError struct{ cause error }

func (e *lostError) Error() string { return fmt.Sprintf("line broke: %v", e.cause) }
func (e *lostError) Unwrap() error { return e.cause }

// streamError is an error of the caller's own reader or writer.
type streamError struct{ cause error }

func (e *streamError) Error() string { return e.cause.Error() }
func (e *streamError) Unwrap() error { return e.cause }

// call is one call of the caller's.
type call struct {
	c        *conn
	op, path string
	ctx      context.Context // ends with the caller's context and with the connection
	cancel   context.CancelCauseFunc
	stop     func() bool
}

// begin starts a call. The caller must call end, unless there is an error.
func (c *conn) begin(ctx context.Context, op, path string) (*call, error) {
	k := &call{c: c, op: op, path: path}
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: op, Target: c.target, Path: path, Kind: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, &transport.Error{Op: op, Target: c.target, Path: path, Kind: transport.ErrClosed}
	}
	k.ctx, k.cancel = context.WithCancelCause(ctx)
	if c.ctx.Err() != nil {
		k.cancel(context.Cause(c.ctx))
		return nil, k.fail(c.ctx.Err())
	}
	c.ops.Add(1)
	k.stop = context.AfterFunc(c.ctx, func() { k.cancel(context.Cause(c.ctx)) })
	return k, nil
}

func (k *call) end() {
	k.stop()
	k.cancel(nil)
	k.c.ops.Done()
}

// invalid is the error for arguments that make no sense.
func (k *call) invalid(hint string) error {
	return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Kind: transport.ErrInvalid, Hint: hint}
}

// lib runs f, which asks the server and cannot be interrupted, and returns when it does
// or when the call ends. In the second case drop gets what f returns later, unless
// that fails. Close waits for f.
func lib[T any](k *call, f func() (T, error), drop func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result)
	k.c.lib.Go(func() {
		v, err := guard(f)
		select {
		case answer <- result{v, err}:
		case <-k.ctx.Done():
			if err == nil && drop != nil {
				_, _ = guard(func() (any, error) { drop(v); return nil, nil })
			}
		}
	})
	select {
	case r := <-answer:
		return r.v, r.err
	case <-k.ctx.Done():
		var zero T
		return zero, context.Cause(k.ctx)
	}
}

// guard makes an error of a panic: the library takes some lengths of a reply as they
// are.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = badFrame("a reply that cannot be read: %v", p)
		}
	}()
	return f()
}

// lib0 is lib for what returns an error alone.
func lib0(k *call, f func() error) error {
	_, err := lib(k, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// hangTime is how long a call whose context has ended waits for what it runs, so that
// this can clean up; what hangs, such as the caller's own reader, is left behind.
const hangTime = time.Second

// work runs f, which looks at the context of the call between its steps, and returns
// when f does or when it hangs after the context has ended.
func work[T any](k *call, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result, 1)
	k.c.ops.Add(1)
	go func() {
		defer k.c.ops.Done()
		v, err := guard(f)
		answer <- result{v, err}
	}()
	var r result
	select {
	case r = <-answer:
	case <-k.ctx.Done():
		hung := time.NewTimer(hangTime)
		defer hung.Stop()
		select {
		case r = <-answer:
		case <-hung.C:
			r.err = k.ctx.Err()
		}
	}
	return r.v, k.fail(r.err)
}

// fail says why a call failed: because of what ended its context, or else because of
// err.
func (k *call) fail(err error) error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Op: k.op, Target: k.c.target, Path: k.path}
	var lost *lostError
	cause := context.Cause(k.ctx)
	if cause == nil {
		cause = context.Cause(k.c.ctx) // k.ctx is about to hear of it
	}
	var broken *smb2.TransportError
	if cause == nil && errors.As(err, &broken) {
		k.c.lose(broken.Err)
		cause = context.Cause(k.c.ctx)
	}
	switch {
	case cause == nil:
		err = explain(e, err)
		if te, ok := err.(*transport.Error); ok {
			k.missing(te)
		}
		return err
	case errors.Is(cause, errClosed):
		e.Kind = transport.ErrClosed
	case errors.Is(cause, errStalled):
		e.Kind, e.Err, e.Hint = transport.ErrTimeout, cause, "the transfer stalled; it can be continued"
	case errors.As(cause, &lost):
		e.Kind, e.Err = transport.ErrConnLost, lost.cause
	default:
		e.Kind = k.ctx.Err()
		if e.Kind == nil {
			e.Kind = context.Canceled
		}
		if !errors.Is(cause, e.Kind) {
			e.Err = cause
		}
	}
	return e
}

// explain fills e with the class of an error of a backend.
func explain(e *transport.Error, err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		if te.Target != "" {
			return err
		}
		own := *te
		own.Op, own.Target = e.Op, e.Target
		if own.Path == "" {
			own.Path = e.Path
		}
		return &own
	}
	var response *smb2.ResponseError
	var invalid *smb2.InvalidResponseError
	var broken *smb2.TransportError
	var own *streamError
	var bad *errFrame
	var refused *refusal
	var errno syscall.Errno
	switch {
	case errors.As(err, &own):
		e.Err = err
		e.Hint = "this is an error of the caller's own file or writer"
	case errors.As(err, &refused):
		nt := ntError(refused.status)
		e.Kind, e.Code, e.Err, e.Hint = nt.Kind, nt.Code, nt.Err, nt.Hint
	case errors.As(err, &response):
		nt := ntError(response.Code)
		e.Kind, e.Code, e.Err, e.Hint = nt.Kind, nt.Code, nt.Err, nt.Hint
	case errors.As(err, &broken):
		e.Kind, e.Err = transport.ErrConnLost, broken.Err
	case errors.As(err, &invalid):
		e.Kind, e.Err = transport.ErrProtocol, err
	case errors.As(err, &bad):
		e.Kind, e.Err = transport.ErrProtocol, err
	case errors.As(err, &errno) && isWindows:
		w := winError(uint32(errno))
		e.Kind, e.Code, e.Err, e.Hint = w.Kind, w.Code, err, w.Hint
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = fs.ErrNotExist
	case errors.Is(err, fs.ErrExist):
		e.Kind = fs.ErrExist
	case errors.Is(err, fs.ErrPermission):
		e.Kind = fs.ErrPermission
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Kind, e.Err = transport.ErrTimeout, err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		e.Kind, e.Err = transport.ErrConnLost, err
	default:
		e.Kind, e.Err = transport.ErrProtocol, err
	}
	return e
}

// status is the NTSTATUS in err, or 0.
func status(err error) uint32 {
	var response *smb2.ResponseError
	if errors.As(err, &response) {
		return response.Code
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.status
	}
	return 0
}

// inUse reports whether err says that somebody has a file open, or runs it. Of
// ACCESS_DENIED and CANNOT_DELETE the library makes the same error, so a refusal to
// remove or rename may be one, too.
func inUse(err error) bool {
	switch status(err) {
	case statusSharing, statusCannotDelete, statusUserMapped, statusDeletePending:
		return true
	}
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, transport.ErrBusy) || nativeInUse(err)
}

// wait waits for wg until ctx ends, and reports whether wg was first.
func wait(ctx context.Context, wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
