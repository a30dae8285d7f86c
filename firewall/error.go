package firewall

import (
	"errors"
	"io/fs"
	"strings"
)

// Sentinels for errors.Is. Besides them an [Error] shows what caused it:
// errors of the operating system, of a program, or of the context.
var (
	// ErrInvalid: the rule or the options are incomplete or contradict themselves.
	ErrInvalid = errors.New("invalid")
	// ErrPermission: the program lacks administrator rights. It is also
	// [io/fs.ErrPermission].
	ErrPermission error = permission{}
	// ErrClosed: the Firewall is closed.
	ErrClosed = errors.New("firewall is closed")
)

type permission struct{}

func (permission) Error() string        { return "administrator rights are needed" }
func (permission) Is(target error) bool { return target == fs.ErrPermission }

// Error is the error of every call of this package that can fail.
type Error struct {
	// Op is "check", "open", "allow", "close", "state", "sweep" or "guard".
	Op string
	// Rules are the rules that it was about, if any.
	Rules []Rule
	// FrontEnd is where it failed, or "".
	FrontEnd FrontEnd
	// Kind is a sentinel: ErrInvalid, ErrPermission, ErrClosed,
	// errors.ErrUnsupported; or nil.
	Kind error
	// Detail says more, or is empty.
	Detail string
	// Hint is what the operator can do, or empty.
	Hint string
	// Cause is the underlying error, or nil.
	Cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("firewall: " + e.Op)
	switch len(e.Rules) {
	case 0:
	case 1:
		b.WriteString(" " + e.Rules[0].String())
	default:
		b.WriteString(" " + e.Rules[0].String() + " and others")
	}
	if e.FrontEnd != "" {
		b.WriteString(" in " + string(e.FrontEnd))
	}
	for _, part := range []error{e.Kind, e.Cause} {
		if part != nil {
			b.WriteString(": " + part.Error())
		}
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap returns Kind and Cause.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
