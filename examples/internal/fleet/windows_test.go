package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// TestWindows: a Windows server takes a name and a password, which is asked for once and
// before a login is tried.
func TestWindows(t *testing.T) {
	t.Parallel()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	srv, err := smbtest.NewServer(smbtest.Config{Password: canary})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	w := newWorld(t)
	asked := 0
	w.cfg.Ask = func(_ context.Context, prompt string) (transport.Secret, error) {
		asked++
		require.Contains(t, prompt, "LAB;ops")
		return transport.NewSecret(canary), nil
	}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	target, err := sum.ParseTarget("windows://LAB;ops@" + srv.Addr())
	require.NoError(t, err)
	for range 2 {
		tr, ep, err := r.Resolve(t.Context(), target)
		require.NoError(t, err)
		conn, err := tr.Dial(t.Context(), ep)
		require.NoError(t, err)
		require.True(t, conn.Caps().Has(transport.CapFiles|transport.CapServices|transport.CapTunnelPipe))
		id, err := conn.Identify(t.Context())
		require.NoError(t, err)
		require.Equal(t, "windows", id.OS)
		require.NoError(t, conn.Close(t.Context()))
	}
	require.Equal(t, 1, asked)
	require.Contains(t, w.log.String(), "msg=dial", "Debug logs the calls")
	route, err := r.Route(target)
	require.NoError(t, err)
	require.Zero(t, route)
}

func TestWindowsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.ConnectTimeout = 7 * time.Second
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	_, _, err = r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, Address: "db1"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.ErrorContains(t, err, "windows://DOMAIN;user@db1")
	_, _, err = r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "db1", Object: "bay"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	tr, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "127.0.0.1:1"})
	require.NoError(t, err)
	require.Equal(t, 7*time.Second, ep.Options.(smb.Options).ConnectTimeout)
	_, err = tr.Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrAuth, "nobody is there to ask")
	require.ErrorContains(t, err, "password for ops")

	w.cfg.Password = transport.NewSecret(canary)
	r, err = fleet.New(w.cfg)
	require.NoError(t, err)
	tr, ep, err = r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "127.0.0.1:1"})
	require.NoError(t, err)
	_, err = tr.Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrUnreachable)
}
