package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func connCases() []Case {
	return []Case{
		{Name: "conn/caps", run: connCaps},
		{Name: "conn/identify", run: connIdentify},
		{Name: "conn/path", run: connPath},
		{Name: "conn/close", run: connClose},
		{Name: "conn/use-after-close", run: connAfterClose},
		{Name: "conn/cancelled", run: connCancelled},
		{Name: "conn/cancel-waiting", run: connCancelWaiting},
		{Name: "conn/close-waiting", run: connCloseWaiting},
		{Name: "conn/cut", run: connCut},
		{Name: "conn/concurrent", run: connConcurrent},
	}
}

// connCaps: what Caps says is what the package functions find, and what it does
// not say costs the target nothing.
func connCaps(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		caps := conn.Caps()
		if lost := e.Caps &^ caps; lost != 0 {
			f.addf("the connection lacks %v; the harness says that it must offer %v", lost, e.Caps)
		}
		if extra := caps &^ e.Caps; extra != 0 {
			f.addf("the connection offers %v, which the harness does not know of and no case tries", extra)
		}
		dead, cancel := context.WithCancel(ctx)
		cancel()
		for _, o := range e.ops() {
			if e.Caps.Has(o.needs) {
				// An ended context keeps the call from doing anything, and the error
				// still tells whether the capability is there.
				err := e.within(o.name, func() error { return o.call(dead, conn) })
				if errors.Is(err, errors.ErrUnsupported) {
					f.addf("%s: Caps has %v, but the call says %q: does a decorator hide it?", o.name, o.needs, err)
				}
				continue
			}
			before := e.requests()
			err := e.within(o.name, func() error { return o.call(ctx, conn) })
			f.add(e.wantErr(o.name+" without the capability", err, errors.ErrUnsupported))
			if n := e.requests() - before; n != 0 {
				f.addf("%s without the capability sent %d requests to the target", o.name, n)
			}
		}
		if again := conn.Caps(); again != caps {
			f.addf("Caps changed from %v to %v during the life of the connection", caps, again)
		}
		return f.err()
	})
}

