package fleet_test

import (
	"context"
	"errors"
	"net"
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
	require.ErrorContains(t, err, "a shell took the ;", "it may be what a shell has left of windows://db1;ops@host")
	_, _, err = r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "db1", Object: "bay"})
	require.ErrorIs(t, err, transport.ErrInvalid)

	w.cfg.Password, w.cfg.WMI = transport.NewSecret(canary), true
	r, err = fleet.New(w.cfg)
	require.NoError(t, err)
	tr, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "127.0.0.1:1"})
	require.NoError(t, err)
	require.Equal(t, 7*time.Second, ep.Options.(smb.Options).ConnectTimeout)
	require.True(t, ep.Options.(smb.Options).WMI)
	_, err = tr.Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrUnreachable)
}

// TestNoPassword: a password that nobody gave is not one that a target has refused.
// Nothing is dialled.
func TestNoPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, net.ErrClosed
	}
	target := sum.Target{Kind: sum.Windows, User: "ops", Address: "127.0.0.1:1"}
	missing := func(err error) {
		require.ErrorIs(t, err, sum.ErrNoPassword)
		require.NotErrorIs(t, err, transport.ErrAuth)
		require.ErrorContains(t, err, "password of ops")
	}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	_, _, err = r.Resolve(t.Context(), target)
	missing(err)
	for _, answer := range []error{nil, errors.ErrUnsupported} { // an empty one, and a terminal that went
		w.cfg.Ask = func(context.Context, string) (transport.Secret, error) { return transport.Secret{}, answer }
		r, err = fleet.New(w.cfg)
		require.NoError(t, err)
		tr, ep, err := r.Resolve(t.Context(), target)
		require.NoError(t, err)
		_, err = tr.Dial(t.Context(), ep)
		missing(err)
	}
}

// TestPasswordsOfTargets: a target's own password comes before that of all.
func TestPasswordsOfTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := sum.Target{Name: "one", Kind: sum.Windows, User: "LAB;ops", Address: "db1"}
	two := sum.Target{Kind: sum.Windows, User: "LAB;ops", Address: "db2"}
	web := sum.Target{Kind: sum.Linux, User: "ops", Address: "web1"}
	w.cfg.Password = transport.NewSecret("all")
	w.cfg.Passwords = map[string]transport.Secret{one.String(): transport.NewSecret("one"), web.String(): transport.NewSecret("web")}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	for _, x := range []struct {
		t    sum.Target
		want string
	}{{one, "one"}, {two, "all"}, {web, "web"}, {sum.Target{Kind: sum.Linux, User: "ops", Address: "web2"}, "all"}} {
		_, ep, err := r.Resolve(t.Context(), x.t)
		require.NoError(t, err)
		require.Equal(t, x.want, ep.Credentials.Password.Reveal(), "%s", x.t)
	}
}
