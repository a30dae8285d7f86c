package agent

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// Ops is what the manager asks of an agent. A [Client] does it over the
// channel; package agenttest has a fake. Errors are [*Error]s. Implementations
// are safe for concurrent use.
type Ops interface {
	// Inventory reports hardware, software and what the probes printed.
	Inventory(ctx context.Context, req InventoryRequest) (*transport.Inventory, error)
	// Stage puts a file into the agent's store, under its digest. What is there
	// already, whole or in part, is not sent again.
	Stage(ctx context.Context, f transport.File, progress func(done int64)) (transport.PutResult, error)
	// Install starts a job from staged files. Job.ID is the idempotency key: a
	// job that exists is reported and never started again. While another job runs
	// on the host, of this agent or of another below the same base directory, or a
	// restart is due, it fails with ErrHostBusy; while a program runs on whose shim has died, at least
	// with transport.ErrBusy.
	Install(ctx context.Context, job Job) (Status, error)
	// Status reports a job and the part of its log from logOffset (bytes) on.
	// An unknown job is ErrNoJob.
	Status(ctx context.Context, id string, logOffset int64) (Status, error)
	// Jobs reports every job that the agent has a record of, without logs.
	Jobs(ctx context.Context) ([]Status, error)
	// Cancel asks a job to end. One that must not be interrupted goes on. A
	// program without a shim that does not listen is killed by a call more than
	// 10 s later.
	Cancel(ctx context.Context, id string) (Status, error)
	// Logs names the log files that can be fetched.
	Logs(ctx context.Context) ([]transport.FileInfo, error)
	// Log copies a log file to w.
	Log(ctx context.Context, name string, w io.Writer) error
	// Reboot restarts the host after showing a message to its users. It fails with
	// ErrJobRunning while a job of this agent runs, and with ErrHostBusy while
	// another's does. From then on no job begins until the host has restarted.
	Reboot(ctx context.Context, opts transport.RebootOptions) error
	// Stop ends the agent. With remove it first deletes everything that it
	// brought except logs, and returns the paths of those. Where no job ran and
	// nothing went wrong there are none.
	Stop(ctx context.Context, remove bool) (left []string, err error)
}

// InventoryRequest says what to look for.
type InventoryRequest struct {
	Probes []Probe // programs that print a version
}

// Probe is a program on the target that prints the version of something that no
// package manager knows. It runs without a shell, under a limit of time and
// output; the first line that it prints, trimmed, is the version. A program that
// is missing, exits with a status other than 0 or prints nothing means: not
// installed; the inventory's Notes then have what it did, by ProbePart.
type Probe struct {
	Name    string
	Argv    []string
	Timeout time.Duration // 0 means 30 s
}

// ProbeSource is the Source of Software that a probe found.
const ProbeSource = "probe"

// ProbePart is the Part of the Problem of a probe that gave no answer: it did not
// end in time, or could not be run. A program that is missing, or that ends with
// a status other than 0, is an answer. It is the Part of the note on such a one, too.
func ProbePart(name string) string { return "probe " + name }

// ProbeNote is the text of the note on a probe that found nothing installed: code is
// its exit status, or less than 0 if there is no such program, and line the first
// line that it printed.
func ProbeNote(code int, line string) string {
	switch {
	case code < 0:
		return "its program was not found"
	case line == "":
		return fmt.Sprintf("it ended with exit status %d and printed nothing", code)
	}
	return fmt.Sprintf("it ended with exit status %d and printed %.200q", code, line)
}

// Job is one component to install.
type Job struct {
	ID        string // see channel.NewJobID
	Component string
	Version   string
	Files     []JobFile
	// Argv is the command. It runs without a shell in a private directory that
	// holds Files; "{dir}" in an argument stands for that directory. The program
	// is one of Files if its name starts with "./", else it is found by its
	// absolute path or in the agent's PATH. The arguments stay in the job's record.
	Argv []string
	// Env has NAME=value; see Environment for the names an agent accepts. It is
	// not recorded.
	Env     []string
	Profile Profile
	Timeout time.Duration // 0: no limit
	NoKill  bool          // a timeout or Cancel is only recorded, never enforced
	// SuspendBitLocker suspends BitLocker of the drive of Windows until the host has been
	// started once, before the program begins: for what changes that which the TPM measures.
	// Where that fails the program is not started. Where there is no BitLocker, or it is off,
	// nothing is needed, and the job's log says so.
	SuspendBitLocker bool `json:",omitempty"`
}

// JobFile is a staged file and its name in the job's directory.
type JobFile struct {
	Name       string
	SHA256     string // 64 lower-case hexadecimal digits
	Size       int64
	Executable bool
}

// State is where a job stands.
type State string

// The states of a job. Done, Cancelled and Interrupted are final.
const (
	Accepted    State = "Accepted"
	Running     State = "Running"
	Done        State = "Done"
	Cancelled   State = "Cancelled"
	Interrupted State = "Interrupted" // the host or the job's shim died while it ran; it runs no more
)

