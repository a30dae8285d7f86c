package sum

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/firewall/firewalltest"
)

// TestFirewallRun: each session is an owner of its own in the firewall, by the ID that
// its journal has for what it opened, unless the caller says who it is.
func TestFirewallRun(t *testing.T) {
	host := firewalltest.NewHost(t)
	from := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	runs := map[string]bool{}
	for _, given := range []string{"", "", "nightly"} {
		b, err := openBooks(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		w := newWalls(t.Context(), Config{OpenFirewall: true, Logger: slog.New(slog.DiscardHandler), Firewall: firewall.Options{Run: given, Driver: host.Driver()}}, b)
		release, err := w.allow(t.Context(), 8080, from)
		require.NoError(t, err)
		record := b.pendingFor(rulesOwner.id())
		require.Len(t, record, 1)
		if given != "" {
			require.Equal(t, given, w.opts.Run)
		} else {
			require.Equal(t, record[0].id, w.opts.Run)
		}
		require.False(t, runs[w.opts.Run])
		runs[w.opts.Run] = true
		require.NoError(t, release(t.Context()))
		require.NoError(t, w.close(context.Background()))
		require.NoError(t, b.own.Close(t.Context()))
	}
}
