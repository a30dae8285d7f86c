package fleet_test

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// A target whose port is dropped by a firewall is given up on when its time is over,
// and not tried again; also where a login might take longer.
func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(w *world){
		"by the caller": func(w *world) { w.cfg.ConnectTimeout = 50 * time.Millisecond },
		"by the caller, with somebody to ask": func(w *world) {
			w.cfg.ConnectTimeout = 50 * time.Millisecond
			w.cfg.Ask = func(context.Context, string) (transport.Secret, error) { panic("nobody is asked") }
		},
		"before the configuration": func(w *world) {
			w.cfg.ConnectTimeout = 50 * time.Millisecond
			w.write("config", "ConnectTimeout 3600\n")
		},
		"by the configuration": func(w *world) { w.write("config", "ConnectTimeout 1\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			edit(w)
			w.write("known_hosts", "[127.0.0.1]:2222 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGcL4ZlVnUcSGwLLVMyIUKoVU9ZpY2xHWmFmTjkpjQlK\n")
			var dials atomic.Int32
			w.cfg.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			err := w.dial("127.0.0.1:2222")
			require.ErrorIs(t, err, transport.ErrTimeout)
			require.NotErrorIs(t, err, context.Canceled)
			require.EqualValues(t, 1, dials.Load(), "it had its time")
		})
	}
}

// What fails at once may pass, and is tried again.
func TestRefusedIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.ConnectTimeout = time.Minute
	public, _ := w.key("id_ed25519", "")
	s := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}})
	var dials atomic.Int32
	w.cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return nil, syscall.ECONNREFUSED
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	require.NoError(t, w.dial(s.Addr()))
	require.EqualValues(t, 2, dials.Load())
}
