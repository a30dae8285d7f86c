package portalloc

import (
	"errors"
	"fmt"
	"strings"
)

// Sentinels for errors.Is. Besides them, an [Error] shows the error of the
// operating system or of the context that caused it; where a port may not be
// used for want of rights that is [io/fs.ErrPermission], and where the platform
// cannot do what was asked it is [errors.ErrUnsupported].
var (
	// ErrExhausted: no port of the role's range is free.
	ErrExhausted = errors.New("no free port is left")
	// ErrBusy: the one port that would do is taken, and the role or the caller
	// allows no other.
	ErrBusy = errors.New("port is taken")
	// ErrDisabled: the role has no port in this generation or configuration.
	ErrDisabled = errors.New("role is off")
	// ErrClosed: the Allocator is closed.
	ErrClosed = errors.New("allocator is closed")
	// ErrInvalid: policies or options contradict themselves.
	ErrInvalid = errors.New("invalid configuration")
)

// Reason says why a port was passed over.
type Reason int

const (
	// Busy: another socket of this host has the port. See [Skip.Holders].
	Busy Reason = iota + 1
	// Held: this allocator has leased the port, to the role in [Skip.Role].
	Held
	// OtherRole: the configuration gives the port to the role in [Skip.Role].
	OtherRole
	// Excluded: the port is in [Config.Exclude].
	Excluded
	// SystemReserved: the administrator keeps the port for something else
	// (Linux: net.ipv4.ip_local_reserved_ports).
	SystemReserved
	// Denied: the operating system refuses the port to this process: a
	// privileged port, one that a security policy forbids, or on Windows one of
	// an excluded range.
	Denied
	// SelfConnect: dialling from this port would reach the dialling socket
	// itself, because the target's port is the same.
	SelfConnect
)

var reasonTexts = [...]string{
	Busy:           "taken",
	Held:           "leased by this program",
	OtherRole:      "belongs to",
	Excluded:       "excluded by configuration",
	SystemReserved: "reserved by the administrator of this host",
	Denied:         "refused by the operating system",
	SelfConnect:    "the target's own port",
}

// String returns a phrase for a sentence such as "80 is taken".
func (r Reason) String() string {
	if r < Busy || int(r) >= len(reasonTexts) {
		return fmt.Sprintf("Reason(%d)", int(r))
	}
	return reasonTexts[r]
}

// Skip is a run of ports that were passed over for one reason.
type Skip struct {
	Range
	Reason Reason
	// Role is whose the ports are, for the reasons Held and OtherRole.
	Role Role
	// Holders are the sockets that have Busy ports, as far as the system tells.
	Holders []Holder
	// Err is what the operating system said, for the reasons Busy and Denied.
	Err error
}

// String returns for example "61000-61003 taken by nginx (pid 812)".
func (s Skip) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Range, s.Reason)
	switch s.Reason {
	case Held:
		if s.Role != 0 { // given back a moment ago
			fmt.Fprintf(&b, " for role %s", s.Role)
		}
	case OtherRole:
		fmt.Fprintf(&b, " role %s", s.Role)
	case Busy:
		for i, h := range s.Holders {
			if i == 0 {
				b.WriteString(" by ")
			} else {
				b.WriteString(", ")
			}
			b.WriteString(h.String())
		}
	}
	return b.String()
}

// Error is the error of every call of this package that can fail.
type Error struct {
	// Op is "new", "listen", "dial", "adopt", "file", "find holders",
	// "list adapters" or "close".
	Op string
	// Role is for which role; zero where the call is not about one.
	Role Role
	// Policy holds the ports that were allowed.
	Policy Policy
	// Skips says for each port that was considered why it was not used, in the
	// order of the policy (a random range is listed upwards).
	Skips []Skip
	// Kind is a sentinel: ErrExhausted, ErrBusy, ErrDisabled, ErrClosed,
	// ErrInvalid, fs.ErrPermission, errors.ErrUnsupported; or nil.
	Kind error
	// Cause is the underlying error, or nil.
	Cause error
	// Advice says what the operator can do about it; may be empty.
	Advice string
}

// Error says what failed, for which role and ports, who has them, and what to
// do.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("portalloc: ")
	b.WriteString(e.Op)
	if e.Role != 0 {
		fmt.Fprintf(&b, " for role %s", e.Role)
	}
	if !e.Policy.off() {
		preposition := "on"
		if e.Op == "dial" {
			preposition = "from"
		}
		fmt.Fprintf(&b, " %s %s", preposition, e.Policy)
	}
	if e.Kind != nil {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	for i, s := range e.Skips {
		if i == maxSkipsShown {
			fmt.Fprintf(&b, "; and %d more", len(e.Skips)-i)
			break
		}
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(s.String())
	}
	if e.Cause != nil && len(e.Skips) == 0 { // else it is one of theirs, which say as much
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	if e.Advice != "" {
		fmt.Fprintf(&b, " (%s)", e.Advice)
	}
	return b.String()
}

// maxSkipsShown bounds the length of a message; Error.Skips has them all.
const maxSkipsShown = 12

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	return errs
}

// Timeout reports whether a time limit was the cause, as net.Error has it.
func (e *Error) Timeout() bool {
	for _, err := range e.Unwrap() {
		var t interface{ Timeout() bool }
		if errors.As(err, &t) && t.Timeout() {
			return true
		}
	}
	return false
}

// advise adds to the advice.
func (e *Error) advise(advice string) {
	if e.Advice != "" && advice != "" {
		e.Advice += "; "
	}
	e.Advice += advice
}

// invalid makes the error of a call whose arguments cannot be followed.
func invalid(op string, r Role, format string, args ...any) *Error {
	return &Error{Op: op, Role: r, Kind: ErrInvalid, Cause: fmt.Errorf(format, args...)}
}
