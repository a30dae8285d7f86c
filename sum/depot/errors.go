package depot

import "errors"

// Classes of failure, for errors.Is. Beside them transport.ErrInvalid matches
// where the description of a file makes no sense.
var (
	// ErrClosed: the depot was closed.
	ErrClosed = errors.New("depot closed")
	// ErrKeyInUse: a file of that name is on offer under that key already.
	ErrKeyInUse = errors.New("key is in use")
	// ErrChanged: the payload has another length than its description says.
	ErrChanged = errors.New("payload has changed")
)

// Error says what the depot could not do.
type Error struct {
	Op   string // "offer", "serve", "read", "close"
	File string // the payload file, if one is meant
	Err  error
}

// Error implements error.
func (e *Error) Error() string {
	s := "depot: " + e.Op
	if e.File != "" {
		s += " " + e.File
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
