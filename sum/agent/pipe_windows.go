package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/windows"
)

const pipePrefix = `\\.\pipe\`

// pipeName is the full name of a named pipe; without a name it is that of the agent's.
func pipeName(h home, name string) string {
	if name == "" {
		name = PipeName(h.id())
	}
	if len(name) >= len(pipePrefix) && strings.EqualFold(name[:len(pipePrefix)], pipePrefix) {
		return name
	}
	return pipePrefix + name
}

// pipeAddr is the name of a named pipe.
type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// pipeListener is a named pipe that this user, the system and the administrators may
// open: on this host, and over SMB, which is why it is not that of package go-winio,
// whose pipes refuse who comes from elsewhere.
type pipeListener struct {
	name pipeAddr
	path *uint16
	sa   *windows.SecurityAttributes
	end  windows.Handle // an event: closed

	accepting sync.Mutex
	next      windows.Handle // an instance to which nobody is connected
	// coming is of the call that waits for somebody. Windows writes into it until that is
	// over, so it must not be on a stack, which may move.
	coming windows.Overlapped

	mu     sync.Mutex
	closed bool
}

// pipePoll is how often a pipe is tried all of whose instances are taken.
const pipePoll = 10 * time.Millisecond

// pipeBuffer is what fits into a pipe in either direction, in bytes.
const pipeBuffer = 64 << 10

// listenPipe makes a pipe of a name that nobody has.
func listenPipe(name string) (*pipeListener, error) {
	fail := func(err error) (*pipeListener, error) {
		return nil, &net.OpError{Op: "listen", Net: "pipe", Addr: pipeAddr(name), Err: err}
	}
	sa, err := attributes()
	if err != nil {
		return fail(err)
	}
	l := &pipeListener{name: pipeAddr(name), sa: sa}
	if l.path, err = windows.UTF16PtrFromString(name); err != nil {
		return fail(err)
	}
	if l.end, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
		return fail(os.NewSyscallError("CreateEvent", err))
	}
	if l.next, err = l.instance(windows.FILE_FLAG_FIRST_PIPE_INSTANCE); err != nil {
		windows.CloseHandle(l.end)
		return fail(err)
	}
	return l, nil
}

// instance makes one instance of the pipe, for one connection.
func (l *pipeListener) instance(flags uint32) (windows.Handle, error) {
	h, err := windows.CreateNamedPipe(l.path, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED|flags,
		windows.PIPE_TYPE_BYTE|windows.PIPE_READMODE_BYTE|windows.PIPE_WAIT, windows.PIPE_UNLIMITED_INSTANCES, pipeBuffer, pipeBuffer, 0, l.sa)
	if err != nil {
		return 0, os.NewSyscallError("CreateNamedPipe", err)
	}
	return h, nil
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	for {
		if l.isClosed() {
			return nil, l.failed(net.ErrClosed)
		}
		if l.next == 0 {
			h, err := l.instance(0)
			if err != nil {
				return nil, l.failed(err)
			}
			l.next = h
		}
		err := l.connect(l.next)
		h := l.next
		switch {
		case err == nil:
			// Before anybody else comes: a client that finds no instance is refused.
			l.next, _ = l.instance(0)
			return newPipeConn(h, l.name)
		case errors.Is(err, net.ErrClosed):
			return nil, l.failed(err)
		}
		// Somebody came and is gone.
		l.next = 0
		windows.CloseHandle(h)
		if err != windows.ERROR_NO_DATA && err != windows.ERROR_BROKEN_PIPE {
			return nil, l.failed(os.NewSyscallError("ConnectNamedPipe", err))
		}
	}
}

// connect waits until somebody has opened the instance.
func (l *pipeListener) connect(h windows.Handle) error {
	came, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(came)
	l.coming = windows.Overlapped{HEvent: came}
	o := &l.coming
	switch err := windows.ConnectNamedPipe(h, o); err {
	case nil, windows.ERROR_PIPE_CONNECTED:
		return nil
	case windows.ERROR_IO_PENDING:
	default:
		return err
	}
	n, err := windows.WaitForMultipleObjects([]windows.Handle{came, l.end}, false, windows.INFINITE)
	gone := err != nil || n != windows.WAIT_OBJECT_0
	if gone {
		_ = windows.CancelIoEx(h, o)
	}
	var done uint32
	err = windows.GetOverlappedResult(h, o, &done, true)
	if gone && err != nil {
		return net.ErrClosed
	}
	return err
}

func (l *pipeListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *pipeListener) failed(err error) error {
	return &net.OpError{Op: "accept", Net: "pipe", Addr: l.name, Err: err}
}

// Close implements net.Listener. It waits for an Accept that is going on.
func (l *pipeListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return &net.OpError{Op: "close", Net: "pipe", Addr: l.name, Err: net.ErrClosed}
	}
	l.closed = true
	_ = windows.SetEvent(l.end)
	l.mu.Unlock()
	l.accepting.Lock()
	defer l.accepting.Unlock()
	if l.next != 0 {
		windows.CloseHandle(l.next)
		l.next = 0
	}
	return windows.CloseHandle(l.end)
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return l.name }

// dialLocal dials the pipe or the socket of an agent of this host.
func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	if !strings.HasPrefix(path, pipePrefix) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return dialPipe(ctx, path)
}

// dialPipe opens a pipe of this host.
func dialPipe(ctx context.Context, name string) (net.Conn, error) {
	path, err := windows.UTF16PtrFromString(name)
	for err == nil {
		var h windows.Handle
		h, err = windows.CreateFile(path, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING,
			windows.FILE_FLAG_OVERLAPPED|windows.SECURITY_SQOS_PRESENT|windows.SECURITY_IDENTIFICATION, 0)
		if err == nil {
			return newPipeConn(h, pipeAddr(name))
		}
		if err == windows.ERROR_PIPE_BUSY {
			if err = ctx.Err(); err == nil {
				pause(ctx, pipePoll)
			}
		}
	}
	return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr(name), Err: err}
}
