package transport_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// most counts how many of a kind of call are at work at the same time.
func most(fake *transporttest.Fake, op string) int {
	n := 0
	for _, c := range fake.Calls() {
		if c.Op == op && !c.Done {
			n++
		}
	}
	return n
}

func TestLimitDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, target := transporttest.NewPushDevice()
		stall := target.Inject(transporttest.Fault{Op: "dial", Do: transporttest.Stall, Times: -1})
		tr := transport.Limit(fake, transport.LimitOptions{Dials: 2})
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				_, err := tr.Dial(t.Context(), target.Endpoint())
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		require.Equal(t, 2, most(fake, "dial"))
		stall.Release()
		wg.Wait()
		require.Equal(t, 6, fake.OpenConns(), "open connections were not limited")
		require.NoError(t, fake.Close())
	})
}

func TestLimitConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, target := transporttest.NewPushDevice()
		tr := transport.Limit(fake, transport.LimitOptions{Conns: 2})
		first, err := tr.Dial(t.Context(), target.Endpoint())
		require.NoError(t, err)
		// A dial that fails gives its place back.
		target.Inject(transporttest.Fault{Op: "dial"})
		_, err = tr.Dial(t.Context(), target.Endpoint())
		require.ErrorIs(t, err, transport.ErrBusy)
		_, err = tr.Dial(t.Context(), target.Endpoint())
		require.NoError(t, err)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = tr.Dial(ctx, target.Endpoint())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var te *transport.Error
		require.ErrorAs(t, err, &te)
		require.Equal(t, target.Address(), te.Target)
		require.NotEmpty(t, te.Hint)

		done := make(chan error)
		go func() {
			_, err := tr.Dial(t.Context(), target.Endpoint())
			done <- err
		}()
		synctest.Wait()
		for range 3 { // closing again gives no second place
			require.NoError(t, first.Close(t.Context()))
		}
		require.NoError(t, <-done)
		_, err = tr.Dial(ctx, target.Endpoint())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, fake.Close())
	})
}

func TestLimitCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, login, _ := transporttest.NewHostGroup(3)
		tr := transport.Limit(fake, transport.LimitOptions{Calls: 1})
		conn, err := tr.Dial(t.Context(), login.Endpoint())
		require.NoError(t, err)
		stall := login.Inject(transporttest.Fault{Op: "identify", Do: transporttest.Stall})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := conn.Identify(t.Context())
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		require.Equal(t, 1, most(fake, "identify"))
		// Another connection has a limit of its own.
		other, err := tr.Dial(t.Context(), login.Endpoint())
		require.NoError(t, err)
		_, err = other.Identify(t.Context())
		require.NoError(t, err)
		// Close does not queue behind calls.
		require.NoError(t, other.Close(t.Context()))
		stall.Release()
		wg.Wait()

		// The loop over an iterator may use the connection.
		n := 0
		for _, err := range transport.Children(t.Context(), conn) {
			require.NoError(t, err)
			_, err := conn.Identify(t.Context())
			require.NoError(t, err)
			n++
		}
		require.Equal(t, 3, n)

		// An error ends the sequence, once.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n = 0
		for _, err := range transport.Children(ctx, conn) {
			cancel()
			if n++; n > 1 {
				require.ErrorIs(t, err, context.Canceled)
			}
		}
		require.Equal(t, 2, n)
		_, err = conn.Identify(t.Context())
		require.NoError(t, err, "the iterator kept the only place")
		require.NoError(t, fake.Close())
	})
}

// TestLimitTunnelCommand: a program that is a tunnel counts as a call while it is
// being started and not for as long as it lasts.
func TestLimitTunnelCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, target := transporttest.NewShellServer()
		target.OnRun(transporttest.Argv("cat"), func(ctx context.Context, p *transporttest.Process) transport.Exit {
			_, _ = io.Copy(p.Stdout, p.Stdin)
			return transport.Exit{}
		})
		conn, err := transport.Limit(fake, transport.LimitOptions{Calls: 1}).Dial(t.Context(), target.Endpoint())
		require.NoError(t, err)
		pipe, err := transport.DialCommand(t.Context(), conn, transport.Command{Argv: []string{"cat"}})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 1, most(fake, "run"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = transport.List(ctx, conn, "/")
		require.NoError(t, err)
		// It works, and two of them do side by side.
		second, err := transport.DialCommand(t.Context(), conn, transport.Command{Argv: []string{"cat"}})
		require.NoError(t, err)
		for _, c := range []net.Conn{pipe, second} {
			_, err = io.WriteString(c, "x")
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
		}
		for _, c := range []net.Conn{pipe, second} {
			require.NoError(t, c.Close())
		}
		require.NoError(t, conn.Close(t.Context()))
		require.NoError(t, fake.Close())
	})
}
