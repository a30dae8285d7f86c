package smb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// conn is one connection. It is safe for concurrent use.
type conn struct {
	target  string
	host    string
	opts    Options
	session session
	volume  volume // Options.Share
	path    transport.Path
	hello   greeting
	silence func() time.Duration // how long the line has been silent; nil: not known
	// again logs in once more, for a tunnel.
	again func(ctx context.Context) (session, error)
	// aside opens connections beside that of SMB; nil: there is no account for them.
	aside aside
	// credential is that account as go-msrpc wants it. It is a function so that who
	// formats or logs a connection does not get to see it.
	credential func() any

	ctx    context.Context // ends when the connection is closed or lost; its cause says which
	cancel context.CancelCauseFunc
	ops    sync.WaitGroup // calls of the caller's
	lib    sync.WaitGroup // calls of the backend
	bg     sync.WaitGroup // what ends with the connection
	watch  sync.WaitGroup // keepAlive, and what it asks

	mu      sync.Mutex
	closing bool
	once    sync.Once
	pipes   map[*pipe]struct{}

	puts sync.Map // files that are being put: name to chan struct{}

	// managerPort is where the service control manager answers over TCP, if not over its
	// pipe; 0: not known to be needed.
	managerPort atomic.Uint32

	// system is what an inventory has found out of the machine that Identify does not ask.
	system atomic.Pointer[transport.Identity]

	rootTurn chan struct{} // holds the right to look at and set root
	root     string        // the share as the host calls it; "" until it is known
}

var _ interface {
	transport.Conn
	transport.FileStore
	transport.Services
	transport.Tunneler
	transport.Inventorier
	transport.Rebooter
	transport.Spacer
	transport.Clocker
	transport.Explainer
} = (*conn)(nil)

