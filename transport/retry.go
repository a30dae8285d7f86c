package transport

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"time"
)

// RetryOptions are the options of Retry. The zero value tries four times in all,
// after waits of about 0.5, 1 and 2 seconds.
type RetryOptions struct {
	Tries   int           // in all; 0 means 4, 1 means no retry
	Base    time.Duration // wait before the second try; 0 means 500 ms
	Max     time.Duration // longest wait; 0 means 30 s
	OnRetry func(op string, try int, err error)
}

// Retry returns a Transport that repeats what can be repeated without harm when
// it fails for a reason that may pass (see [Temporary]): dialling, and on a live
// connection reading calls, and Put, which continues where it stopped. It never
// repeats Run, services, Update, Undo or Reboot, and nothing once the connection
// is lost: redialling is the caller's decision. Waits grow twofold, with jitter.
func Retry(t Transport, opts RetryOptions) Transport {
	if opts.Tries <= 0 {
		opts.Tries = 4
	}
	if opts.Base <= 0 {
		opts.Base = 500 * time.Millisecond
	}
	if opts.Max <= 0 {
		opts.Max = 30 * time.Second
	}
	return &retryTransport{t, opts}
}

type retryTransport struct {
	t    Transport
	opts RetryOptions
}

func (r *retryTransport) Dial(ctx context.Context, ep Endpoint) (Conn, error) {
	conn, err := retry(ctx, r.opts, "dial", ep.Address, true, func() (Conn, error) { return r.t.Dial(ctx, ep) })
	if err != nil {
		return nil, err
	}
	return &retryConn{Forward{conn}, ep.Address, r.opts}, nil
}

// retry calls f until it succeeds, fails for good, or the tries are used up.
// Where fresh is set a lost connection is a reason to try again as well: each
// call makes its own.
func retry[T any](ctx context.Context, o RetryOptions, op, target string, fresh bool, f func() (T, error)) (T, error) {
	wait := o.Base
	for try := 1; ; try++ {
		v, err := f()
		if err == nil || try >= o.Tries || !Temporary(err) || ctx.Err() != nil ||
			(!fresh && errors.Is(err, ErrConnLost)) {
			return v, err
		}
		if o.OnRetry != nil {
			o.OnRetry(op, try+1, err)
		}
		// Half fixed, half random: a fleet that lost its uplink does not come
		// back all at once.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return v, &Error{Op: op, Target: target, Kind: ctx.Err(), Err: err}
		}
		wait = min(2*wait, o.Max)
	}
}

type retryConn struct {
	Forward
	target string
	opts   RetryOptions
}

func (r *retryConn) Identify(ctx context.Context) (Identity, error) {
	return retry(ctx, r.opts, "identify", r.target, false, func() (Identity, error) { return r.Conn.Identify(ctx) })
}

func (r *retryConn) Stat(ctx context.Context, name string) (FileInfo, error) {
	return retry(ctx, r.opts, "stat", r.target, false, func() (FileInfo, error) { return r.Forward.Stat(ctx, name) })
}

func (r *retryConn) List(ctx context.Context, dir string) ([]FileInfo, error) {
	return retry(ctx, r.opts, "list", r.target, false, func() ([]FileInfo, error) { return r.Forward.List(ctx, dir) })
}

func (r *retryConn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	_, err := retry(ctx, r.opts, "mkdir", r.target, false, func() (struct{}, error) {
		return struct{}{}, r.Forward.Mkdir(ctx, dir, perm)
	})
	return err
}

func (r *retryConn) Put(ctx context.Context, name string, f File, opts PutOptions) (PutResult, error) {
	var sent int64
	res, err := retry(ctx, r.opts, "put", r.target, false, func() (PutResult, error) {
		res, err := r.Forward.Put(ctx, name, f, opts)
		sent += res.Sent
		return res, err
	})
	res.Sent = sent
	if err == nil { // else how much is there is not known
		res.Kept = max(0, f.Size-sent)
	}
	return res, err
}

func (r *retryConn) Get(ctx context.Context, name string, w io.Writer, opts GetOptions) (int64, error) {
	var total int64
	_, err := retry(ctx, r.opts, "get", r.target, false, func() (struct{}, error) {
		o := opts
		o.Offset += total
		if opts.Limit > 0 {
			if o.Limit -= total; o.Limit <= 0 {
				return struct{}{}, nil
			}
		}
		n, err := r.Forward.Get(ctx, name, w, o)
		total += n
		return struct{}{}, err
	})
	return total, err
}

func (r *retryConn) QueryService(ctx context.Context, name string) (ServiceStatus, error) {
	return retry(ctx, r.opts, "query service", r.target, false, func() (ServiceStatus, error) {
		return r.Forward.QueryService(ctx, name)
	})
}

func (r *retryConn) Inventory(ctx context.Context) (*Inventory, error) {
	return retry(ctx, r.opts, "inventory", r.target, false, func() (*Inventory, error) { return r.Forward.Inventory(ctx) })
}

func (r *retryConn) Space(ctx context.Context, dir string) (int64, error) {
	return retry(ctx, r.opts, "space", r.target, false, func() (int64, error) { return r.Forward.Space(ctx, dir) })
}

func (r *retryConn) Clock(ctx context.Context) (Clock, error) {
	return retry(ctx, r.opts, "clock", r.target, false, func() (Clock, error) { return r.Forward.Clock(ctx) })
}
