package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
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

// sinkError is an error of the caller's own reader or writer.
type sinkError struct{ cause error }

func (e *sinkError) Error() string { return fmt.Sprintf("caller's stream: %v", e.cause) }
func (e *sinkError) Unwrap() error { return e.cause }

// silentError is the cause with which a call ends whose script does not begin.
type silentError struct {
	after time.Duration
	words error // what was said meanwhile, or nil
}

func (e *silentError) Error() string {
	s := fmt.Sprintf("the login shell has not answered for %v", e.after)
	if e.words != nil {
		s += ", but said " + e.words.Error()
	}
	return s
}

// tooLong is the error for a command that takes more than so many bytes.
func tooLong(limit int) error {
	return &transport.Error{Kind: transport.ErrInvalid, Err: fmt.Errorf("the command takes more than %d bytes", limit),
		Hint: "hand long values over by standard input or in a file"}
}

// fail says why a call failed: because of what ended ctx, the context that begin
// made for it, or else because of err.
func (c *conn) fail(ctx context.Context, op, path string, err error) error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Op: op, Target: c.target, Path: path}
	var lost *lostError
	var sink *sinkError
	var silent *silentError
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.Cause(c.ctx) // ctx is about to hear of it
	}
	if broken := c.line.broken(); cause == nil && broken != nil {
		cause = &lostError{broken} // and so is c.ctx
	}
	switch {
	case cause == nil:
	case errors.Is(cause, errClosed):
		e.Kind = transport.ErrClosed
		return e
	case errors.Is(cause, errStalled):
		e.Kind, e.Err = transport.ErrTimeout, cause
		e.Hint = "the transfer stalled; it can be continued"
		return e
	case errors.As(cause, &silent):
		e.Kind, e.Err = transport.ErrTimeout, silent
		e.Hint = "its start files, or sudo, wait for something"
		return e
	case errors.As(cause, &lost):
		e.Kind, e.Err = transport.ErrConnLost, lost.cause
		return e
	case errors.As(cause, &sink):
		e.Err = sink.cause
		var te *transport.Error
		if errors.As(sink.cause, &te) {
			e.Kind = te.Kind
		}
		return e
	default:
		e.Kind = ctx.Err()
		if !errors.Is(cause, e.Kind) {
			e.Err = cause
		}
		return e
	}
	var te *transport.Error
	if errors.As(err, &te) {
		if err == error(te) && te.Target == "" { // made where call and target were not known, and perhaps kept
			own := *te
			own.Op, own.Target, own.Path = op, c.target, path
			return &own
		}
		return err
	}
	e.Err = err
	var open *xssh.OpenChannelError
	var status *sftp.StatusError
	switch {
	case errors.As(err, &open):
		e.Code = openCode(open)
		switch open.Reason {
		case xssh.ConnectionFailed, xssh.ResourceShortage:
			e.Kind = transport.ErrBusy
			e.Hint = "the server opens no more sessions; see MaxSessions of sshd and of Options"
		default:
			e.Kind = transport.ErrRejected
		}
	case errors.As(err, &status):
		e.Kind, e.Code = sftpKind(status.Code), sftpCode(status.Code)
		if status.Code == 5 && longName(path) { // what OpenSSH makes of ENAMETOOLONG
			e.Kind, e.Hint = transport.ErrRejected, longHint
		}
	case errors.Is(err, os.ErrNotExist):
		e.Kind, e.Code, e.Err = fs.ErrNotExist, sftpCode(2), nil
	case errors.Is(err, os.ErrPermission):
		e.Kind, e.Code, e.Err = fs.ErrPermission, sftpCode(3), nil
	case errors.Is(err, sftp.ErrSSHFxConnectionLost):
		e.Kind = transport.ErrConnLost
	default:
		e.Kind = transport.ErrProtocol
	}
	return e
}

func openCode(e *xssh.OpenChannelError) transport.Code {
	return transport.Code{Space: "ssh-open", Value: strconv.Itoa(int(e.Reason))}
}

func sftpCode(code uint32) transport.Code {
	return transport.Code{Space: "sftp", Value: strconv.Itoa(int(code))}
}

func exitCode(exit transport.Exit) transport.Code {
	if exit.Signal != "" {
		return transport.Code{Space: "signal", Value: exit.Signal}
	}
	return transport.Code{Space: "exit", Value: strconv.Itoa(exit.Code)}
}

const longHint = "a name is longer than file systems allow"

// longName reports whether a path has a name in it that few file systems take, or
// is too long itself (Linux's NAME_MAX and PATH_MAX).
func longName(path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		if len(name) > 255 {
			return true
		}
	}
	return len(path) > 4095
}

// sftpKind is the class of a status of draft-ietf-secsh-filexfer-13, section 9.1.
func sftpKind(code uint32) error {
	switch code {
	case 2, 10: // NO_SUCH_FILE, NO_SUCH_PATH
		return fs.ErrNotExist
	case 3, 12: // PERMISSION_DENIED, WRITE_PROTECT
		return fs.ErrPermission
	case 11, 18: // FILE_ALREADY_EXISTS, DIR_NOT_EMPTY
		return fs.ErrExist
	case 14, 15: // NO_SPACE_ON_FILESYSTEM, QUOTA_EXCEEDED
		return transport.ErrNoSpace
	case 6, 7: // NO_CONNECTION, CONNECTION_LOST
		return transport.ErrConnLost
	case 8: // OP_UNSUPPORTED
		return errors.ErrUnsupported
	case 5: // BAD_MESSAGE
		return transport.ErrProtocol
	}
	return transport.ErrRejected
}