func connIdentify(ctx context.Context, e *env) error {
	var first transport.Identity
	for i := range 2 {
		err := e.with(ctx, func(conn transport.Conn) error {
			for range 2 {
				id, err := conn.Identify(ctx)
				if err != nil {
					return fmt.Errorf("identify: %w", err)
				}
				if id == (transport.Identity{}) {
					return errors.New("identify: the identity is empty")
				}
				if i == 0 {
					first = id
				}
				if id != first {
					return fmt.Errorf("identify: %+v, and before %+v: the target did not change", id, first)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func connPath(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		p := conn.Path()
		if p.Local.IsValid() != p.Remote.IsValid() {
			f.addf("path: one end only is valid: %+v", p)
		}
		for _, prefix := range p.CallbackFrom {
			if !prefix.IsValid() || prefix.Masked() != prefix {
				f.addf("path: CallbackFrom has %v, which is no network prefix", prefix)
			}
		}
		if e.Caps.Has(transport.CapUpdate) && e.Updates != nil && e.Updates.Pull && len(p.CallbackFrom) == 0 {
			f.addf("path: the target fetches payloads, but CallbackFrom does not say from where")
		}
		return f.err()
	})
}

func connClose(ctx context.Context, e *env) error {
	var f failures
	dead, cancel := context.WithCancel(ctx)
	cancel()
	for _, closeCtx := range []context.Context{ctx, dead} {
		conn, err := e.dial(ctx)
		if err != nil {
			return err
		}
		for i := range 3 {
			if err := e.within("close", func() error { return conn.Close(closeCtx) }); err != nil {
				f.addf("close number %d with a context that is %v: %w", i+1, closeCtx.Err(), err)
			}
		}
	}
	return f.err()
}

func connAfterClose(ctx context.Context, e *env) error {
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	var f failures
	f.add(e.close(conn))
	for _, o := range e.offered() {
		err := e.within(o.name, func() error { return o.call(ctx, conn) })
		f.add(e.wantErr(o.name+" after close", err, transport.ErrClosed))
	}
	if caps := conn.Caps(); caps != e.Caps {
		f.addf("Caps after close: %v, want %v as before", caps, e.Caps)
	}
	conn.Path() // must not panic
	return f.err()
}

func connCancelled(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		dead, cancel := context.WithCancel(ctx)
		cancel()
		late, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
		defer cancel()
		for _, o := range e.offered() {
			err := e.within(o.name, func() error { return o.call(dead, conn) })
			f.add(e.wantErr(o.name+" with a cancelled context", err, context.Canceled))
			err = e.within(o.name, func() error { return o.call(late, conn) })
			f.add(e.wantErr(o.name+" past its deadline", err, context.DeadlineExceeded))
		}
		if _, err := conn.Identify(ctx); err != nil {
			f.addf("the connection does not work after calls whose context had ended: %w", err)
		}
		return f.err()
	})
}

// connCancelWaiting: calls that wait for a silent target end with their context.
func connCancelWaiting(ctx context.Context, e *env) error {
	if e.Stall == nil {
		return e.missing("Stall")
	}
	var f failures
	for _, o := range e.offered() {
		if !o.harmless {
			continue
		}
		f.add(e.with(ctx, func(conn transport.Conn) error {
			release := e.Stall()
			defer release()
			ctx, cancel := context.WithCancel(ctx)
			defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
			err := e.within(o.name, func() error { return o.call(ctx, conn) })
			return e.wantErr(o.name+" cancelled while the target is silent", err, context.Canceled)
		}))
	}
	return f.err()
}

// connCloseWaiting: Close ends the calls that are waiting, and itself.
func connCloseWaiting(ctx context.Context, e *env) error {
	if e.Stall == nil {
		return e.missing("Stall")
	}
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	release := e.Stall()
	defer release()
	var f failures
	answer := make(chan error, 1)
	go func() {
		_, err := conn.Identify(ctx)
		answer <- err
	}()
	time.Sleep(20 * time.Millisecond)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	if err := e.within("close", func() error { return conn.Close(dead) }); errors.Is(err, errHung) {
		f.add(err)
	}
	err = e.within("identify", func() error { return <-answer })
	f.add(e.wantErr("identify during which the connection was closed", err, transport.ErrClosed, transport.ErrConnLost))
	return f.err()
}

func connCut(ctx context.Context, e *env) error {
	if e.Cut == nil {
		return e.missing("Cut")
	}
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	var f failures
	e.Cut()
	// The first call may be the one that finds out; each must say so.
	for range 2 {
		for _, o := range e.offered() {
			err := e.within(o.name, func() error { return o.call(ctx, conn) })
			f.add(e.wantErr(o.name+" on a line that was cut", err, transport.ErrConnLost))
		}
	}
	// Whether Close reports the loss is the driver's choice; that it returns is not.
	if err := e.within("close", func() error { return conn.Close(ctx) }); errors.Is(err, errHung) {
		f.add(err)
	}
	f.add(e.with(ctx, func(conn transport.Conn) error {
		_, err := conn.Identify(ctx)
		return err
	}))
	return f.err()
}

func connConcurrent(ctx context.Context, e *env) error {
	const workers, rounds = 8, 5
	return e.within("calls at the same time", func() error {
		return e.with(ctx, func(conn transport.Conn) error {
			var mu sync.Mutex
			var f failures
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for range rounds {
						for _, o := range e.offered() {
							if !o.harmless {
								continue
							}
							if err := o.call(ctx, conn); err != nil {
								mu.Lock()
								f.addf("worker %d: %s: %w", w, o.name, err)
								mu.Unlock()
							}
						}
					}
				})
			}
			wg.Wait()
			return f.err()
		})
	})
}
