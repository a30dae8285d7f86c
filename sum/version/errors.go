package version

import (
	"errors"
	"fmt"
)

// ErrIncomparable means that two versions have no order under their scheme.
// Every error of a comparison wraps it.
var ErrIncomparable = errors.New("versions cannot be compared")

// The reasons why versions are incomparable, or one cannot be parsed.
var (
	// ErrScheme: the scheme is not known, or two versions have different ones.
	ErrScheme = errors.New("unknown or mixed version scheme")
	// ErrSyntax: a version does not have a form that the scheme knows.
	ErrSyntax = errors.New("not a version of this scheme")
	// ErrFamily: the versions belong to different product families.
	ErrFamily = errors.New("versions of different families")
	// ErrForm: the versions have forms that are not ordered with each other.
	ErrForm = errors.New("versions of different forms")
)

// Error is the type of every error of this package. It wraps Reason and, when
// it comes from a comparison, ErrIncomparable.
type Error struct {
	Scheme   Scheme
	A, B     string // as given; B only when Compared
	Compared bool   // two versions were compared, not one parsed
	Reason   error  // ErrScheme, ErrSyntax, ErrFamily or ErrForm
}

// Error names the scheme and the versions, each cut to MaxLen bytes.
func (e *Error) Error() string {
	if !e.Compared {
		return fmt.Sprintf("version %q, scheme %q: %v", clip(e.A), string(e.Scheme), e.Reason)
	}
	return fmt.Sprintf("%v: %q and %q, scheme %q: %v",
		ErrIncomparable, clip(e.A), clip(e.B), string(e.Scheme), e.Reason)
}

// Unwrap returns the reason, and ErrIncomparable when two were compared.
func (e *Error) Unwrap() []error {
	if e.Compared {
		return []error{ErrIncomparable, e.Reason}
	}
	return []error{e.Reason}
}

func clip(s string) string {
	if len(s) > MaxLen {
		return s[:MaxLen] + "..."
	}
	return s
}
