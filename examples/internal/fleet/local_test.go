package fleet_test

import (
	"os"
	"testing"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// TestLocal: the manager's own host takes neither address nor password, also where
// there is one for others.
func TestLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	file, err := fleet.Parse("fleet.yaml", []byte("defaults: {user: ops}\ntargets:\n  - url: 'local:'\n  - {kind: linux, address: db1}\n"))
	require.NoError(t, err)
	require.Equal(t, sum.Target{Kind: sum.Local}, file.Targets[0])
	tr, ep, err := r.Resolve(t.Context(), file.Targets[0])
	require.NoError(t, err)
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	require.True(t, conn.Path().SameHost)
	name, err := os.Hostname()
	require.NoError(t, err)
	id, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, name, id.Name)
	require.NoError(t, conn.Close(t.Context()))
	require.Contains(t, w.log.String(), "msg=dial", "Debug logs the calls")

	for _, bad := range []sum.Target{{Kind: sum.Local, User: "root"}, {Kind: sum.Local, Address: "db1"}, {Kind: sum.Local, Object: "bay"}} {
		tr, ep, err := r.Resolve(t.Context(), bad)
		require.NoError(t, err)
		_, err = tr.Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrInvalid)
	}

	w.cfg.Sudo = true
	r, err = fleet.New(w.cfg)
	require.NoError(t, err)
	_, _, err = r.Resolve(t.Context(), file.Targets[0])
	if os.Geteuid() == 0 {
		require.NoError(t, err, "root needs no sudo")
		return
	}
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.ErrorContains(t, err, "under sudo")
}
