package transport

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"net"
	"time"
)

// FileStore is the capability to keep files on the target ([CapFiles]). Names
// are slash-separated; where they start is the driver's choice (the root of the
// file system over SSH, a share over SMB).
type FileStore interface {
	// Stat describes a file, and a symbolic link itself.
	Stat(ctx context.Context, name string) (FileInfo, error)
	// List returns the entries of a directory, sorted by name.
	List(ctx context.Context, dir string) ([]FileInfo, error)
	// Mkdir makes a directory and the missing ones above it. Those that it makes
	// get the permissions perm; existing ones are left as they are.
	Mkdir(ctx context.Context, dir string, perm fs.FileMode) error
	// Put writes f under name: first to a partial file beside it, which an
	// interrupted Put leaves and a later Put of the same content continues, then,
	// when its SHA-256 has been verified on the target, by a rename onto name.
	Put(ctx context.Context, name string, f File, opts PutOptions) (PutResult, error)
	// Get copies the file to w from opts.Offset on and returns the bytes copied.
	Get(ctx context.Context, name string, w io.Writer, opts GetOptions) (int64, error)
	// Remove removes a file or an empty directory; one that is not empty is
	// fs.ErrExist.
	Remove(ctx context.Context, name string) error
}

// FileInfo describes a file on a target.
type FileInfo struct {
	Name    string      // base name
	Native  string      // full path as the target says it, such as `C:\Windows\x.exe`
	Size    int64       // bytes
	Mode    fs.FileMode // type and permissions, as far as the target has them
	ModTime time.Time
}

// IsDir reports whether the file is a directory.
func (fi FileInfo) IsDir() bool { return fi.Mode.IsDir() }

// PutOptions are the options of Put.
type PutOptions struct {
	// Mode is the permissions of the file; 0 means 0600.
	Mode fs.FileMode
	// Progress, if set, is called now and then with the bytes that are on the
	// target, from one goroutine at a time.
	Progress func(done int64)
}

// PutResult says what a Put did.
type PutResult struct {
	Info FileInfo
	Sent int64 // bytes that went over the line this time
	Kept int64 // bytes that were on the target already
}

// GetOptions are the options of Get.
type GetOptions struct {
	Offset int64 // bytes to skip
	Limit  int64 // bytes to copy at most; 0 means all
}

// Runner is the capability to run programs on the target ([CapRun]).
type Runner interface {
	// Run runs cmd and waits for its end. An exit status other than 0 is not an
	// error. A program that is missing is fs.ErrNotExist, or exit status 127 where a
	// shell of the target looks for it; see the function Run. When ctx ends the
	// program is ended as well as the protocol allows.
	Run(ctx context.Context, cmd Command) (Exit, error)
}

// Command is a program to run. No shell interprets its arguments.
type Command struct {
	Argv   []string // the program, a path or a name in the target's PATH, and its arguments
	Env    []string // "NAME=value", added to the target's own environment
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Tunnel says that the program carries a connection and runs for as long as
	// that: limits on calls count only its start. DialCommand sets it.
	Tunnel bool
}

// Exit is how a program ended.
type Exit struct {
	Code   int
	Signal string // without "SIG", if a signal ended it; Code is then -1
}

// Services is the capability to manage services ([CapServices]), as MS-SCMR
// defines it for Windows.
type Services interface {
	CreateService(ctx context.Context, cfg ServiceConfig) error
	StartService(ctx context.Context, name string, args ...string) error
	QueryService(ctx context.Context, name string) (ServiceStatus, error)
	// StopService asks the service to stop and waits until it has.
	StopService(ctx context.Context, name string) error
	DeleteService(ctx context.Context, name string) error
}

// ServiceConfig describes a service to create.
type ServiceConfig struct {
	Name        string
	DisplayName string
	Argv        []string // program as a native path, and arguments
}

// ServiceState is the state of a service.
type ServiceState string

// The states of a service.
const (
	ServiceStopped  ServiceState = "stopped"
	ServiceStarting ServiceState = "starting"
	ServiceRunning  ServiceState = "running"
	ServiceStopping ServiceState = "stopping"
)

// ServiceStatus is what QueryService returns.
type ServiceStatus struct {
	State ServiceState
	PID   uint32
	Exit  Code // why it stopped
}

// Tunneler is the capability to connect to sockets of the target from inside
// the connection ([CapTunnelUnix], [CapTunnelTCP], [CapTunnelPipe]): no further
// port of the target is needed.
type Tunneler interface {
	// DialContext connects to addr on network "unix" (a path), "tcp" (host:port
	// as the target sees it) or "pipe" (the name of a Windows named pipe).
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// Lister is the capability to name the parts behind a connection
// ([CapChildren]): the hosts of a vCenter, the bays of an enclosure.
type Lister interface {
	Children(ctx context.Context) iter.Seq2[Child, error]
}

// Child is one part behind a connection.
type Child struct {
	Object  string // for Endpoint.Object
	Name    string
	Type    string // the part's own word for what it is, such as "HostSystem" or "iLO"
	Address string // where it answers itself, if it does
}

// Inventorier is the capability to list hardware and software ([CapInventory]).
type Inventorier interface {
	Inventory(ctx context.Context) (*Inventory, error)
}

// Updater is the capability of devices to update themselves ([CapUpdate]).
// Servers have none: an agent updates them.
type Updater interface {
	// Update applies p and waits for the end. It returns an error when it could
	// not find out what became of the update; what the device itself says about
	// it, refusals included, is in the Result. With opts.Resume it goes on where
	// an earlier call stopped, and sends nothing twice.
	Update(ctx context.Context, p Payload, opts UpdateOptions) (Result, error)
}

// Undoer is the capability to take back what a dead run left on the target, such
// as a queue item or maintenance mode ([CapUndo]).
type Undoer interface {
	Undo(ctx context.Context, s State) error
}

// Rebooter is the capability to reboot the target ([CapReboot]).
type Rebooter interface {
	Reboot(ctx context.Context, opts RebootOptions) error
}

// Spacer is the capability to tell how much room there is ([CapSpace]), without a program
// on the target.
type Spacer interface {
	// Space returns how many bytes this user may write in a directory; fs.ErrNotExist if
	// there is none.
	Space(ctx context.Context, dir string) (int64, error)
}

// Clocker is the capability to tell what time it is on the target ([CapClock]), without a
// program there.
type Clocker interface {
	Clock(ctx context.Context) (Clock, error)
}

// Clock compares the target's clock with the manager's.
type Clock struct {
	Skew   time.Duration // by how much the target's is ahead
	Within time.Duration // how far off Skew may be, in both directions
}

// RebootOptions are the options of Reboot.
type RebootOptions struct {
	Message string        // shown to logged-in users, in any language
	Delay   time.Duration // rounded up to what the target supports
}
