package channel

import (
	"context"
	"encoding/base64"
	"time"
)

// Handler is the set of operations that the manager calls on an agent. An agent
// implements it; [Client] implements it too, over the wire.
//
// Methods are called concurrently. The context ends when the connection that
// carried the request is lost, so an operation that must outlive it (Install)
// only records the work and returns. An error that is, or wraps, a [*Fault]
// reaches the manager with its code; any other error becomes [CodeInternal].
type Handler interface {
	// Inventory reports what the host is and what is installed on it.
	Inventory(context.Context, *InventoryRequest) (*InventoryResponse, error)
	// Install starts a job. JobID is the idempotency key: the same request
	// again returns the job that exists.
	Install(context.Context, *InstallRequest) (*JobStatus, error)
	// Status reports a job and the part of its log that begins at LogOffset.
	Status(context.Context, *StatusRequest) (*JobStatus, error)
	// ListJobs reports all jobs that the agent has a record of, without logs.
	ListJobs(context.Context, *ListJobsRequest) (*ListJobsResponse, error)
	// Cancel asks a job to end. A job that must not be interrupted goes on;
	// the returned status tells.
	Cancel(context.Context, *CancelRequest) (*JobStatus, error)
	// Heartbeat extends the lease, after which an idle agent removes itself.
	Heartbeat(context.Context, *HeartbeatRequest) (*HeartbeatResponse, error)
	// Reboot restarts the host after showing Message to its users.
	Reboot(context.Context, *RebootRequest) (*RebootResponse, error)
	// Move moves the conversation from the port of the first contact to one of its
	// own, above 1024 and not to be foreseen.
	Move(context.Context, *MoveRequest) (*MoveResponse, error)
	// Stop ends the agent after the reply was sent.
	Stop(context.Context, *StopRequest) (*StopResponse, error)
}

// InventoryRequest asks what the host is.
type InventoryRequest struct {
	// Deep also asks for what is slow to find out, such as packages.
	Deep bool `xml:"Deep,omitempty"`
	// Probes are programs to run whose output tells a version. A client
	// without message authentication may not send any.
	Probes []Probe `xml:"Probe"`
}

// Probe is a program that reports a version. It is executed without a shell.
type Probe struct {
	Name           string   `xml:"Name"`
	Args           []string `xml:"Arg"`
	TimeoutSeconds uint32   `xml:"TimeoutSeconds,omitempty"` // 0: the agent decides
}

// InventoryResponse is what an agent knows about its host. Every string was
// chosen by the host: escape it before it is shown.
type InventoryResponse struct {
	HostName  string    `xml:"HostName"`
	Product   string    `xml:"Product"` // operating system, e.g. "Debian GNU/Linux"
	Version   string    `xml:"Version"` // of the operating system
	Arch      string    `xml:"Arch"`    // as GOARCH names it
	Kernel    string    `xml:"Kernel,omitempty"`
	Serial    string    `xml:"Serial,omitempty"`
	UUID      string    `xml:"UUID,omitempty"`
	BootID    string    `xml:"BootID,omitempty"` // differs after every boot
	AgentTime time.Time `xml:"AgentTime"`        // the host's clock; reported, never judged
	Epoch     string    `xml:"Epoch"`            // differs after every start of the agent; set by Server if empty

	Devices  []Device      `xml:"Device"`
	Software []Software    `xml:"Software"`
	Results  []ProbeResult `xml:"ProbeResult"`
	Problems []Problem     `xml:"Problem"`
}

