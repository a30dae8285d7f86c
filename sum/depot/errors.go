package depot

import "errors"

// Classes of failure, for errors.Is. Beside them transport.ErrInvalid matches
// where the description of a file, tree or inbox makes no sense.
var (
	// ErrClosed: the depot was closed.
	ErrClosed = errors.New("depot closed")
	// ErrKeyInUse: something of that name is on offer under that key already.
	ErrKeyInUse = errors.New("key is in use")
	// ErrChanged: the payload has another length than its description says, or is
	// offered again as another one.
	ErrChanged = errors.New("payload has changed")
	// ErrNotRequested: no target has asked for the offer in time.
	ErrNotRequested = errors.New("not requested")
	// ErrWithdrawn: the offer was released while somebody waited for its target.
	ErrWithdrawn = errors.New("offer withdrawn")

	// What reading the body of a post can end with, beside the errors of a
	// connection that broke.

	// ErrTooLarge: the post is longer than Inbox.MaxBytes.
	ErrTooLarge = errors.New("post too large")
	// ErrFull: all posts together are longer than Inbox.MaxTotal.
	ErrFull = errors.New("inbox full")
	// ErrStalled: the client does not go on sending.
	ErrStalled = errors.New("post stalled")
)

// Error says what the depot could not do.
type Error struct {
	Op   string // "offer", "receive", "serve", "await", "read", "make certificate", "close"
	File string // the payload file, tree or inbox, if one is meant
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