// Final reports whether the state will not change any more.
func (s State) Final() bool { return s == Done || s == Cancelled || s == Interrupted }

// Status is where a job stands and a piece of its log.
type Status struct {
	ID           string
	State        State
	Exit         *transport.Exit  // how the program ended, if it has
	Result       transport.Result // how the profile understands it; meaningful once State is Done
	Started      time.Time        // on the target's clock
	Ended        time.Time
	BootID       string // the boot in which it was started
	Log          []byte
	NextLog      int64 // offset for the next call
	Overdue      bool  // past its timeout, but not to be killed
	LogTruncated bool  // output beyond the cap was dropped
}

// Place is where an agent is on its target: enough to find and remove it again,
// and no secret.
type Place struct {
	ID   string `json:"id"`  // of this manager and target; names the directory
	Dir  string `json:"dir"` // the agent's directory, as FileStore names it
	Addr string `json:"addr,omitempty"`
}

// StartOptions are the options of Installer.Start.
type StartOptions struct {
	// Target is the target's name, for messages and certificates.
	Target string
	// ID names the agent's directory below the base directory. The same ID finds
	// the files and jobs of an earlier agent again.
	ID string
	// Place is where an earlier agent with this ID was, if that is known; no
	// other directory is then tried.
	Place *Place
	// BaseDirs are tried in order; nil means DefaultBaseDirs. Jobs exclude each
	// other below one base directory, and below all the default ones: managers that
	// share a host use those, or one and the same.
	BaseDirs []string
	// Lease is how long the agent stays without hearing from the manager when it
	// has no job; 0 means 15 minutes.
	Lease time.Duration
	// KeepLogs is how long logs of agents that have left stay on the target after
	// they were last written; 0 means 30 days, and less than 0 for ever. An agent
	// that begins deletes older ones below its base directory: the directories of
	// the same user with the name of an ID of package sum that hold logs and job
	// records alone. Without an agent the time is rounded up to whole days. They
	// may be another manager's: so records stay for 30 days at least. One that nobody
	// has fetched by then is lost; an inventory has to decide on its job (ErrNoRecords).
	KeepLogs time.Duration
	// Opened is called before the first change on the target, and again when the
	// place is known better. An error stops the start.
	Opened func(ctx context.Context, p Place) error
	// Classic, if not nil, asks for the conversation of HP SUM 4 to 6. It means
	// nothing where no agent listens: on the manager's own host, and without agents.
	Classic *Classic
}

// Classic is the conversation of HP SUM 4 to 6: the agent listens on TCP port
// DefaultPort or the next free one of the target, the manager dials that, and the
// agent dials the manager to tell of news. After the first contact each may go on
// at a port above 1024 that nobody can foresee, so that the first is free for
// others, and who finds it by a scan cannot hold up the conversation.
type Classic struct {
	// Dial dials the agent's port; nil is net.Dialer's. Where the connection does
	// not know the target's address, as behind a jump host, the agent is reached
	// through the connection instead.
	Dial transport.DialFunc
	// Stay leaves the conversation at the agent's first port.
	Stay bool
	// OpenFirewall lets the manager, and nobody else, through the target's firewall to
	// the ports of the agent, for as long as it listens there. Where the agent cannot
	// do that Start fails, with the rule to add by hand.
	OpenFirewall bool
	// Callback, if not nil, is called before the agent starts, with what the manager
	// proves itself with to that agent, and returns where the agent reaches the
	// manager, as "host:port", in the order in which they are to be tried. release
	// is called when the channel is closed, or the start failed. On Windows the agent
	// makes its key when it starts: m trusts nobody before (channel.OwnKey.AwaitAgent).
	Callback func(ctx context.Context, m *channel.ManagerCredentials) (addrs []string, release func(), err error)
}

// An Installer makes running agents. It is safe for concurrent use.
type Installer interface {
	// Start brings an agent to the target behind conn, or finds the files of an
	// earlier one, starts it, and connects to it through conn. It leaves nothing
	// behind when it fails.
	Start(ctx context.Context, conn transport.Conn, opts StartOptions) (Agent, error)
	// Sweep removes what an agent at p left, except logs; it stops the agent if
	// it still runs, unless a job runs: that is ErrJobRunning. It returns the
	// paths that stay.
	Sweep(ctx context.Context, conn transport.Conn, p Place) (left []string, err error)
	// Inspect looks at the target before anything is done there.
	Inspect(ctx context.Context, conn transport.Conn, opts InspectOptions) (Inspector, error)
}

// Agent is a running agent and the channel to it.
type Agent interface {
	Ops
	Place() Place
	// Remove stops the agent, checks that only logs are left, and closes the
	// channel. It fails with ErrJobRunning while a job runs.
	Remove(ctx context.Context) (left []string, err error)
	// Close closes the channel and leaves the agent to its lease.
	Close(ctx context.Context) error
}
