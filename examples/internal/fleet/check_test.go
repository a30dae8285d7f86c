package fleet_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
)

// TestCheck: half of a user, and an object that its kind has not, are told with what is right
// instead; whole ones are not touched.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	for _, x := range []struct {
		t    sum.Target
		want string
	}{
		{sum.Target{Kind: sum.Windows, User: "LAB;", Address: "fd00::7"}, `no user behind the domain in the user "LAB;": want "windows://LAB;user@[fd00::7]"`},
		{sum.Target{Kind: sum.Windows, User: `LAB\`, Address: "h"}, `want "windows://LAB;user@h"`},
		{sum.Target{Kind: sum.Windows, User: ";ops", Address: "h"}, `want "windows://DOMAIN;ops@h", or "windows://ops@h" for one of the server itself`},
		{sum.Target{Kind: sum.Windows, User: ";", Address: "h"}, `want "windows://DOMAIN;user@h"`},
		{sum.Target{Kind: sum.Windows, User: "ops@", Address: "h"}, "half of a user@realm"},
		{sum.Target{Kind: sum.Windows, User: "@lab.example", Address: "h"}, "half of a user@realm"},
		{sum.Target{Kind: sum.Windows, User: "ops", Address: "h", Object: "bay"}, `has no object, such as "bay"`},
		{sum.Target{Kind: sum.Linux, User: "ops", Address: "h", Object: "bay"}, "has no object"},
		{sum.Target{Kind: sum.ILO, User: "ops", Address: "h", Object: "bay"}, "has no object"},
	} {
		err := fleet.Check(x.t)
		require.ErrorIs(t, err, sum.ErrInvalid)
		require.ErrorContains(t, err, x.want)
		err = r.Check(x.t)
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorContains(t, err, x.want)
		_, _, err = r.Resolve(t.Context(), x.t)
		require.ErrorIs(t, err, transport.ErrInvalid)
	}
	for _, fine := range []sum.Target{
		{Kind: sum.Windows, User: "LAB;ops", Address: "h"}, {Kind: sum.Windows, User: `LAB\ops`, Address: "h"}, {Kind: sum.Windows, User: ".;ops", Address: "h"},
		{Kind: sum.Windows, User: "ops@lab.example", Address: "h"}, {Kind: sum.Windows, User: "ops", Address: "h"},
		{Kind: sum.Linux, User: ";ops", Address: "h"}, {Kind: sum.VMware, Address: "vcenter", Object: "host-17"}, {Kind: sum.Local},
	} {
		require.NoError(t, fleet.Check(fine))
		require.NoError(t, r.Check(fine))
	}
}

// TestNetBIOS is asked for, and hands name queries to the driver.
func TestNetBIOS(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		w := newWorld(t)
		w.cfg.NetBIOS, w.cfg.Password = on, transport.NewSecret(canary)
		r, err := fleet.New(w.cfg)
		require.NoError(t, err)
		_, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Windows, User: "ops", Address: "127.0.0.1:1"})
		require.NoError(t, err)
		require.Equal(t, on, ep.Options.(smb.Options).NetBIOS)
	}
}
