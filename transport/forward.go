package transport

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"net"
)

// Forward passes every capability of a Conn on. Decorators embed it and override
// what they change: a type that embeds Forward has the capabilities of the
// wrapped connection, no more and no fewer, because each method goes through the
// package function of its capability.
//
//	type counted struct {
//		transport.Forward
//		runs atomic.Int64
//	}
//
//	func (c *counted) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
//		c.runs.Add(1)
//		return c.Forward.Run(ctx, cmd)
//	}
type Forward struct{ Conn }

var _ interface {
	Conn
	FileStore
	Runner
	Services
	Tunneler
	Lister
	Inventorier
	Updater
	Undoer
	Rebooter
	Spacer
	Clocker
	Explainer
} = Forward{}

// WhyNot implements Explainer.
func (f Forward) WhyNot(want Caps) error { return whyNot(f.Conn, want) }

// Stat implements FileStore.
func (f Forward) Stat(ctx context.Context, name string) (FileInfo, error) {
	return Stat(ctx, f.Conn, name)
}

// List implements FileStore.
func (f Forward) List(ctx context.Context, dir string) ([]FileInfo, error) {
	return List(ctx, f.Conn, dir)
}

// Mkdir implements FileStore.
func (f Forward) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	return Mkdir(ctx, f.Conn, dir, perm)
}

// Put implements FileStore.
func (f Forward) Put(ctx context.Context, name string, file File, opts PutOptions) (PutResult, error) {
	return Put(ctx, f.Conn, name, file, opts)
}

// Get implements FileStore.
func (f Forward) Get(ctx context.Context, name string, w io.Writer, opts GetOptions) (int64, error) {
	return Get(ctx, f.Conn, name, w, opts)
}

// Remove implements FileStore.
func (f Forward) Remove(ctx context.Context, name string) error { return Remove(ctx, f.Conn, name) }

// Run implements Runner.
func (f Forward) Run(ctx context.Context, cmd Command) (Exit, error) { return Run(ctx, f.Conn, cmd) }

// CreateService implements Services.
func (f Forward) CreateService(ctx context.Context, cfg ServiceConfig) error {
	return CreateService(ctx, f.Conn, cfg)
}

// StartService implements Services.
func (f Forward) StartService(ctx context.Context, name string, args ...string) error {
	return StartService(ctx, f.Conn, name, args...)
}

// QueryService implements Services.
func (f Forward) QueryService(ctx context.Context, name string) (ServiceStatus, error) {
	return QueryService(ctx, f.Conn, name)
}

// StopService implements Services.
func (f Forward) StopService(ctx context.Context, name string) error {
	return StopService(ctx, f.Conn, name)
}

// DeleteService implements Services.
func (f Forward) DeleteService(ctx context.Context, name string) error {
	return DeleteService(ctx, f.Conn, name)
}

// DialContext implements Tunneler.
func (f Forward) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return Dial(ctx, f.Conn, network, addr)
}

// Children implements Lister.
func (f Forward) Children(ctx context.Context) iter.Seq2[Child, error] { return Children(ctx, f.Conn) }

// Inventory implements Inventorier.
func (f Forward) Inventory(ctx context.Context) (*Inventory, error) {
	return ReadInventory(ctx, f.Conn)
}

// Update implements Updater.
func (f Forward) Update(ctx context.Context, p Payload, opts UpdateOptions) (Result, error) {
	return Update(ctx, f.Conn, p, opts)
}

// Undo implements Undoer.
func (f Forward) Undo(ctx context.Context, s State) error { return Undo(ctx, f.Conn, s) }

// Space implements Spacer.
func (f Forward) Space(ctx context.Context, dir string) (int64, error) {
	return Space(ctx, f.Conn, dir)
}

// Clock implements Clocker.
func (f Forward) Clock(ctx context.Context) (Clock, error) { return ReadClock(ctx, f.Conn) }

// Reboot implements Rebooter.
func (f Forward) Reboot(ctx context.Context, opts RebootOptions) error {
	return Reboot(ctx, f.Conn, opts)
}