func newConn(target string, opts Options, s session, v volume) *conn {
	c := &conn{target: target, opts: opts, session: s, volume: v, root: opts.ShareRoot,
		pipes: map[*pipe]struct{}{}, rootTurn: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// start begins to watch the line.
func (c *conn) start() {
	if c.silence != nil && c.opts.KeepAlive > 0 {
		c.watch.Go(c.keepAlive)
	}
}

// lose ends the connection because the line broke, and its tunnels, whose own lines
// nobody watches.
func (c *conn) lose(err error) {
	c.cancel(&lostError{err}) // without effect after Close
	c.session.hangUp(err)
	c.endPipes()
}

// endPipes begins to close the pipes, and returns them.
func (c *conn) endPipes() []*pipe {
	c.mu.Lock()
	defer c.mu.Unlock()
	pipes := make([]*pipe, 0, len(c.pipes))
	for p := range c.pipes {
		pipes = append(pipes, p)
		c.bg.Go(func() { _ = p.Close() })
	}
	return pipes
}

// keepAlive asks a silent host for a sign of life. What waits for a pipe is a request
// without an answer, so that one is open says nothing.
func (c *conn) keepAlive() {
	var asking atomic.Bool
	timer := time.NewTimer(c.opts.KeepAlive)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		silence := c.silence()
		switch {
		case silence >= 3*c.opts.KeepAlive:
			c.lose(fmt.Errorf("no sign of life for %v", silence.Round(time.Second)))
			return
		case silence >= c.opts.KeepAlive && asking.CompareAndSwap(false, true):
			c.watch.Go(func() {
				_, _ = guard(func() (any, error) { return c.volume.stat("") })
				asking.Store(false)
			})
		}
		timer.Reset(c.opts.KeepAlive - silence%c.opts.KeepAlive)
	}
}

// Caps implements transport.Conn.
func (c *conn) Caps() transport.Caps {
	caps := transport.CapFiles | transport.CapServices | transport.CapTunnelPipe | transport.CapReboot | transport.CapSpace
	if c.hello.clock.Within > 0 {
		caps |= transport.CapClock
	}
	if c.opts.WMI {
		caps |= transport.CapInventory
	}
	return caps
}

// WhyNot implements transport.Explainer.
func (c *conn) WhyNot(want transport.Caps) error {
	switch {
	case want&transport.CapRun != 0:
		return errors.New("SMB runs no programs: an agent does, or a service that is made for it (CreateService, StartService)")
	case want&transport.CapInventory != 0 && !c.opts.WMI:
		return errors.New("smb.Options.WMI asks for an inventory without an agent; it takes TCP port 135 beside that of SMB")
	}
	return nil
}

// Clock implements transport.Clocker. A server says once what time it is, when the
// connection is made (SystemTime of NEGOTIATE, MS-SMB2, section 2.2.4): a clock that was
// set since then is not noticed. That the connection lives is looked at each time.
func (c *conn) Clock(ctx context.Context) (transport.Clock, error) {
	k, err := c.begin(ctx, "clock", "")
	if err != nil {
		return transport.Clock{}, err
	}
	defer k.end()
	if c.hello.clock.Within <= 0 {
		return transport.Clock{}, &transport.Error{Op: k.op, Target: c.target, Kind: errors.ErrUnsupported, Hint: "the host has not said what time it is"}
	}
	_, err = lib(k, func() (os.FileInfo, error) { return c.volume.stat("") }, nil)
	if err != nil {
		return transport.Clock{}, k.fail(err)
	}
	return c.hello.clock, nil
}

// Path implements transport.Conn.
func (c *conn) Path() transport.Path { return c.path }

// Identify implements transport.Conn. Of what a server says in the login it tells the
// name and the build of Windows; the architecture is that of the system's own
// programs, and the boot is known by the file that the boot loader writes. What is
// within the share alone is known if the share is ADMIN$. What an inventory of the
// connection has found out is told, too.
func (c *conn) Identify(ctx context.Context) (transport.Identity, error) {
	k, err := c.begin(ctx, "identify", "")
	if err != nil {
		return transport.Identity{}, err
	}
	defer k.end()
	id, err := c.identity(k)
	if system := c.system.Load(); err == nil && system != nil {
		id.Version, id.Kernel = system.Version, system.Kernel
		id.Vendor, id.Product, id.Serial, id.UUID = system.Vendor, system.Product, system.Serial, system.UUID
	}
	return id, err
}

func (c *conn) identity(k *call) (transport.Identity, error) {
	id := transport.Identity{Name: c.hello.computer, OS: "windows", Version: c.hello.build, Kernel: c.hello.build}
	if id.Name == "" {
		id.Name, _, _ = strings.Cut(c.hello.dns, ".")
	}
	// Something has to be asked, so that a line that is dead shows.
	if _, err := lib(k, func() (any, error) { return c.volume.stat("") }, nil); err != nil {
		return transport.Identity{}, k.fail(err)
	}
	if !c.opts.isAdmin() {
		return id, k.fail(k.ctx.Err())
	}
	boot, err := lib(k, func() (time.Time, error) {
		if !c.hello.booted.IsZero() {
			return c.hello.booted, nil
		}
		fi, err := c.volume.stat("bootstat.dat")
		if err != nil {
			return time.Time{}, err
		}
		return fi.ModTime(), nil
	}, nil)
	if err == nil {
		id.BootID = fmt.Sprintf("%x", boot.UnixNano())
	}
	id.Arch, _ = lib(k, func() (string, error) { return machine(c.volume, `System32\kernel32.dll`) }, nil)
	return id, k.fail(k.ctx.Err())
}

// machine reads for which machine a program or library is, as GOARCH names it (PE
// Format, sections "MS-DOS Stub" and "COFF File Header").
func machine(v volume, name string) (string, error) {
	f, err := v.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [64]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return "", err
	}
	at := int64(binary.LittleEndian.Uint32(b[60:]))
	if string(b[:2]) != "MZ" || at > 1<<20 {
		return "", fmt.Errorf("%s is no program", name)
	}
	var coff [6]byte
	if _, err := f.ReadAt(coff[:], at); err != nil && err != io.EOF {
		return "", err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return "", fmt.Errorf("%s is no program", name)
	}
	switch m := binary.LittleEndian.Uint16(coff[4:]); m {
	case 0x8664:
		return "amd64", nil
	case 0xAA64:
		return "arm64", nil
	case 0x014C:
		return "386", nil
	default:
		return fmt.Sprintf("%#04x", m), nil
	}
}

// Close implements transport.Conn. It ends the tunnels, and logs off if nothing hangs.
// It is ErrTimeout if something does, such as a writer of the caller's.
func (c *conn) Close(ctx context.Context) (err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.closing = true
		c.mu.Unlock()
		lost := c.ctx.Err() != nil
		c.cancel(errClosed)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
		defer cancel()
		polite, cancel := context.WithTimeout(grace, transport.CloseGrace/10)
		defer cancel()
		pipes := c.endPipes() // those of a line that was lost, too: they have lines of their own
		idle := wait(polite, &c.ops) && wait(polite, &c.watch)
		for _, p := range pipes {
			select {
			case <-p.done:
			case <-polite.Done():
				idle = false
			}
		}
		// The library must not be asked to log off while a call is under way.
		if !lost && idle && wait(polite, &c.lib) {
			c.farewell(polite)
		}
		c.session.hangUp(errClosed)
		for _, wg := range []*sync.WaitGroup{&c.ops, &c.lib, &c.watch, &c.bg} {
			if !wait(grace, wg) {
				err = &transport.Error{Op: "close", Target: c.target, Kind: transport.ErrTimeout,
					Hint: "something that was begun on the connection hangs"}
			}
		}
	})
	return err
}

// farewell gives the server back what it holds for this session, while ctx lasts.
func (c *conn) farewell(ctx context.Context) {
	gone := make(chan struct{})
	c.bg.Go(func() {
		defer close(gone)
		_, _ = guard(func() (any, error) {
			_ = c.volume.close()
			return nil, c.session.logoff()
		})
	})
	select {
	case <-gone:
	case <-ctx.Done():
	}
}
