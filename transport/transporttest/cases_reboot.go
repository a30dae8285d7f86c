package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func rebootCases() []Case {
	return []Case{
		{Name: "reboot/boot-id", Needs: transport.CapReboot, run: func(ctx context.Context, e *env) error {
			return e.with(ctx, func(conn transport.Conn) error {
				before, err := conn.Identify(ctx)
				if err != nil {
					return err
				}
				if before.BootID == "" {
					return errors.New("the identity has no BootID, so that a reboot cannot be proven")
				}
				if err := transport.Reboot(ctx, conn, transport.RebootOptions{Message: "再起動します"}); err != nil {
					return fmt.Errorf("reboot: %w", err)
				}
				return e.poll(ctx, func() error {
					return e.with(ctx, func(conn transport.Conn) error {
						after, err := conn.Identify(ctx)
						if err != nil {
							return err
						}
						if after.BootID == before.BootID {
							return errors.New("the BootID is the same as before")
						}
						before.BootID = after.BootID
						if after != before {
							return fmt.Errorf("after the reboot the identity is %+v, before it was %+v", after, before)
						}
						return nil
					})
				})
			})
		}},
		{Name: "reboot/invalid", Needs: transport.CapReboot, run: func(ctx context.Context, e *env) error {
			return e.with(ctx, func(conn transport.Conn) error {
				err := transport.Reboot(ctx, conn, transport.RebootOptions{Delay: -time.Second})
				return e.wantErr("reboot with a negative delay", err, transport.ErrInvalid)
			})
		}},
	}
}

func leakCases() []Case {
	return []Case{{Name: "goroutines", Alone: true, run: func(ctx context.Context, e *env) error {
		round := func() error {
			var f failures
			f.add(e.with(ctx, func(conn transport.Conn) error {
				var f failures
				for _, o := range e.offered() {
					if o.harmless {
						f.add(o.call(ctx, conn))
					}
				}
				f.add(e.leaveTunnel(ctx, conn))
				return f.err()
			}))
			if e.WrongSecret != nil {
				if _, err := e.Transport.Dial(ctx, *e.WrongSecret); err == nil {
					f.addf("dial with wrong credentials succeeded")
				}
			}
			return f.err()
		}
		// The first round starts what lives as long as the process.
		if err := round(); err != nil {
			return err
		}
		settled := e.settledGoroutines()
		const rounds = 5
		for range rounds {
			if err := round(); err != nil {
				return err
			}
		}
		return e.poll(ctx, func() error {
			if n := runtime.NumGoroutine(); n > settled {
				buf := make([]byte, 64<<10)
				return fmt.Errorf("%d goroutines are left of %d rounds of dial, calls and close:\n%s",
					n-settled, rounds, buf[:runtime.Stack(buf, true)])
			}
			return nil
		})
	}}}
}

// leaveTunnel opens a tunnel that only the end of the connection closes.
func (e *env) leaveTunnel(ctx context.Context, conn transport.Conn) error {
	network := ""
	switch {
	case e.Listen == nil:
		return nil
	case e.Caps.Has(transport.CapTunnelUnix):
		network = "unix"
	case e.Caps.Has(transport.CapTunnelPipe):
		network = "pipe"
	case e.Caps.Has(transport.CapTunnelTCP):
		network = "tcp"
	default:
		return nil
	}
	l, addr, err := e.Listen(network)
	if err != nil {
		return err
	}
	go func() {
		c, err := l.Accept()
		l.Close()
		if err == nil {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	_, err = transport.Dial(ctx, conn, network, addr)
	if err != nil {
		l.Close()
	}
	return err
}

// settledGoroutines waits until the number of goroutines stays the same.
func (e *env) settledGoroutines() int {
	n := runtime.NumGoroutine()
	for same, tries := 0, 0; same < 10 && tries < 500; tries++ {
		time.Sleep(5 * time.Millisecond)
		if m := runtime.NumGoroutine(); m == n {
			same++
		} else {
			n, same = m, 0
		}
	}
	return n
}
