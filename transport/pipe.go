package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// DialCommand runs cmd on the target and returns a network connection whose
// other end is the program's standard input and output. It is how a socket of
// the target is reached where the server forbids forwarding. cmd.Stdin and
// cmd.Stdout must be nil. The program is ended when the connection is closed;
// ctx counts before the start only, which is not waited for. When the program ends first, reads fail with an
// *Error that matches ErrConnLost and carries the exit status and the first
// 4 KiB of standard error.
func DialCommand(ctx context.Context, conn Conn, cmd Command) (net.Conn, error) {
	if err := need(conn, "tunnel", CapRun); err != nil {
		return nil, err
	}
	if cmd.Stdin != nil || cmd.Stdout != nil {
		return nil, &Error{Op: "tunnel", Kind: ErrInvalid, Hint: "DialCommand sets Stdin and Stdout itself"}
	}
	if len(cmd.Argv) == 0 {
		return nil, &Error{Op: "tunnel", Kind: ErrInvalid, Hint: "no program was given"}
	}
	if err := ctx.Err(); err != nil {
		return nil, &Error{Op: "tunnel", Kind: err}
	}
	near, far := net.Pipe()
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &commandConn{Conn: near, cancel: cancel, done: make(chan struct{})}
	stderr := &headWriter{left: 4096}
	cmd.Stdin, cmd.Stdout, cmd.Tunnel = far, far, true
	if cmd.Stderr != nil {
		cmd.Stderr = io.MultiWriter(cmd.Stderr, stderr)
	} else {
		cmd.Stderr = stderr
	}
	go func() {
		defer close(c.done)
		exit, err := Run(runCtx, conn, cmd)
		if err == nil {
			err = &Error{Op: "tunnel", Kind: ErrConnLost, Code: Code{"exit", fmt.Sprint(exit.Code)},
				Err: fmt.Errorf("%q ended: %q", cmd.Argv[0], bytes.TrimSpace(stderr.bytes()))}
		}
		c.setErr(err)
		far.Close()
	}()
	return c, nil
}

type commandConn struct {
	net.Conn
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	err    error
	closed bool
}

func (c *commandConn) setErr(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// explain replaces the bare EOF of the pipe by the reason why the program ended.
func (c *commandConn) explain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			return net.ErrClosed
		}
		if c.err != nil {
			return c.err
		}
	}
	return err
}

func (c *commandConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.explain(err)
}

func (c *commandConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.explain(err)
}

// Close ends the program and waits for it.
func (c *commandConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.Conn.Close()
	c.cancel()
	<-c.done
	return err
}

// headWriter keeps the first bytes that are written to it.
type headWriter struct {
	mu   sync.Mutex
	buf  []byte
	left int
}

func (w *headWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(p), w.left)
	w.buf = append(w.buf, p[:n]...)
	w.left -= n
	return len(p), nil
}

func (w *headWriter) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.buf)
}
