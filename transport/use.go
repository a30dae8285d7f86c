package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"path"
	"strings"
)

// as returns conn as the capability T, if conn has the capability now.
func as[T any](conn Conn, op string, want Caps) (T, error) {
	var zero T
	if err := need(conn, op, want); err != nil {
		return zero, err
	}
	t, ok := conn.(T)
	if !ok {
		return zero, unsupported(op, want.String())
	}
	return t, nil
}

// Stat describes the named file of the target.
func Stat(ctx context.Context, conn Conn, name string) (FileInfo, error) {
	s, err := as[FileStore](conn, "stat", CapFiles)
	if err != nil {
		return FileInfo{}, err
	}
	return s.Stat(ctx, name)
}

// List returns the entries of a directory of the target, sorted by name.
func List(ctx context.Context, conn Conn, dir string) ([]FileInfo, error) {
	s, err := as[FileStore](conn, "list", CapFiles)
	if err != nil {
		return nil, err
	}
	return s.List(ctx, dir)
}

// Mkdir makes a directory on the target, and the missing ones above it.
func Mkdir(ctx context.Context, conn Conn, dir string, perm fs.FileMode) error {
	s, err := as[FileStore](conn, "mkdir", CapFiles)
	if err != nil {
		return err
	}
	return s.Mkdir(ctx, dir, perm)
}

// Put writes f to the target under name, resuming what an interrupted Put left.
func Put(ctx context.Context, conn Conn, name string, f File, opts PutOptions) (PutResult, error) {
	s, err := as[FileStore](conn, "put", CapFiles)
	if err != nil {
		return PutResult{}, err
	}
	return s.Put(ctx, name, f, opts)
}

// Get copies the named file of the target to w and returns the bytes copied. More
// than opts.Limit bytes never reach w: that a target sends more is ErrProtocol.
func Get(ctx context.Context, conn Conn, name string, w io.Writer, opts GetOptions) (int64, error) {
	s, err := as[FileStore](conn, "get", CapFiles)
	if err != nil {
		return 0, err
	}
	if opts.Limit <= 0 {
		return s.Get(ctx, name, w, opts)
	}
	l := &limitWriter{w: w, left: opts.Limit}
	n, err := s.Get(ctx, name, l, opts)
	if l.over {
		return opts.Limit - l.left, &Error{Op: "get", Path: name, Kind: ErrProtocol, Err: errOverLimit}
	}
	return n, err
}

// limitWriter passes on so many bytes and refuses the rest: whoever sets a limit
// has room for no more, and what keeps it may run on the target.
type limitWriter struct {
	w    io.Writer
	left int64
	over bool
}

var errOverLimit = errors.New("the target sent more bytes than were asked for")