// Device is one piece of hardware.
type Device struct {
	ID            string   `xml:"ID"`    // stable within the host
	Class         string   `xml:"Class"` // system, bios, bmc, nic, storage, disk, gpu, ...
	Name          string   `xml:"Name"`
	Vendor        string   `xml:"Vendor,omitempty"`
	Model         string   `xml:"Model,omitempty"`
	Serial        string   `xml:"Serial,omitempty"`
	Location      string   `xml:"Location,omitempty"`
	Firmware      string   `xml:"Firmware,omitempty"` // version as the device prints it
	Driver        string   `xml:"Driver,omitempty"`
	DriverVersion string   `xml:"DriverVersion,omitempty"`
	HardwareIDs   []string `xml:"HardwareID"`           // e.g. "PCI\\VEN_8086&DEV_1572"
	Updateable    *bool    `xml:"Updateable,omitempty"` // nil: not known
}

// Software is one installed package or product.
type Software struct {
	ID      string `xml:"ID,omitempty"` // what the system knows it by, where that is not Name
	Name    string `xml:"Name"`
	Vendor  string `xml:"Vendor,omitempty"`
	Version string `xml:"Version"`
	Arch    string `xml:"Arch,omitempty"`
	Source  string `xml:"Source,omitempty"` // deb, rpm, msi, ...
}

// ProbeResult is what one [Probe] printed.
type ProbeResult struct {
	Name      string `xml:"Name"`
	ExitCode  *int   `xml:"ExitCode,omitempty"` // nil: it did not run to its end
	Output    string `xml:"Output"`
	Truncated bool   `xml:"Truncated,omitempty"`
}

// Problem is a part of the inventory that could not be found out.
type Problem struct {
	Part string `xml:"Part"` // e.g. "packages", "device pci-0000:03:00.0"
	Text string `xml:"Text"`
}

// InstallRequest starts a job. The files must have been sent as blobs before.
type InstallRequest struct {
	JobID     string `xml:"JobId"` // see [NewJobID]
	Component string `xml:"Component"`
	Version   string `xml:"Version,omitempty"`
	Files     []File `xml:"File"`
	// Args is the command: the first is the program, found among Files or on
	// the host by its absolute path. There is no shell.
	Args []string `xml:"Arg"`
	// Env holds NAME=value pairs; an agent refuses names that it does not know.
	Env []string `xml:"Env"`
	// Profile names how exit codes are understood.
	Profile        string `xml:"Profile,omitempty"`
	TimeoutSeconds uint32 `xml:"TimeoutSeconds,omitempty"` // 0: no limit
	// NoKill says that the payload may never be interrupted, as a flash may
	// not: a timeout is then only reported.
	NoKill bool `xml:"NoKill,omitempty"`
	// SuspendBitLocker says that BitLocker of the drive of Windows must be suspended for
	// one start of the host before the command begins.
	SuspendBitLocker bool `xml:"SuspendBitLocker,omitempty"`
}

// File is one file of a component, laid out in the job's directory.
type File struct {
	Name       string `xml:"Name"`   // slash-separated, relative, without ".."
	SHA256     string `xml:"Sha256"` // 64 lower-case hexadecimal digits
	Size       int64  `xml:"Size"`   // bytes
	Executable bool   `xml:"Executable,omitempty"`
}

// StatusRequest asks for a job.
type StatusRequest struct {
	JobID     string `xml:"JobId"`
	LogOffset int64  `xml:"LogOffset,omitempty"` // bytes
}

// JobState is where a job stands.
type JobState string

// The states of a job. Done, Cancelled and Interrupted are final.
const (
	StateAccepted    JobState = "Accepted"    // recorded, not started
	StateRunning     JobState = "Running"     // its process exists
	StateDone        JobState = "Done"        // its process ended; see ExitCode or Signal
	StateCancelled   JobState = "Cancelled"   // ended because Cancel was called
	StateInterrupted JobState = "Interrupted" // it was running when the host went down
)

// Final reports whether the state will not change any more.
func (s JobState) Final() bool {
	return s == StateDone || s == StateCancelled || s == StateInterrupted
}

