package portalloc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Lease is a port that is held by its listener. It is a net.Listener and can be
// given to an http.Server as it is. It is safe for concurrent use.
//
// A lease on one socket accepts *net.TCPConn directly, so that sendfile(2) and
// its like keep working; so does one on several, which accepts from all of them.
type Lease struct {
	a         *Allocator
	role      Role
	port      uint16
	listeners []*net.TCPListener
	skipped   []Skip

	merge     sync.Once
	merged    chan accepted
	done      chan struct{} // closed by Close; nil until merged
	acceptors sync.WaitGroup

	mu     sync.Mutex
	closed bool
	once   sync.Once
	err    error
}

var _ net.Listener = (*Lease)(nil)

type accepted struct {
	conn net.Conn
	err  error
}

// Port returns the port.
func (l *Lease) Port() uint16 { return l.port }

// Role returns the role for which the port was allocated.
func (l *Lease) Role() Role { return l.role }

// Addr returns the address of the first socket.
func (l *Lease) Addr() net.Addr { return l.listeners[0].Addr() }

// Addrs returns the address and port of every socket of the lease. A socket that
// serves both families shows as [::].
func (l *Lease) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(l.listeners))
	for i, ln := range l.listeners {
		addrs[i] = ln.Addr().(*net.TCPAddr).AddrPort()
	}
	return addrs
}

// Skipped tells which ports came before this one in the policy, and why they were
// not used: taken by another program, refused by the system, reserved, excluded,
// another role's. Left out are ports that this program had leased, those of a
// range in random order that were not tried, and the holders, whose search takes
// time: see [HoldersOf].
func (l *Lease) Skipped() []Skip { return slices.Clone(l.skipped) }

// Accept waits for the next connection. After Close it fails with net.ErrClosed.
func (l *Lease) Accept() (net.Conn, error) {
	if len(l.listeners) == 1 {
		return l.listeners[0].Accept()
	}
	l.merge.Do(l.startMerging)
	if l.merged == nil {
		return nil, l.closedError()
	}
	select {
	case got := <-l.merged:
		return got.conn, got.err
	case <-l.done:
		return nil, l.closedError()
	}
}

func (l *Lease) closedError() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

// startMerging begins to accept on every socket. It waits for the first Accept,
// so that a lease whose sockets are handed to a child takes no connection from
// it.
func (l *Lease) startMerging() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.merged = make(chan accepted)
	l.done = make(chan struct{})
	for _, ln := range l.listeners {
		l.acceptors.Go(func() { l.acceptFrom(ln) })
	}
}

func (l *Lease) acceptFrom(ln *net.TCPListener) {
	for {
		conn, err := ln.Accept()
		select {
		case l.merged <- accepted{conn, err}:
		case <-l.done:
			if conn != nil {
				conn.Close()
			}
			return
		}
		// Any other error may pass (EMFILE): whoever calls Accept decides, and
		// the unbuffered channel keeps this loop at that caller's pace.
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// Files returns a duplicate of every socket of the lease, in the order of Addrs,
// to hand to a child process (exec.Cmd.ExtraFiles), which turns each into a
// listener with net.FileListener, or all of them into a lease of its own with
// [Allocator.Adopt]. The caller closes the files. The port stays held while any
// process has one of them open.
//
// Parent and child share the queue of connections, and starting a child puts the
// shared sockets into blocking mode: a parent that hands over its lease should
// not call Accept on it again, and should close it once the child runs.
//
// On Windows, where a child inherits no sockets this way, it fails with
// errors.ErrUnsupported: close the lease and let the child allocate.
func (l *Lease) Files() ([]*os.File, error) {
	if !canHandOver {
		return nil, &Error{Op: "file", Role: l.role, Policy: Fixed(l.port), Kind: errors.ErrUnsupported,
			Advice: "close the lease and allocate in the child"}
	}
	files := make([]*os.File, 0, len(l.listeners))
	for _, ln := range l.listeners {
		f, err := ln.File()
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, &Error{Op: "file", Role: l.role, Policy: Fixed(l.port), Cause: err}
		}
		files = append(files, f)
	}
	return files, nil
}

// File is [Lease.Files] for a lease on one socket, as every lease is that was
// made without Addrs and Loopback for a role other than LocalIPC. For a lease on
// several it fails with errors.ErrUnsupported.
func (l *Lease) File() (*os.File, error) {
	if len(l.listeners) > 1 {
		return nil, &Error{Op: "file", Role: l.role, Policy: Fixed(l.port), Kind: errors.ErrUnsupported,
			Advice: "the lease has several sockets: use Files"}
	}
	files, err := l.Files()
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// Close closes the listener and then gives the port back. Connections that were
// accepted stay open. Closing again does nothing and returns the same result.
func (l *Lease) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		if l.done != nil {
			close(l.done)
		}
		l.mu.Unlock()
		l.err = closeAll(l.listeners)
		l.acceptors.Wait()
		l.a.forget(l, l.port)
	})
	return l.err
}

// Adopt makes a lease of listeners that another process opened and handed over:
// files as [Lease.Files] returned them there, or as systemd passes them. All must
// be TCP listeners on one port. The files are duplicated; the caller closes
// them. It fails with ErrBusy when this allocator has a lease on the port, and
// with ErrInvalid when the files are not such listeners. The role's policy is
// not applied, but the role must not be off.
func (a *Allocator) Adopt(ctx context.Context, r Role, files ...*os.File) (*Lease, error) {
	pl, err := a.enter("adopt", r)
	if err != nil {
		return nil, err
	}
	defer a.leave()
	if ctx.Err() != nil {
		return nil, stopped("adopt", pl, ctx)
	}
	if len(files) == 0 {
		return nil, invalid("adopt", r, "no file is given")
	}
	l := &Lease{a: a, role: r}
	for _, f := range files {
		ln, err := net.FileListener(f)
		if err != nil {
			closeAll(l.listeners)
			e := invalid("adopt", r, "%s: %w", f.Name(), err)
			if !canHandOver {
				e.Kind = errors.ErrUnsupported
			}
			return nil, e
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			ln.Close()
			closeAll(l.listeners)
			return nil, invalid("adopt", r, "%s is a listener on %s, not on TCP", f.Name(), ln.Addr().Network())
		}
		l.listeners = append(l.listeners, tcp)
		port := tcp.Addr().(*net.TCPAddr).AddrPort().Port()
		if l.port != 0 && l.port != port {
			closeAll(l.listeners)
			return nil, invalid("adopt", r, "the files are on ports %d and %d", l.port, port)
		}
		l.port = port
	}
	if !a.claim(l.port, r) {
		closeAll(l.listeners)
		return nil, &Error{Op: "adopt", Role: r, Policy: Fixed(l.port), Kind: ErrBusy,
			Skips: []Skip{a.whyNot(l.port, nil)}, Advice: "close that lease first"}
	}
	if !a.keep(l) {
		l.Close()
		return nil, &Error{Op: "adopt", Role: r, Policy: Fixed(l.port), Kind: ErrClosed}
	}
	return l, nil
}
