package agent

import (
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/transport"
)

// Classes of failure of an agent, for errors.Is. Failures of the connection
// below match the sentinels of package transport as well.
var (
	// ErrNoJob: the agent has no record of this job.
	ErrNoJob = errors.New("no such job")
	// ErrNoRecords: the agent has no record of this job, nor of anything: its
	// directory is new. The job may have run, and its record have been deleted since.
	// It matches ErrNoJob too.
	ErrNoRecords = fmt.Errorf("%w: the directory of the agent is new", ErrNoJob)
	// ErrJobRunning: a job runs, so the agent cannot go.
	ErrJobRunning = errors.New("a job is running")
	// ErrHostBusy: the program of another job runs on this host, maybe another
	// manager's, or the host is about to restart. It matches transport.ErrBusy too. The
	// job was not begun; once that is over it can be tried again.
	ErrHostBusy = fmt.Errorf("another job, or a restart, has this host: %w", transport.ErrBusy)
	// ErrJobConflict: the job's ID is taken by a job with other contents.
	ErrJobConflict = errors.New("job id is taken by another job")
	// ErrNoDir: no directory of the target lets a program be put and executed.
	ErrNoDir = errors.New("no directory to run the agent from")
	// ErrNoBinary: there is no agent binary for the target's system.
	ErrNoBinary = errors.New("no agent binary for this system")
	// ErrPolicy: a security policy of the target, such as that of SELinux or of
	// fapolicyd, forbids to execute the agent's program. Error.Hint says what an
	// administrator must do.
	ErrPolicy = errors.New("a security policy forbids to execute the program")
	// ErrNoExec: a file system of the target lets nobody execute programs on it.
	ErrNoExec = errors.New("mounted so that no program can be executed")
	// ErrFirewall: the manager cannot be let through the target's own firewall.
	ErrFirewall = errors.New("the target's firewall cannot be opened")
	// ErrStart: the agent was copied but did not come up.
	ErrStart = errors.New("agent did not start")
	// ErrQuarantined: a file vanished after it had been copied and verified.
	ErrQuarantined = errors.New("file vanished after the copy, as a virus scanner does it")
)

// Error says what failed between manager and agent.
type Error struct {
	Op     string // such as "start", "install", "status"
	Target string
	Kind   error          // a sentinel of this package or of package transport
	Code   transport.Code // what the target said
	Hint   string
	Err    error // the cause
}

// Error implements error.
func (e *Error) Error() string {
	s := "agent " + e.Op
	if e.Target != "" {
		s += " on " + e.Target
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	if !e.Code.IsZero() {
		s += " (" + e.Code.String() + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// ErrorCode returns Code, for transport.CodeOf.
func (e *Error) ErrorCode() transport.Code { return e.Code }

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
