package sum

import "errors"

// Classes of failure, for errors.Is. Beside them the sentinels of packages
// transport and agent match where the cause is theirs.
var (
	// ErrInvalid: the input makes no sense; nothing was done.
	ErrInvalid = errors.New("invalid input")
	// ErrPlanStale: the target or a payload is no longer what the plan was made for.
	ErrPlanStale = errors.New("plan no longer matches")
	// ErrPending: what this run or an earlier one began is not finished.
	ErrPending = errors.New("work that was begun is not finished")
	// ErrClosed: the session was closed.
	ErrClosed = errors.New("session closed")
	// ErrJournal: the journal cannot be written, so nothing may be changed.
	ErrJournal = errors.New("journal not writable")
)

// Error says which step failed on which target, and for which component.
type Error struct {
	Target    string
	Step      string // such as "dial", "inventory", "deploy"
	Component string
	Err       error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Step
	if e.Component != "" {
		s += " " + e.Component
	}
	if e.Target != "" {
		s = e.Target + ": " + s
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
