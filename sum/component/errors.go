package component

import "errors"

// Classes of failure, for errors.Is. Missing files match io/fs.ErrNotExist, and
// a context that ended matches its own error.
var (
	// ErrInvalid: the description or package cannot be used as it is.
	ErrInvalid = errors.New("invalid component")
	// ErrDigest: a file is not the one that the description names.
	ErrDigest = errors.New("file differs from its description")
)

// Error says what is wrong with a component.
type Error struct {
	File  string // the file that was read
	Field string // the field of component.json, such as "files[2].sha256"; or ""
	Kind  error  // a sentinel of this package or of io/fs
	Err   error  // the cause
	Hint  string // what to do about it
}

// Error implements error.
func (e *Error) Error() string {
	s := "component"
	if e.File != "" {
		s += " " + e.File
	}
	if e.Field != "" {
		s += ": " + e.Field
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the class and the cause.
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

// bad is the error for a field that cannot be used; the caller adds the file.
func bad(field string, err error, hint string) *Error {
	return &Error{Field: field, Kind: ErrInvalid, Err: err, Hint: hint}
}
