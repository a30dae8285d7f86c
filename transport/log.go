package transport

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"time"
)

// Log returns a Transport that writes one record for each call: at level debug
// when it succeeded, at level warn when it failed. Records carry the target's
// address, names and sizes, never contents, arguments' values or credentials: an
// argument of a command may be a password on its way to a switch, so of a
// command only the program is named.
func Log(t Transport, logger *slog.Logger) Transport { return &logTransport{t, logger} }

type logTransport struct {
	t      Transport
	logger *slog.Logger
}

func (l *logTransport) Dial(ctx context.Context, ep Endpoint) (Conn, error) {
	log := l.logger.With("target", ep.Address)
	if ep.Object != "" {
		log = log.With("object", ep.Object)
	}
	conn, err := logged(ctx, log, "dial", func() (Conn, error) { return l.t.Dial(ctx, ep) }, "user", ep.Credentials.User)
	if err != nil {
		return nil, err
	}
	return &logConn{Forward{conn}, log}, nil
}

// logged runs f and writes its record.
func logged[T any](ctx context.Context, log *slog.Logger, op string, f func() (T, error), attrs ...any) (T, error) {
	start := time.Now()
	v, err := f()
	attrs = append(attrs, "took", time.Since(start))
	if err != nil {
		log.WarnContext(ctx, op, append(attrs, "err", err)...)
	} else {
		log.DebugContext(ctx, op, attrs...)
	}
	return v, err
}

type logConn struct {
	Forward
	log *slog.Logger
}

// err is logged for calls that return an error only.
func (c *logConn) err(ctx context.Context, op string, f func() error, attrs ...any) error {
	_, err := logged(ctx, c.log, op, func() (struct{}, error) { return struct{}{}, f() }, attrs...)
	return err
}

func (c *logConn) Identify(ctx context.Context) (Identity, error) {
	return logged(ctx, c.log, "identify", func() (Identity, error) { return c.Conn.Identify(ctx) })
}

func (c *logConn) Close(ctx context.Context) error {
	return c.err(ctx, "close", func() error { return c.Conn.Close(ctx) })
}

func (c *logConn) Stat(ctx context.Context, name string) (FileInfo, error) {
	return logged(ctx, c.log, "stat", func() (FileInfo, error) { return c.Forward.Stat(ctx, name) }, "path", name)
}

func (c *logConn) List(ctx context.Context, dir string) ([]FileInfo, error) {
	return logged(ctx, c.log, "list", func() ([]FileInfo, error) { return c.Forward.List(ctx, dir) }, "path", dir)
}

func (c *logConn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	return c.err(ctx, "mkdir", func() error { return c.Forward.Mkdir(ctx, dir, perm) }, "path", dir, "perm", perm)
}

func (c *logConn) Put(ctx context.Context, name string, f File, opts PutOptions) (PutResult, error) {
	return logged(ctx, c.log, "put", func() (PutResult, error) { return c.Forward.Put(ctx, name, f, opts) },
		"path", name, "size", f.Size, "sha256", f.Digest())
}

func (c *logConn) Get(ctx context.Context, name string, w io.Writer, opts GetOptions) (int64, error) {
	return logged(ctx, c.log, "get", func() (int64, error) { return c.Forward.Get(ctx, name, w, opts) },
		"path", name, "offset", opts.Offset)
}

func (c *logConn) Remove(ctx context.Context, name string) error {
	return c.err(ctx, "remove", func() error { return c.Forward.Remove(ctx, name) }, "path", name)
}

func (c *logConn) Run(ctx context.Context, cmd Command) (Exit, error) {
	program := ""
	if len(cmd.Argv) > 0 {
		program = cmd.Argv[0]
	}
	return logged(ctx, c.log, "run", func() (Exit, error) { return c.Forward.Run(ctx, cmd) },
		"program", program, "args", max(0, len(cmd.Argv)-1))
}

func (c *logConn) CreateService(ctx context.Context, cfg ServiceConfig) error {
	return c.err(ctx, "create service", func() error { return c.Forward.CreateService(ctx, cfg) }, "service", cfg.Name)
}

func (c *logConn) StartService(ctx context.Context, name string, args ...string) error {
	return c.err(ctx, "start service", func() error { return c.Forward.StartService(ctx, name, args...) }, "service", name)
}

func (c *logConn) QueryService(ctx context.Context, name string) (ServiceStatus, error) {
	return logged(ctx, c.log, "query service", func() (ServiceStatus, error) { return c.Forward.QueryService(ctx, name) },
		"service", name)
}

func (c *logConn) StopService(ctx context.Context, name string) error {
	return c.err(ctx, "stop service", func() error { return c.Forward.StopService(ctx, name) }, "service", name)
}

func (c *logConn) DeleteService(ctx context.Context, name string) error {
	return c.err(ctx, "delete service", func() error { return c.Forward.DeleteService(ctx, name) }, "service", name)
}

func (c *logConn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return logged(ctx, c.log, "tunnel", func() (net.Conn, error) { return c.Forward.DialContext(ctx, network, addr) },
		"network", network, "addr", addr)
}

func (c *logConn) Children(ctx context.Context) iter.Seq2[Child, error] {
	return func(yield func(Child, error) bool) {
		n := 0
		var last error
		start := time.Now()
		defer func() {
			if last != nil {
				c.log.WarnContext(ctx, "children", "count", n, "took", time.Since(start), "err", last)
			} else {
				c.log.DebugContext(ctx, "children", "count", n, "took", time.Since(start))
			}
		}()
		for child, err := range c.Forward.Children(ctx) {
			if last = err; err == nil {
				n++
			}
			if !yield(child, err) {
				return
			}
		}
	}
}

func (c *logConn) Inventory(ctx context.Context) (*Inventory, error) {
	return logged(ctx, c.log, "inventory", func() (*Inventory, error) { return c.Forward.Inventory(ctx) })
}

func (c *logConn) Update(ctx context.Context, p Payload, opts UpdateOptions) (Result, error) {
	return logged(ctx, c.log, "update", func() (Result, error) { return c.Forward.Update(ctx, p, opts) },
		"payload", p.Name, "version", p.Version, "resumed", opts.Resume != nil)
}

func (c *logConn) Undo(ctx context.Context, s State) error {
	return c.err(ctx, "undo", func() error { return c.Forward.Undo(ctx, s) }, "driver", s.Driver, "phase", s.Phase)
}

func (c *logConn) Reboot(ctx context.Context, opts RebootOptions) error {
	return c.err(ctx, "reboot", func() error { return c.Forward.Reboot(ctx, opts) }, "delay", opts.Delay)
}

func (c *logConn) Space(ctx context.Context, dir string) (int64, error) {
	return logged(ctx, c.log, "space", func() (int64, error) { return c.Forward.Space(ctx, dir) }, "path", dir)
}

func (c *logConn) Clock(ctx context.Context) (Clock, error) {
	return logged(ctx, c.log, "clock", func() (Clock, error) { return c.Forward.Clock(ctx) })
}
