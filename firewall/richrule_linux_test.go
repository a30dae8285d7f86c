package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

func TestRichRule(t *testing.T) {
	for _, from := range []string{"192.0.2.5/32", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::1/128", "2001:db8::/32", "::/0"} {
		for _, slot := range []int{0, 1, slots - 1} {
			for _, generation := range []int{0, generations - 1} {
				text := richRule(slot, generation, Opening{Network: "udp", Port: 65535, From: netip.MustParsePrefix(from)})
				got, ok := slotOfRule(text)
				require.True(t, ok, text)
				require.Equal(t, slot, got, text)
			}
		}
	}
	first := richRule(0, 0, Opening{Network: "tcp", Port: 80, From: netip.MustParsePrefix("192.0.2.5/32")})
	last := richRule(slots-1, generations-1, Opening{Network: "tcp", Port: 80, From: netip.MustParsePrefix("::/0")})
	require.Regexp(t, `^rule priority="-31769" family="ipv4" source address="192\.0\.2\.5/32" destination NOT address="0\.[0-9]+\.[0-9]+\.[0-9]+" port port="80" protocol="tcp" accept$`, first)
	require.Regexp(t, `^rule priority="-15131" family="ipv6" destination NOT address="100:[0-9a-f:]+" port port="80" protocol="tcp" accept$`, last)
	priorities := map[int]bool{}
	for slot := range slots {
		for generation := range generations {
			p := priorityOf(slot, generation)
			require.NotZero(t, p%10, "a round number")
			require.False(t, priorities[p])
			priorities[p] = true
		}
	}
	for _, change := range [][2]string{ // of a rule of ours into somebody else's
		{`priority="-31769" `, ``},
		{`priority="-31769"`, `priority="-32768"`},
		{`priority="-31769"`, `priority="-31770"`},
		{`priority="-31769"`, `priority="-31768"`}, // the sum is another one's
		{`priority="-31769"`, `priority="-15129"`},
		{`priority="-31769"`, `priority="-1"`},
		{`192.0.2.5/32`, `192.0.2.5`},
		{`192.0.2.5/32`, `192.0.2.6/32`},
		{`ipv4`, `ipv6`},
		{`"80"`, `"80-81"`},
		{`"80"`, `"81"`},
		{`"80"`, `"99999"`},
		{`accept`, `drop`},
		{`NOT `, ``},
		{`address="0.`, `address="1.`},
	} {
		other := strings.Replace(first, change[0], change[1], 1)
		require.NotEqual(t, first, other)
		_, ok := slotOfRule(other)
		require.False(t, ok, other)
	}
	for _, priority := range []int{-32768, -32767, -31769, -31768, -30001, -20003, -15131} { // the form without the sign
		_, ok := slotOfRule(fmt.Sprintf(`rule priority="%d" family="ipv4" source address="10.0.0.0/8" port port="22" protocol="tcp" accept`, priority))
		require.False(t, ok, priority)
	}
	require.NotEqual(t, slotOf(Owner{"a", 1, "1.x"}), slotOf(Owner{"a", 2, "1.x"}))
}

// TestRefusal: what firewalld, the bus and polkit say is told apart by their codes.
func TestRefusal(t *testing.T) {
	exception := func(text string) error {
		return dbus.Error{Name: "org.fedoraproject.FirewallD1.Exception", Body: []any{text}}
	}
	for _, tt := range []struct {
		err  error
		is   error
		code string
		says string
	}{
		{exception("ALREADY_ENABLED: 'rule' already in 'public'"), nil, "ALREADY_ENABLED", "already in 'public'"},
		{exception("NOT_ENABLED"), nil, "NOT_ENABLED", "addRichRule: NOT_ENABLED"},
		{exception("NOT_RUNNING"), errNotRunning, "NOT_RUNNING", "does not run"},
		{exception("PANIC_MODE"), nil, "PANIC_MODE", "firewall-cmd --panic-off"},
		{exception("ACCESS_DENIED: lockdown is enabled"), ErrPermission, "ACCESS_DENIED", "its lockdown is on"},
		{exception("INVALID_RULE: bad attribute 'priority'"), errors.ErrUnsupported, "INVALID_RULE", "firewalld 0.7"},
		{dbus.Error{Name: "org.fedoraproject.FirewallD1.NotAuthorizedException", Body: []any{"Not Authorized(uid): x"}}, ErrPermission, "", "administrator rights"},
		{dbus.Error{Name: "org.fedoraproject.slip.dbus.service.PolKit.NotAuthorizedException.org.fedoraproject.FirewallD1.config", Body: []any{""}}, ErrPermission, "", ""},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied", Body: []any{"rejected"}}, ErrPermission, "", "rejected"},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.ServiceUnknown", Body: []any{"nobody"}}, errNotRunning, "", "start firewalld"},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.NoReply", Body: []any{"gone"}}, errNotRunning, "", "start firewalld"},
	} {
		err := wrap("allow", nil, refusal("addRichRule", tt.err))
		if tt.is != nil {
			require.ErrorIs(t, err, tt.is)
		}
		require.Equal(t, tt.code, codeOf(err))
		require.ErrorContains(t, err, tt.says)
		require.ErrorContains(t, err, "in firewalld")
	}
}

func TestZonesOfInterfaces(t *testing.T) {
	active := map[string]map[string][]string{
		"internal": {"interfaces": {"eth0"}}, "vpn": {"interfaces": {"tun+"}}, "work": {"sources": {"192.0.2.0/24"}},
	}
	require.Equal(t, []string{"internal"}, zonesOf([]string{"eth0"}, active, "public"))
	require.Equal(t, []string{"internal", "public", "vpn"}, zonesOf([]string{"eth0", "eth1", "tun3"}, active, "public"))
	require.Equal(t, []string{"public"}, zonesOf(nil, active, "public"))
	active["home"] = map[string][]string{"interfaces": {"tun3"}}
	for range 20 { // whatever the order of the map
		require.Equal(t, []string{"home"}, zonesOf([]string{"tun3"}, active, "public"))
	}
	for source, want := range map[string]string{"192.0.2.7": "192.0.2.7/32", "192.0.2.7/24": "192.0.2.0/24", "2001:db8::/32": "2001:db8::/32"} {
		p, ok := sourcePrefix(source)
		require.True(t, ok)
		require.Equal(t, want, p.String())
	}
	for _, source := range []string{"00:11:22:33:44:55", "ipset:peers"} {
		_, ok := sourcePrefix(source)
		require.False(t, ok)
	}
}
