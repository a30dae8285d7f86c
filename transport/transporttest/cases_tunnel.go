package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func tunnelCases() []Case {
	var out []Case
	for _, n := range []struct {
		network string
		needs   transport.Caps
	}{{"unix", transport.CapTunnelUnix}, {"tcp", transport.CapTunnelTCP}, {"pipe", transport.CapTunnelPipe}} {
		tunnel := func(name string, f func(ctx context.Context, e *env, conn transport.Conn, dial func(context.Context) (net.Conn, error)) error) Case {
			return Case{Name: "tunnel-" + n.network + "/" + name, Needs: n.needs, run: func(ctx context.Context, e *env) error {
				return e.withEcho(ctx, n.network, f)
			}}
		}
		out = append(out,
			tunnel("echo", tunnelEcho),
			tunnel("concurrent", tunnelConcurrent),
			tunnel("deadline", tunnelDeadline),
			tunnel("peer-closes", tunnelPeerCloses),
			tunnel("conn-close", tunnelConnClose),
			tunnel("cut", tunnelCut),
			Case{Name: "tunnel-" + n.network + "/nobody-listens", Needs: n.needs, run: func(ctx context.Context, e *env) error {
				return e.tunnelNobody(ctx, n.network)
			}})
	}
	return out
}

// withEcho serves an echo inside the target while f runs. A peer that sends the
// one byte 'q' first is hung up on.
func (e *env) withEcho(ctx context.Context, network string,
	f func(ctx context.Context, e *env, conn transport.Conn, dial func(context.Context) (net.Conn, error)) error) error {
	if e.Listen == nil {
		return e.missing("Listen")
	}
	l, addr, err := e.Listen(network)
	if err != nil {
		return fmt.Errorf("Harness.Listen: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err != nil || first[0] == 'q' {
					return
				}
				if _, err := c.Write(first); err == nil {
					_, _ = io.Copy(c, struct{ io.Reader }{c})
				}
			})
		}
	})
	err = e.with(ctx, func(conn transport.Conn) error {
		return f(ctx, e, conn, func(ctx context.Context) (c net.Conn, err error) {
			err = e.within("tunnel", func() error {
				c, err = transport.Dial(ctx, conn, network, addr)
				return err
			})
			return c, err
		})
	})
	l.Close()
	return errors.Join(err, e.within("the far ends of the tunnels, after the connection was closed,", func() error { wg.Wait(); return nil }))
}

func tunnelEcho(ctx context.Context, e *env, _ transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	dialCtx, cancel := context.WithCancel(ctx)
	c, err := dial(dialCtx)
	cancel() // bounds the dialling only
	if err != nil {
		return err
	}
	var f failures
	if c.LocalAddr() == nil || c.RemoteAddr() == nil {
		f.addf("the tunnel has no addresses")
	}
	for _, n := range []int{1, 1000, 4 << 20} {
		f.add(e.within("echo", func() error { return echo(c, n) }))
	}
	f.add(c.Close())
	_, err = c.Read(make([]byte, 1))
	if err == nil {
		f.addf("read after close succeeded")
	}
	return f.err()
}

func tunnelConcurrent(ctx context.Context, e *env, _ transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			c, err := dial(ctx)
			if err == nil {
				err = errors.Join(echo(c, 300_000), c.Close())
			}
			errs <- err
		}()
	}
	return e.within("echoes at the same time", func() error {
		var f failures
		for range cap(errs) {
			f.add(<-errs)
		}
		return f.err()
	})
}

func tunnelDeadline(ctx context.Context, e *env, _ transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		return fmt.Errorf("SetReadDeadline: %w", err)
	}
	err = e.within("read past its deadline", func() error {
		_, err := c.Read(make([]byte, 1))
		return err
	})
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		return fmt.Errorf("read past its deadline: %w, want os.ErrDeadlineExceeded", err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("SetDeadline: %w", err)
	}
	return e.within("echo after a deadline passed", func() error { return echo(c, 1000) })
}

func tunnelPeerCloses(ctx context.Context, e *env, _ transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return e.within("read after the peer hung up", func() error {
		if _, err := c.Write([]byte("q")); err != nil {
			return err
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("read after the peer hung up: %d, %w, want io.EOF", n, err)
		}
		return nil
	})
}

// tunnelConnClose: closing the connection ends its tunnels.
func tunnelConnClose(ctx context.Context, e *env, conn transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	return e.tunnelEnds(ctx, "the connection was closed", dial, func() error { return e.close(conn) })
}

func tunnelCut(ctx context.Context, e *env, _ transport.Conn, dial func(context.Context) (net.Conn, error)) error {
	if e.Cut == nil {
		return e.missing("Cut")
	}
	return e.tunnelEnds(ctx, "the line was cut", dial, func() error { e.Cut(); return nil })
}

func (e *env) tunnelEnds(ctx context.Context, how string, dial func(context.Context) (net.Conn, error), end func() error) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := e.within("echo", func() error { return echo(c, 1000) }); err != nil {
		return err
	}
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	if err := end(); err != nil {
		return err
	}
	err = e.within("read from a tunnel after "+how, func() error { return <-read })
	if errors.Is(err, errHung) {
		return err
	}
	if err == nil {
		return fmt.Errorf("read from a tunnel after %s: no error", how)
	}
	return nil
}

func (e *env) tunnelNobody(ctx context.Context, network string) error {
	if e.Listen == nil {
		return e.missing("Listen")
	}
	l, addr, err := e.Listen(network)
	if err != nil {
		return fmt.Errorf("Harness.Listen: %w", err)
	}
	l.Close()
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		err := e.within("tunnel", func() error {
			c, err := transport.Dial(ctx, conn, network, addr)
			if err == nil {
				c.Close()
			}
			return err
		})
		f.add(e.wantErr("tunnel to where nobody listens", err))
		if errors.Is(err, transport.ErrConnLost) {
			f.addf("tunnel to where nobody listens: %w; the connection itself is well", err)
		}
		if _, err := conn.Identify(ctx); err != nil {
			f.addf("identify after a tunnel failed: %w", err)
		}
		return f.err()
	})
}
