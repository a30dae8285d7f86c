package channel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"unicode/utf8"
)

// Sentinels for errors.Is. Those that the agent reports come from the code of
// its [Fault], never from text.
var (
	// ErrAuth says that the peer refused this side: a certificate that is not
	// the pinned one, or a request without message authentication.
	ErrAuth = errors.New("the peer refused the credentials")
	// ErrTrust says that this side refused the peer's certificate.
	ErrTrust = errors.New("the peer is not the one that the credentials name")
	// ErrReplay says that a message with this sequence number was seen before.
	ErrReplay = errors.New("message was replayed")
	// ErrBadMAC says that a message was changed, made for another connection,
	// or made with another secret.
	ErrBadMAC = errors.New("message authentication code is wrong")
	// ErrEpoch says that the agent was started anew since this client last
	// spoke to it. The call was not executed; the next one will be.
	ErrEpoch = errors.New("the agent was restarted")
	// ErrFault is matched by every [Fault].
	ErrFault = errors.New("the agent reported a fault")
	// ErrNotFound says that the agent has no such job, blob or log.
	ErrNotFound = errors.New("not found on the agent")
	// ErrDigest says that a blob's content does not have the digest of its
	// name. The agent discards it, so that the next attempt begins at zero.
	ErrDigest = errors.New("content does not match its SHA-256")
	// ErrOffset says that a piece of a blob does not begin where the agent's
	// copy ends. Asking for the offset again repairs it.
	ErrOffset = errors.New("wrong offset in the blob")
	// ErrMalformed says that a message breaks the protocol.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge says that a message is over its limit.
	ErrTooLarge = errors.New("message too large")
	// ErrLost says that the connection ended before the answer came. Where
	// [Error.Sent] is set, the agent may have executed the call.
	ErrLost = errors.New("connection lost")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("channel closed")
)

// Codes of a [Fault].
const (
	CodeReplay       = "Replay"       // ErrReplay
	CodeBadMAC       = "BadMAC"       // ErrBadMAC
	CodeEpoch        = "Epoch"        // ErrEpoch
	CodeUnauthorized = "Unauthorized" // ErrAuth
	CodeBadRequest   = "BadRequest"   // ErrMalformed
	CodeTooLarge     = "TooLarge"     // ErrTooLarge
	CodeNotFound     = "NotFound"     // ErrNotFound, fs.ErrNotExist
	CodeDigest       = "Digest"       // ErrDigest
	CodeOffset       = "Offset"       // ErrOffset
	CodeConflict     = "Conflict"     // same JobId, different request
	CodeBusy         = "Busy"         // try again later
	CodeRefused      = "Refused"      // the agent's policy forbids it
	CodeUnsupported  = "Unsupported"  // errors.ErrUnsupported
	CodeCancelled    = "Cancelled"    // the operation's context ended
	CodeInternal     = "Internal"     // anything else
)

// sentinelOf gives the sentinel of a code, and nil for codes without one.
func sentinelOf(code string) error {
	switch code {
	case CodeReplay:
		return ErrReplay
	case CodeBadMAC:
		return ErrBadMAC
	case CodeEpoch:
		return ErrEpoch
	case CodeUnauthorized:
		return ErrAuth
	case CodeBadRequest:
		return ErrMalformed
	case CodeTooLarge:
		return ErrTooLarge
	case CodeNotFound:
		return ErrNotFound
	case CodeDigest:
		return ErrDigest
	case CodeOffset:
		return ErrOffset
	case CodeUnsupported:
		return errors.ErrUnsupported
	}
	return nil
}

// Fault is an error that the agent reports: the AgentFault detail of a SOAP
// fault, or its equivalent on the file routes. errors.Is matches it with
// [ErrFault] and with the sentinel of its code.
type Fault struct {
	Code      string // one of the Code constants, or one that a newer agent knows
	Retryable bool   // the same request may succeed later
	Message   string // for the operator, in English; written by the agent
}

// Error implements error.
func (f *Fault) Error() string {
	if f.Message == "" {
		return "agent fault " + f.Code
	}
	return fmt.Sprintf("agent fault %s: %s", f.Code, f.Message)
}

// Is implements the matching that errors.Is describes.
func (f *Fault) Is(target error) bool {
	if target == ErrFault || target == fs.ErrNotExist && f.Code == CodeNotFound {
		return true
	}
	s := sentinelOf(f.Code)
	return s != nil && s == target
}

// receiver reports whether the fault is the agent's rather than the request's.
// SOAP 1.2 part 2, 7.5.2.2: Sender is HTTP 400, all else 500.
func (f *Fault) receiver() bool {
	switch f.Code {
	case CodeInternal, CodeBusy, CodeCancelled, CodeUnsupported:
		return true
	}
	return false
}

const maxFaultMessage = 4 << 10 // bytes

// faultOf turns an operation's error into what goes over the wire.
func faultOf(err error) *Fault {
	f := &Fault{Code: CodeInternal, Message: err.Error()}
	var have *Fault
	switch {
	case errors.As(err, &have):
		c := *have
		f = &c
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Code, f.Retryable = CodeCancelled, true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrNotFound):
		f.Code = CodeNotFound
	case errors.Is(err, ErrDigest):
		f.Code, f.Retryable = CodeDigest, true
	case errors.Is(err, ErrOffset):
		f.Code, f.Retryable = CodeOffset, true
	case errors.Is(err, ErrMalformed):
		f.Code = CodeBadRequest
	case errors.Is(err, ErrTooLarge):
		f.Code = CodeTooLarge
	case errors.Is(err, errors.ErrUnsupported):
		f.Code = CodeUnsupported
	}
	if len(f.Message) > maxFaultMessage {
		f.Message = f.Message[:maxFaultMessage] + "..."
	}
	if !utf8.ValidString(f.Message) {
		f.Message = strings.ToValidUTF8(f.Message, "\uFFFD")
	}
	return f
}

// Error is what every method of this package returns. It matches, by errors.Is,
// its Kind and whatever its cause matches, context errors included.
type Error struct {
	Op   string // the operation, e.g. "Install", "PutBlob", "dial"
	Kind error  // one of the sentinels, or nil
	Err  error  // the cause, or nil
	// Sent says that the request may have reached the agent: it is not known
	// whether it was executed.
	Sent bool
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("channel: ")
	b.WriteString(e.Op)
	if e.Kind != nil {
		b.WriteString(": ")
		b.WriteString(e.Kind.Error())
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives Kind and Err to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	var out []error
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// connError classifies an error of the connection itself.
func connError(op string, sent bool, err error) *Error {
	var done *Error
	if errors.As(err, &done) {
		return &Error{Op: op, Kind: done.Kind, Err: done.Err, Sent: sent || done.Sent}
	}
	e := &Error{Op: op, Kind: ErrLost, Err: err, Sent: sent}
	var oe *net.OpError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = nil
	case errors.Is(err, ErrTrust), errors.Is(err, ErrClosed), errors.Is(err, ErrMalformed),
		errors.Is(err, ErrTooLarge), errors.Is(err, ErrBadMAC):
		e.Kind = nil // the cause says it
	case errors.As(err, &oe) && oe.Op == "remote error":
		// crypto/tls reports an alert of the peer so: it refused our
		// certificate or our version of TLS. No request was accepted.
		e.Kind, e.Sent = ErrAuth, false
	}
	return e
}
