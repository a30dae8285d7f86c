package transport_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

func quick(t transport.Transport) transport.Transport {
	return transport.Retry(t, transport.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
}

func count(ops []string, op string) int {
	n := 0
	for _, o := range ops {
		if o == op {
			n++
		}
	}
	return n
}

func TestRetryDial(t *testing.T) {
	for _, tt := range []struct {
		kind  error
		fails int
		dials int
		ok    bool
	}{
		{transport.ErrUnreachable, 3, 4, true},
		{transport.ErrUnreachable, 4, 4, false},
		{transport.ErrBusy, 1, 2, true},
		{transport.ErrConnLost, 1, 2, true}, // each dial makes a connection of its own
		{transport.ErrAuth, 1, 1, false},    // again would lock the account
		{transport.ErrTrust, 1, 1, false},
	} {
		fake, target := transporttest.NewPushDevice()
		target.Inject(transporttest.Fault{Op: "dial", Times: tt.fails, Err: tt.kind})
		_, err := quick(fake).Dial(t.Context(), target.Endpoint())
		if tt.ok {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, tt.kind)
		}
		require.Equal(t, tt.dials, count(fake.Ops(nil), "dial"), "%v, %d times", tt.kind, tt.fails)
		require.NoError(t, fake.Close())
	}
}

// TestRetryWaits: twofold from Base, half of it at random, up to Max.
func TestRetryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, target := transporttest.NewPushDevice()
		target.Inject(transporttest.Fault{Op: "dial", Times: -1, Err: transport.ErrUnreachable})
		start, last := time.Now(), time.Now()
		var waits []time.Duration
		tries := []int{}
		tr := transport.Retry(fake, transport.RetryOptions{Tries: 6, Max: 3 * time.Second, OnRetry: func(op string, try int, err error) {
			require.Equal(t, "dial", op)
			require.ErrorIs(t, err, transport.ErrUnreachable)
			tries = append(tries, try)
			if try > 2 {
				waits = append(waits, time.Since(last))
			}
			last = time.Now()
		}})
		_, err := tr.Dial(t.Context(), target.Endpoint())
		require.ErrorIs(t, err, transport.ErrUnreachable)
		require.Equal(t, []int{2, 3, 4, 5, 6}, tries)
		waits = append(waits, time.Since(last))
		for i, full := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			require.GreaterOrEqual(t, waits[i], full/2, "wait %d", i)
			require.LessOrEqual(t, waits[i], full, "wait %d", i)
		}
		require.Greater(t, time.Since(start), 4*time.Second)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = transport.Retry(fake, transport.RetryOptions{}).Dial(ctx, target.Endpoint())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, transport.ErrUnreachable, "why it was waiting")
		require.NoError(t, fake.Close())
	})
}

// TestRetryCalls: what reads is repeated, what changes something is not.
func TestRetryCalls(t *testing.T) {
	shell := transporttest.NewShellServer
	device := transporttest.NewPushDevice
	services := transporttest.NewServiceServer
	for _, tt := range []struct {
		op    string
		make  func() (*transporttest.Fake, *transporttest.Target)
		tries int
		call  func(ctx context.Context, c transport.Conn) error
	}{
		{"identify", shell, 4, func(ctx context.Context, c transport.Conn) error { _, err := c.Identify(ctx); return err }},
		{"stat", shell, 4, func(ctx context.Context, c transport.Conn) error { _, err := transport.Stat(ctx, c, "/"); return err }},
		{"list", shell, 4, func(ctx context.Context, c transport.Conn) error { _, err := transport.List(ctx, c, "/"); return err }},
		{"mkdir", shell, 4, func(ctx context.Context, c transport.Conn) error { return transport.Mkdir(ctx, c, "/x", 0o755) }},
		{"get", shell, 4, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Get(ctx, c, "/x", &bytes.Buffer{}, transport.GetOptions{})
			return err
		}},
		{"put", shell, 4, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Put(ctx, c, "/x", transport.BytesFile("x", nil), transport.PutOptions{})
			return err
		}},
		{"query service", services, 4, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.QueryService(ctx, c, "x")
			return err
		}},
		{"inventory", device, 4, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.ReadInventory(ctx, c)
			return err
		}},
		{"remove", shell, 1, func(ctx context.Context, c transport.Conn) error { return transport.Remove(ctx, c, "/x") }},
		{"run", shell, 1, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Run(ctx, c, transport.Command{Argv: []string{"x"}})
			return err
		}},
		{"start service", services, 1, func(ctx context.Context, c transport.Conn) error { return transport.StartService(ctx, c, "x") }},
		{"stop service", services, 1, func(ctx context.Context, c transport.Conn) error { return transport.StopService(ctx, c, "x") }},
		{"delete service", services, 1, func(ctx context.Context, c transport.Conn) error { return transport.DeleteService(ctx, c, "x") }},
		{"update", device, 1, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Update(ctx, c, transport.Payload{}, transport.UpdateOptions{})
			return err
		}},
		{"undo", device, 1, func(ctx context.Context, c transport.Conn) error { return transport.Undo(ctx, c, transport.State{}) }},
		{"reboot", device, 1, func(ctx context.Context, c transport.Conn) error {
			return transport.Reboot(ctx, c, transport.RebootOptions{})
		}},
	} {
		t.Run(tt.op, func(t *testing.T) {
			for _, kind := range []error{transport.ErrBusy, transport.ErrConnLost} {
				fake, target := tt.make()
				conn, err := quick(fake).Dial(t.Context(), target.Endpoint())
				require.NoError(t, err)
				target.Inject(transporttest.Fault{Op: tt.op, Times: -1, Err: kind})
				require.ErrorIs(t, tt.call(t.Context(), conn), kind)
				want := tt.tries
				if kind == transport.ErrConnLost {
					want = 1 // the connection will not come back
				}
				require.Equal(t, want, count(fake.Ops(nil), tt.op), "%v", kind)
				require.NoError(t, fake.Close())
			}
		})
	}
}

// TestRetryGoesOn: a repeated transfer continues, and its result counts all of it.
func TestRetryGoesOn(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	conn, err := quick(fake).Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	content := bytes.Repeat([]byte("0123456789"), 20_000)
	target.Inject(transporttest.Fault{Op: "put", After: 70_000, Err: transport.ErrBusy})
	res, err := transport.Put(t.Context(), conn, "/tmp/x", transport.BytesFile("x", content), transport.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(200_000), res.Sent)
	require.Zero(t, res.Kept)
	for _, opts := range []transport.GetOptions{{}, {Offset: 7}, {Limit: 90_000}, {Offset: 7, Limit: 90_000}, {Limit: 70_000}} {
		target.Inject(transporttest.Fault{Op: "get", After: 70_000, Err: transport.ErrTimeout})
		var b bytes.Buffer
		n, err := transport.Get(t.Context(), conn, "/tmp/x", &b, opts)
		require.NoError(t, err)
		want := content[opts.Offset:]
		if opts.Limit > 0 {
			want = want[:opts.Limit]
		}
		require.Equal(t, int64(len(want)), n, "%+v", opts)
		require.True(t, bytes.Equal(want, b.Bytes()), "%+v", opts)
	}
	target.Inject(transporttest.Fault{Op: "put", Times: -1, Err: transport.ErrBusy})
	res, err = transport.Put(t.Context(), conn, "/tmp/y", transport.BytesFile("y", content), transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrBusy)
	require.Zero(t, res.Kept, "nothing is known to be there")
	require.NoError(t, fake.Close())
}
