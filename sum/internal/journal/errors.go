package journal

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrTorn: the file ends in the middle of a record. The record was never
	// acknowledged; everything before it is whole.
	ErrTorn = errors.New("the last record was cut short")
	// ErrCorrupt: a line is not what was written. What it said is lost.
	ErrCorrupt = errors.New("corrupt record")
	// ErrLive: another process, or another Journal of this one, holds the run.
	ErrLive = errors.New("the run is held by a live process")
	// ErrEnded: the run was retired.
	ErrEnded = errors.New("the run has ended")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("the journal is closed")
	// ErrStillOpen: a run cannot be retired while it holds something open.
	ErrStillOpen = errors.New("resources are still open")
	// ErrRecord: a record has no kind, a kind of the journal's own, an unknown
	// operation, text that is not UTF-8, or data that is not JSON.
	ErrRecord = errors.New("invalid record")
	// ErrTooLarge: a record is longer than MaxRecord.
	ErrTooLarge = fmt.Errorf("record larger than %d bytes", MaxRecord)
	// ErrUnsafe: other users could write the journal's directory, and thereby
	// have a recovery remove what they like.
	ErrUnsafe = errors.New("the journal directory can be written by other users")
)

// Error is the type of the errors of this package. It wraps one of the
// sentinels, an error of the file system, or a context's error.
type Error struct {
	Op     string // "open", "append", "read", "adopt", "retire", "close", "prune"
	Path   string // the file or directory
	Line   int    // for a damaged record: its line, from 1
	Offset int64  // for a damaged record: where its line starts, in bytes
	Err    error
}

// Error names the file, and the line when there is one.
func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("journal: %s %s:%d: %v", e.Op, e.Path, e.Line, e.Err)
	}
	return fmt.Sprintf("journal: %s %s: %v", e.Op, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(op, path string, err error) error {
	return &Error{Op: op, Path: path, Err: err}
}

// ended returns the error of a context that has ended, with its cause.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