// JobStatus is where a job stands and a piece of its log.
type JobStatus struct {
	JobID    string   `xml:"JobId"`
	State    JobState `xml:"State"`
	ExitCode *int     `xml:"ExitCode,omitempty"` // nil: none, or not yet
	Signal   string   `xml:"Signal,omitempty"`   // e.g. "killed"
	Code     *Code    `xml:"Code,omitempty"`     // what the payload said, in its own terms
	Verdict  string   `xml:"Verdict,omitempty"`  // how the profile understands it
	// Activation is what makes a staged update take effect, e.g. "reboot".
	Activation string `xml:"Activation,omitempty"`
	Text       string `xml:"Text,omitempty"`    // the end of the output, as printable text
	Overdue    bool   `xml:"Overdue,omitempty"` // past its limit of time, and not to be killed

	StartedAt *time.Time `xml:"StartedAt,omitempty"` // by the host's clock
	EndedAt   *time.Time `xml:"EndedAt,omitempty"`
	BootID    string     `xml:"BootID,omitempty"` // the boot it was started in

	NextLogOffset int64  `xml:"NextLogOffset,omitempty"` // bytes; send it as the next LogOffset
	Log           Base64 `xml:"Log,omitempty"`
	LogTruncated  bool   `xml:"LogTruncated,omitempty"` // output past the cap was dropped
}

// Code is a raw result in the terms of whoever gave it.
type Code struct {
	Space string `xml:"Space"` // e.g. "dpkg", "exit", "msi"
	Value string `xml:"Value"`
}

// ListJobsRequest asks for all jobs.
type ListJobsRequest struct{}

// ListJobsResponse lists jobs, oldest first, without their logs.
type ListJobsResponse struct {
	Jobs []JobStatus `xml:"Job"`
}

// CancelRequest asks a job to end.
type CancelRequest struct {
	JobID string `xml:"JobId"`
}

// HeartbeatRequest extends the agent's lease.
type HeartbeatRequest struct {
	LeaseSeconds uint32 `xml:"LeaseSeconds,omitempty"` // 0: as before
}

// HeartbeatResponse tells the lease that is now in force.
type HeartbeatResponse struct {
	Epoch        string    `xml:"Epoch"` // set by Server if empty
	AgentTime    time.Time `xml:"AgentTime"`
	LeaseSeconds uint32    `xml:"LeaseSeconds"`
}

// RebootRequest restarts the host.
type RebootRequest struct {
	Message      string `xml:"Message,omitempty"` // for users who are logged in, in any language
	DelaySeconds uint32 `xml:"DelaySeconds,omitempty"`
}

// RebootResponse says that the restart is scheduled.
type RebootResponse struct{}

// MoveRequest moves the conversation. It is sent twice: over the first port, which
// the agent answers with another on which it listens then, too; and with Done over
// that one, after which it listens on that alone. The first port is free for others
// then, and who finds it cannot hold up the conversation. An agent that does not
// hear the second within a minute closes the new port again.
type MoveRequest struct {
	Done bool `xml:"Done,omitempty"`
}

// MoveResponse says where the conversation goes on.
type MoveResponse struct {
	Port uint32 `xml:"Port"` // TCP
}

// StopRequest ends the agent.
type StopRequest struct {
	Remove bool `xml:"Remove,omitempty"` // also delete everything but logs
}

// StopResponse tells what the agent leaves behind.
type StopResponse struct {
	Removed bool     `xml:"Removed,omitempty"` // its files are being deleted
	Left    []string `xml:"Left"`              // paths of the logs that stay
}

// Base64 is binary data that is base64Binary on the wire.
type Base64 []byte

// MarshalText implements [encoding.TextMarshaler].
func (b Base64) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]. White space is ignored,
// as XML Schema allows it in base64Binary.
func (b *Base64) UnmarshalText(text []byte) error {
	compact := make([]byte, 0, len(text))
	for _, c := range text {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			compact = append(compact, c)
		}
	}
	out, err := base64.StdEncoding.AppendDecode(nil, compact)
	if err != nil {
		return err
	}
	*b = out
	return nil
}
