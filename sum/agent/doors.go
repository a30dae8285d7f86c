package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// doors are the listeners of an agent: one, and while the conversation moves from
// the port of the first contact to another, two.
type doors struct {
	server *channel.Server
	ctx    context.Context
	failed chan error // one value: of a door that nobody shut
	served sync.WaitGroup

	// What follows is for Move. listen is nil where the conversation stays.
	listen func(ctx context.Context) (net.Listener, error)
	// rule lets the manager through the host's firewall to a port, and is asked
	// before anybody is told of the port; nil where nothing is in the way.
	rule func(ctx context.Context, port uint16) (release func(), err error)
	// patience is how long a new door stays open that nobody comes through.
	patience time.Duration

	mu   sync.Mutex
	in   *door // through which the manager comes
	next *door // to which it was told to go
}

// door is one listener that is served.
type door struct {
	ln      net.Listener
	shut    func()
	release func() // of the firewall
	timer   *time.Timer
}

func newDoors(ctx context.Context, server *channel.Server) *doors {
	return &doors{server: server, ctx: context.WithoutCancel(ctx), failed: make(chan error, 1), patience: time.Minute}
}

// open serves a listener. release, if not nil, closes the firewall before it: another
// program may get the port.
func (d *doors) open(ln net.Listener, release func()) *door {
	ctx, cancel := context.WithCancel(d.ctx)
	if release == nil {
		release = func() {}
	}
	release = sync.OnceFunc(release)
	x := &door{ln: ln, shut: func() { release(); cancel() }, release: release}
	d.served.Go(func() {
		err := d.server.Serve(ctx, ln)
		release()
		if ctx.Err() == nil && !errors.Is(err, channel.ErrClosed) {
			select {
			case d.failed <- err:
			default:
			}
		}
		cancel()
	})
	return x
}

// first opens the door for the first contact. release is as that of open.
func (d *doors) first(ln net.Listener, release func()) {
	x := d.open(ln, release)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.in = x
}

// close ends what is served, as channel.Server.Close does, and waits for it.
func (d *doors) close(ctx context.Context) error {
	d.mu.Lock()
	for _, x := range []*door{d.in, d.next} {
		if x != nil {
			x.release()
		}
	}
	if d.next != nil {
		d.next.timer.Stop()
	}
	d.mu.Unlock()
	err := d.server.Close(ctx)
	d.served.Wait()
	return err
}

// move opens a door to which the manager is to go.
func (d *doors) move(ctx context.Context) (uint16, error) {
	if d == nil || d.listen == nil {
		return 0, fault(channel.CodeUnsupported, "this agent does not listen on TCP")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ln, err := d.listen(ctx)
	if err != nil {
		return 0, err
	}
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	var release func()
	if d.rule != nil {
		if release, err = d.rule(ctx, port); err != nil {
			ln.Close()
			return 0, err
		}
	}
	if d.next != nil { // it was not heard
		d.next.timer.Stop()
		d.next.shut()
	}
	x := d.open(ln, release)
	x.timer = time.AfterFunc(d.patience, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.next == x {
			d.next = nil
			x.shut()
		}
	})
	d.next = x
	return port, nil
}

// moved closes the door through which the manager came before.
func (d *doors) moved() (uint16, error) {
	if d == nil {
		return 0, fault(channel.CodeUnsupported, "this agent does not listen on TCP")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next == nil {
		return 0, fault(channel.CodeConflict, "the conversation is not about to move")
	}
	d.next.timer.Stop()
	d.in.shut()
	d.in, d.next = d.next, nil
	return uint16(d.in.ln.Addr().(*net.TCPAddr).Port), nil
}

// dynamicPort listens on a port above 1024 that nobody can foresee, on the address
// that another listener has.
func dynamicPort(ports *portalloc.Allocator, beside net.Addr) func(ctx context.Context) (net.Listener, error) {
	var o portalloc.Options
	if a, ok := beside.(*net.TCPAddr); ok && !a.AddrPort().Addr().Unmap().IsUnspecified() {
		o.Addrs = append(o.Addrs, a.AddrPort().Addr().Unmap())
	}
	return func(ctx context.Context) (net.Listener, error) { return ports.Listen(ctx, portalloc.Dynamic, o) }
}
