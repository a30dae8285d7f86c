package install_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestInspectKilled: what a program that was killed while it looked at a target had
// opened is closed at once, and what is left in the firewall goes with the shell that
// ran it, or where that was killed too, as soon as anybody comes.
func TestInspectKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts real hosts")
	}
	t.Parallel()
	realtest.Need(t, "pkill")
	n := realtest.NewNet(t)
	for _, who := range []string{"its shell", "the next look", "the next agent"} {
		t.Run(who, func(t *testing.T) {
			h := &booted{Host: n.Host(realtest.HostConfig{}), t: t, ns: n.NS}
			l := &lab{t: t, base: "/var/lib/roundsman", id: "m1-db1"}
			rules := func() string { return h.Run("nft", "--stateless", "list", "ruleset") }
			marks := func() string { return h.Run("find", "/run", "-name", "*firewall*") }
			before := rules()
			require.Empty(t, marks())
			conn := h.dial("root")
			k := l.inspect(conn, agent.InspectOptions{})
			from := conn.Path().SeenAs.Unmap()
			_, err := k.Listen(t.Context(), agent.ListenOptions{Firewall: []netip.Prefix{netip.PrefixFrom(from, from.BitLen())}})
			require.NoError(t, err)
			require.Contains(t, rules(), "table inet roundsman.")
			if who != "its shell" {
				h.Run("pkill", "-STOP", "-f", "roundsman-agent check$") // it would end in order without the shell
				h.Run("pkill", "-KILL", "-f", "size=.1 bytes=")
			}
			h.Run("pkill", "-KILL", "-f", "roundsman-agent check$")
			require.Eventually(t, func() bool { return !strings.Contains(rules(), "table inet roundsman.") }, patience, 20*time.Millisecond, "the port is still open")
			_, err = k.Facts(t.Context())
			require.Error(t, err)
			if who != "its shell" {
				require.NotEqual(t, before, rules(), "there is a gate that lets nobody in")
			}
			switch who {
			case "its shell": // which has ended by now
				require.Equal(t, "0\n", h.Run("sh", "-c", "ls -d /var/lib/.roundsman-check.* 2>/dev/null | wc -l"))
			case "the next look":
				require.NoError(t, l.inspect(h.dial("root"), agent.InspectOptions{}).Close(t.Context()))
			case "the next agent":
				_, err := l.start(h.dial("root")).Remove(t.Context())
				require.NoError(t, err)
			}
			require.Equal(t, before, rules())
			require.Empty(t, marks())
		})
	}
}
