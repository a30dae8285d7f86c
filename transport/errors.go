package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strings"
)

// Classes of failure, for errors.Is. Beside them an [Error] may match
// io/fs.ErrNotExist, io/fs.ErrExist, io/fs.ErrPermission, errors.ErrUnsupported
// and the context errors.
var (
	// ErrAuth: the target refused the credentials. Trying again with the same
	// ones may lock the account, so no decorator does.
	ErrAuth = errors.New("authentication refused")
	// ErrElevation: the target let the user in, but not with the rights that were
	// asked for, as where sudo refuses. It matches ErrAuth too.
	ErrElevation error = elevation{}
	// ErrTrust: the target could not prove that it is who the caller expects.
	ErrTrust = errors.New("target identity not trusted")
	// ErrUnknownIdentity: nothing is known that the target could prove itself by, as
	// where it is new. It comes with ErrTrust; without it, the target showed something
	// else than what is known of it.
	ErrUnknownIdentity = errors.New("nothing is known to compare it with")
	// ErrUnreachable: no connection came about (refused, no route, no such host).
	ErrUnreachable = errors.New("target unreachable")
	// ErrTimeout: connecting took too long, or a transfer stalled.
	ErrTimeout = errors.New("timed out")
	// ErrBusy: the target is doing something that excludes this; later may work.
	ErrBusy = errors.New("target busy")
	// ErrConnLost: the connection broke. Whether the last request was carried
	// out is unknown.
	ErrConnLost = errors.New("connection lost")
	// ErrNoSpace: the target's storage or quota is full.
	ErrNoSpace = errors.New("no space left on target")
	// ErrIntegrity: the bytes that arrived are not the bytes that were sent.
	ErrIntegrity = errors.New("checksum mismatch")
	// ErrRejected: the target understood the request and refused it.
	ErrRejected = errors.New("request rejected by target")
	// ErrProtocol: the target answered what its protocol does not allow.
	ErrProtocol = errors.New("protocol violation")
	// ErrInvalid: the caller's arguments make no sense; nothing was sent.
	ErrInvalid = errors.New("invalid argument")
	// ErrClosed: the connection was closed by the caller.
	ErrClosed = errors.New("connection closed")
)

// elevation is the type of ErrElevation.
type elevation struct{}

func (elevation) Error() string { return "more rights refused" }

func (elevation) Is(target error) bool { return target == ErrAuth }

// A Code is what a target said, verbatim, and in which numbering: {"ntstatus",
// "0xC000006D"}, {"http", "412"}, {"sftp", "4"}, {"exit", "1"}, {"dpkg", "0"}.
type Code struct {
	Space string `json:"space,omitempty"`
	Value string `json:"value,omitempty"`
}

// IsZero reports whether no code was given.
func (c Code) IsZero() bool { return c == Code{} }

// String returns "space value", or "" for no code.
func (c Code) String() string { return strings.TrimSpace(c.Space + " " + c.Value) }

// Error is what every driver returns: what failed, on which target, why, and
// what can be done about it.
type Error struct {
	Op     string // the call that failed, such as "dial", "put", "run"
	Target string // the address as the caller gave it
	Path   string // the file, service or socket, if one is meant
	Kind   error  // the class: a sentinel of this package, of io/fs, or errors.ErrUnsupported
	Code   Code   // what the target said, if it said something
	Hint   string // what the operator can do, if there is something
	Err    error  // the cause, if there is one beside Kind
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Path != "" {
		b.WriteString(" " + e.Path)
	}
	if e.Target != "" {
		b.WriteString(" on " + e.Target)
	}
	if e.Kind != nil {
		b.WriteString(": " + e.Kind.Error())
	}
	if !e.Code.IsZero() {
		b.WriteString(" (" + e.Code.String() + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the class and the cause, so that errors.Is and errors.As see both.
func (e *Error) Unwrap() []error {
	out := make([]error, 0, 2)
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// ErrorCode returns Code, for CodeOf.
func (e *Error) ErrorCode() Code { return e.Code }

// CodeOf returns the first code in the tree of err, depth first. It sees the
// codes of errors of every package whose type has a method ErrorCode() Code.
func CodeOf(err error) Code {
	if err == nil {
		return Code{}
	}
	if c, ok := err.(interface{ ErrorCode() Code }); ok && !c.ErrorCode().IsZero() {
		return c.ErrorCode()
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		return CodeOf(u.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range u.Unwrap() {
			if c := CodeOf(err); !c.IsZero() {
				return c
			}
		}
	}
	return Code{}
}

// Temporary reports whether the same call may succeed later without anybody
// changing anything: the target was unreachable, slow or busy, or the line broke. That
// there is no host of a name is for long.
func Temporary(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	for _, kind := range []error{ErrUnreachable, ErrTimeout, ErrBusy, ErrConnLost} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// ContextError returns err as the failure of op, marked with the error of ctx,
// and its cause, if ctx has ended. Drivers use it where a library hides the context's error.
func ContextError(ctx context.Context, op, target string, err error) error {
	if err == nil {
		return nil
	}
	cerr := ctx.Err()
	if cerr == nil || errors.Is(err, cerr) {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cerr, cause) && !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	return &Error{Op: op, Target: target, Kind: cerr, Err: err}
}

func unsupported(op, what string) *Error {
	return &Error{Op: op, Kind: errors.ErrUnsupported, Hint: "this connection does not offer " + what}
}

// IsNotExist reports whether err says that a file, directory or service is missing.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