func (l *limitWriter) Write(p []byte) (int, error) {
	l.over = l.over || int64(len(p)) > l.left
	n, err := l.w.Write(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err == nil && n < len(p) && l.over {
		err = errOverLimit
	}
	return n, err
}

// Remove removes a file or an empty directory of the target.
func Remove(ctx context.Context, conn Conn, name string) error {
	s, err := as[FileStore](conn, "remove", CapFiles)
	if err != nil {
		return err
	}
	return s.Remove(ctx, name)
}

// RemoveAll removes name and all below it; that it is missing is no error.
// Symbolic links are removed, never followed.
func RemoveAll(ctx context.Context, conn Conn, name string) error {
	return removeAll(ctx, conn, name, 0)
}

// maxDepth bounds recursion into directories that a target lists.
const maxDepth = 64

func removeAll(ctx context.Context, conn Conn, name string, depth int) error {
	// First, so that a link is removed before anything could follow it.
	err := Remove(ctx, conn, name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fi, serr := Stat(ctx, conn, name)
	if serr != nil {
		if errors.Is(serr, fs.ErrNotExist) {
			return nil
		}
		return serr
	}
	if !fi.IsDir() {
		return err
	}
	if depth == maxDepth {
		return &Error{Op: "remove", Path: name, Kind: ErrRejected, Hint: "directories nest too deep"}
	}
	entries, err := List(ctx, conn, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		// The names are the target's: they must not lead out of the directory.
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") {
			return &Error{Op: "remove", Path: name, Kind: ErrProtocol, Err: fmt.Errorf("the target listed an entry named %q", e.Name)}
		}
		if err := removeAll(ctx, conn, path.Join(name, e.Name), depth+1); err != nil {
			return err
		}
	}
	if err := Remove(ctx, conn, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Run runs a program on the target and waits for its end. An exit status other
// than 0 is not an error.
//
// That there is no such program shows in one of two ways. Where the driver starts
// the program itself, as transport/local does, it is an error that matches
// fs.ErrNotExist. Where a shell of the target does, as over SSH, it is that shell's
// exit status 127, which a program that ran may have ended with, too; 126 is one that
// is there and cannot be executed. A caller who must know tests for both:
//
//	errors.Is(err, fs.ErrNotExist) || err == nil && exit.Code == 127
//
// and if a program that ends with 127 by itself is to be told apart, asks for the
// file first, by Stat of its absolute path.
func Run(ctx context.Context, conn Conn, cmd Command) (Exit, error) {
	r, err := as[Runner](conn, "run", CapRun)
	if err != nil {
		return Exit{}, err
	}
	return r.Run(ctx, cmd)
}

// CreateService creates a service on the target; fs.ErrExist if there is one.
func CreateService(ctx context.Context, conn Conn, cfg ServiceConfig) error {
	s, err := as[Services](conn, "create service", CapServices)
	if err != nil {
		return err
	}
	return s.CreateService(ctx, cfg)
}

// StartService starts a service of the target.
func StartService(ctx context.Context, conn Conn, name string, args ...string) error {
	s, err := as[Services](conn, "start service", CapServices)
	if err != nil {
		return err
	}
	return s.StartService(ctx, name, args...)
}

// QueryService asks for the state of a service; fs.ErrNotExist if there is none.
func QueryService(ctx context.Context, conn Conn, name string) (ServiceStatus, error) {
	s, err := as[Services](conn, "query service", CapServices)
	if err != nil {
		return ServiceStatus{}, err
	}
	return s.QueryService(ctx, name)
}

// StopService stops a service and waits until it has stopped.
func StopService(ctx context.Context, conn Conn, name string) error {
	s, err := as[Services](conn, "stop service", CapServices)
	if err != nil {
		return err
	}
	return s.StopService(ctx, name)
}

// DeleteService deletes a service.
func DeleteService(ctx context.Context, conn Conn, name string) error {
	s, err := as[Services](conn, "delete service", CapServices)
	if err != nil {
		return err
	}
	return s.DeleteService(ctx, name)
}

// Dial connects to a socket of the target through conn. The networks are
// "unix", "tcp" and "pipe".
func Dial(ctx context.Context, conn Conn, network, addr string) (net.Conn, error) {
	want, err := tunnelCap(network)
	if err != nil {
		return nil, err
	}
	t, err := as[Tunneler](conn, "tunnel", want)
	if err != nil {
		return nil, err
	}
	return t.DialContext(ctx, network, addr)
}

func tunnelCap(network string) (Caps, error) {
	switch network {
	case "unix":
		return CapTunnelUnix, nil
	case "tcp":
		return CapTunnelTCP, nil
	case "pipe":
		return CapTunnelPipe, nil
	}
	return 0, &Error{Op: "tunnel", Kind: ErrInvalid, Hint: `networks are "unix", "tcp" and "pipe", not "` + network + `"`}
}

// Children yields the parts behind conn. An error ends the sequence.
func Children(ctx context.Context, conn Conn) iter.Seq2[Child, error] {
	l, err := as[Lister](conn, "children", CapChildren)
	if err != nil {
		return func(yield func(Child, error) bool) { yield(Child{}, err) }
	}
	return l.Children(ctx)
}

// ReadInventory lists the hardware and software of the target.
func ReadInventory(ctx context.Context, conn Conn) (*Inventory, error) {
	i, err := as[Inventorier](conn, "inventory", CapInventory)
	if err != nil {
		return nil, err
	}
	return i.Inventory(ctx)
}

// Update lets a device update itself.
func Update(ctx context.Context, conn Conn, p Payload, opts UpdateOptions) (Result, error) {
	u, err := as[Updater](conn, "update", CapUpdate)
	if err != nil {
		return Result{}, err
	}
	return u.Update(ctx, p, opts)
}

// Undo takes back what a dead run left on the target.
func Undo(ctx context.Context, conn Conn, s State) error {
	u, err := as[Undoer](conn, "undo", CapUndo)
	if err != nil {
		return err
	}
	return u.Undo(ctx, s)
}

// Space returns how many bytes may be written in a directory of the target.
func Space(ctx context.Context, conn Conn, dir string) (int64, error) {
	s, err := as[Spacer](conn, "space", CapSpace)
	if err != nil {
		return 0, err
	}
	return s.Space(ctx, dir)
}

// ReadClock compares the target's clock with the manager's.
func ReadClock(ctx context.Context, conn Conn) (Clock, error) {
	c, err := as[Clocker](conn, "clock", CapClock)
	if err != nil {
		return Clock{}, err
	}
	return c.Clock(ctx)
}

// Reboot reboots the target.
func Reboot(ctx context.Context, conn Conn, opts RebootOptions) error {
	r, err := as[Rebooter](conn, "reboot", CapReboot)
	if err != nil {
		return err
	}
	return r.Reboot(ctx, opts)
}
