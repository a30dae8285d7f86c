package firewall_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
)

// newFirewalld makes a host on which firewalld runs, after what the script does.
func newFirewalld(t *testing.T, script string) *lab {
	t.Helper()
	needs(t, "firewalld", "firewall-cmd", "dbus-daemon", "dbus-send", "nft")
	return newLab(t, script+firewalldRules)
}

var richRule = regexp.MustCompile(`rule priority="-[0-9]{5}" .*destination NOT .*accept`)

// richRules are the rules of managers in a zone.
func (l *lab) richRules(zone string) []string {
	l.t.Helper()
	return richRule.FindAllString(l.Run("dbus-send", "--system", "--print-reply", "--dest=org.fedoraproject.FirewallD1",
		"/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1.zone.getRichRules", "string:"+zone), -1)
}

// TestFirewalld has one host for tests of firewalld that leave it as it was: it is
// slow to start.
func TestFirewalld(t *testing.T) {
	t.Parallel()
	needs(t, "setpriv")
	l := newFirewalld(t, "")
	for _, tt := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"renewal", firewalldRenewal},
		{"many", firewalldMany},
		{"managers", firewalldManagers},
		{"killed anywhere", firewalldKilledAnywhere},
		{"panic", firewalldPanic},
		{"without rights", firewalldWithoutRights},
		{"foreign", firewalldForeign},
		{"restart", firewalldRestart},
		{"alien", firewalldAlien},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on := *l
			on.t = t
			before := on.dump("firewalld")
			tt.test(t, &on)
			require.Equal(t, before, on.dump("firewalld"))
		})
	}
}

// firewalldRenewal: rules are renewed before they end, and also after reloads,
// after which firewalld still has the times at which it meant to remove them.
func firewalldRenewal(t *testing.T, l *lab) {
	before := l.dump("firewalld")
	m, _ := l.manager("ttl=6s")
	m.do("allow tcp " + friend4 + "/32")
	seen := map[string]bool{}
	for range 3 {
		l.Run("firewall-cmd", "--reload")
		l.poll(func() bool { return l.reach("tcp") == "friend4" }, "not open again after a reload")
		seen[strings.Join(l.richRules("public"), "; ")] = true
	}
	first := len(seen)
	l.poll(func() bool {
		require.Equal(t, "friend4", l.reach("tcp"))
		rules := l.richRules("public")
		require.NotEmpty(t, rules)
		if len(rules) == 1 {
			seen[rules[0]] = true
		}
		return len(seen) >= first+4
	}, "the rule is not renewed")
	m.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("firewalld"))
}

// firewalldMany: with many openings firewalld is given more time for each, so that
// none ends while others are renewed.
func firewalldMany(t *testing.T, l *lab) {
	m, _ := l.manager("ttl=3s")
	const n = 12
	from := []string{friend4 + "/32"}
	for i := range n - 1 {
		from = append(from, fmt.Sprintf("10.0.0.%d/32", i))
	}
	m.do("allow tcp " + strings.Join(from, " "))
	seen := map[string]bool{}
	for renewals := range 3 {
		l.poll(func() bool {
			sources := map[string]bool{}
			for _, r := range l.richRules("public") {
				source := regexp.MustCompile(`address="[^"]+"`).FindString(r)
				sources[source] = true
				if source == `address="`+friend4+`/32"` {
					seen[r] = true
				}
			}
			require.Len(t, sources, n, "some have ended")
			return len(seen) > renewals
		}, "they are not renewed")
	}
	require.Equal(t, "friend4", l.reach("tcp"))
	m.do("close")
	require.Empty(t, l.richRules("public"))
}

// firewalldKilledAnywhere: a manager is killed at any point, and the next sweep
// removes what it left.
func firewalldKilledAnywhere(t *testing.T, l *lab) {
	before := l.dump("nft")
	for i := range 8 {
		l.killedInMid(i, time.Duration(i)*8*time.Millisecond)
		sweeper := l.start("manager")
		l.poll(func() bool { // firewalld may still be busy with the last call
			sweeper.do("sweep")
			return l.dump("nft") == before
		}, "the sweep leaves something")
		require.Empty(t, l.reach("tcp"))
	}
}

// firewalldRestart: a lease outlives firewalld's end, in whatever way.
func firewalldRestart(t *testing.T, l *lab) {
	before := l.dump("firewalld")
	m, _ := l.manager()
	m.do(allowFriend)
	require.Equal(t, friends, l.reach("tcp"))
	for _, signal := range []string{"TERM", "KILL"} {
		l.Run("sh", "-ec", "p=$(pgrep -x firewalld); kill -"+signal+" $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done")
		if signal == "KILL" {
			require.Contains(t, m.do("state"), "{firewalld it does not run, but its rules are in force}")
			answer := m.try("allow tcp " + stranger4 + "/32")
			require.Contains(t, answer, "firewalld does not run")
			require.Contains(t, answer, "start firewalld")
			require.NotContains(t, l.reach("tcp"), "stranger4")
		}
		l.Run("sh", "-ec", startFirewalld)
		l.poll(func() bool { return l.reach("tcp") == friends && len(l.richRules("public")) == 2 }, "not open again after SIG"+signal)
	}
	l.Run("firewall-cmd", "--reload") // what was in force when firewalld was killed still is
	l.poll(func() bool { return len(l.richRules("public")) == 2 }, "not open again after the reload")
	m.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("firewalld"))

	// What ended with firewalld needs no closing.
	m, _ = l.manager()
	m.do(allowFriend)
	l.Run("sh", "-ec", "p=$(pgrep -x firewalld); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done")
	m.do("close")

	// It may also come when ports are open already.
	m, _ = l.manager()
	m.do(allowFriend)
	require.Equal(t, friends+" stranger4 stranger6", l.reach("tcp"))
	l.Run("sh", "-ec", startFirewalld)
	l.poll(func() bool { return l.reach("tcp") == friends }, "the firewall that came late stays closed")
	m.do("close")
}

// firewalldManagers: managers with the same rule do not disturb each other, and
// a sweep removes what dead ones have, before it ends.
func firewalldManagers(t *testing.T, l *lab) {
	before := l.dump("firewalld")
	slots := map[int]bool{}
	start := func() (*process, string) {
		for {
			m, pid := l.manager()
			m.do(allowFriend)
			owner := regexp.MustCompile(`test-` + pid + `-[^ \]}]+`).FindString(m.do("state"))
			if slot := firewall.SlotOf(owner); !slots[slot] { // else a dead one's rules would only time out
				slots[slot] = true
				return m, pid
			}
			m.do("close")
		}
	}
	a, _ := start()
	_, pidB := start()
	c, _ := start()
	require.Len(t, slots, 3)
	require.Len(t, l.richRules("public"), 6)
	a.do("close")
	require.Equal(t, friends, l.reach("tcp"), "the one's close closed the others'")
	require.Len(t, l.richRules("public"), 4)
	l.kill(pidB)
	require.Len(t, l.richRules("public"), 4)
	require.Regexp(t, `^2 .*rich rule in zone public: rule priority="-`, c.do("sweep"))
	require.Len(t, l.richRules("public"), 2)
	require.Equal(t, friends, l.reach("tcp"), "the sweep closed the living one's")
	require.Equal(t, "0 []", c.do("sweep"))
	c.do("close")
	require.Equal(t, before, l.dump("firewalld"))
}

// firewalldAlien: a rule that somebody else wrote, or made permanent, is left
// alone, and so is one of which that cannot be told.
func firewalldAlien(t *testing.T, l *lab) {
	m, pid := l.manager("ttl=10m") // longer than the test takes
	m.do("allow tcp " + friend4 + "/32")
	l.Run("firewall-cmd", "--runtime-to-permanent")
	l.kill(pid)
	var others []string
	for _, priority := range []string{"", `priority="-32768" `, `priority="-31769" `} { // the second is "before all others"
		others = append(others, `rule `+priority+`family="ipv4" source address="198.51.100.0/24" port port="8080" protocol="tcp" accept`)
	}
	for _, other := range others {
		l.Run("firewall-cmd", "--add-rich-rule="+other)
	}
	before := l.dump("firewalld")
	require.Equal(t, "0 []", l.start("manager").do("sweep"))
	require.Equal(t, before, l.dump("firewalld"))
	for _, other := range others {
		l.Run("firewall-cmd", "--remove-rich-rule="+other)
	}

	// The bus refuses the question whether the rule is permanent.
	const refusal = "/etc/dbus-1/system.d/refusal.conf"
	const reload = "dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ReloadConfig"
	l.Run("sh", "-ec", `mkdir -p "${1%/*}"
echo '<busconfig><policy context="mandatory"><deny send_interface="org.fedoraproject.FirewallD1.config"/></policy></busconfig>' >"$1"
`+reload, "sh", refusal)
	require.Equal(t, "0 []", l.start("manager").do("sweep"))
	l.Run("sh", "-ec", `rm "$1"; `+reload, "sh", refusal)
	require.Equal(t, "0 []", l.start("manager").do("sweep"))
	l.Run("sh", "-ec", `firewall-cmd --permanent --remove-rich-rule="$1"; firewall-cmd --reload`, "sh", l.richRules("public")[0])
}

// TestFirewalldZones: the rules are in the zones where the peers arrive, and go
// along with them.
func TestFirewalldZones(t *testing.T) {
	t.Parallel()
	l := newFirewalld(t, `
firewall-offline-cmd --zone=internal --add-interface=eth0 >/dev/null
for f in ipv4 ipv6; do
	for z in work internal home; do
		firewall-offline-cmd --zone=$z --add-rich-rule="rule priority=32767 family=$f protocol value=tcp reject type=tcp-reset" >/dev/null
	done
done
firewall-offline-cmd --zone=work --add-source=192.0.2.0/29 >/dev/null
`)
	l.Run("sh", "-ec", "for z in home internal; do firewall-cmd --zone=$z --change-interface=eth0; done") // for its chains
	before := l.dump("firewalld")
	m, _ := l.manager()
	m.do(allowFriend)
	require.Equal(t, friends, l.reach("tcp"))
	require.Len(t, l.richRules("work"), 1, "the peer's source is of this zone")
	require.Len(t, l.richRules("internal"), 1, "only for the peer that is in no zone's source")
	require.Empty(t, l.richRules("public"), "no interface is in the default zone")
	m.do("allow tcp 192.0.0.0/16")
	require.Len(t, l.richRules("work"), 1, "a prefix and what lies within it")
	require.Len(t, l.richRules("internal"), 2, "the prefix is wider than the source")

	l.Run("firewall-cmd", "--zone=home", "--change-interface=eth0")
	l.poll(func() bool { return l.reach("tcp") == friends && len(l.richRules("internal")) == 0 }, "the rules do not follow")
	require.Len(t, l.richRules("home"), 2)
	l.Run("firewall-cmd", "--zone=internal", "--change-interface=eth0")
	l.poll(func() bool { return len(l.richRules("internal")) == 2 }, "the rules do not follow back")
	m.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("firewalld"))
}

// firewalldPanic: what firewalld refuses is named, changes nothing, and works
// later.
func firewalldPanic(t *testing.T, l *lab) {
	l.Run("sh", "-ec", `nft -f - <<'END'
table inet other { chain in { type filter hook input priority 20; policy drop; iif "lo" accept; ct state established accept; meta l4proto ipv6-icmp accept; meta l4proto tcp reject with tcp reset; }; }
END`)
	before := l.dump("firewalld")
	m, _ := l.manager("ttl=10m")
	require.Contains(t, m.do("state"), "{[firewalld nft] [] []}", "two front ends at once")
	l.Run("firewall-cmd", "--panic-on")
	panicked := l.dump("nft")
	require.Contains(t, m.do("state"), "{firewalld it is in panic mode, in which nothing passes}")
	answer := m.try(allowFriend)
	require.Contains(t, answer, "in firewalld: addRichRule: PANIC_MODE: in panic mode nothing passes, and nothing can be changed (firewall-cmd --panic-off)")
	require.Equal(t, panicked, l.dump("nft"), "it failed, and changed something")
	l.Run("firewall-cmd", "--panic-off")
	m.do(allowFriend)
	require.Equal(t, friends, l.reach("tcp"), "through both front ends")
	old := l.richRules("public")
	l.Run("firewall-cmd", "--panic-on")
	require.Contains(t, m.try("release"), "PANIC_MODE")
	l.Run("firewall-cmd", "--panic-off")
	l.poll(func() bool { // what could not be closed is open
		now := l.richRules("public")
		return len(now) == 2 && !slices.Contains(old, now[0]) && !slices.Contains(old, now[1])
	}, "the rules are not settled after the panic mode")
	require.Equal(t, friends, l.reach("tcp"))
	l.Run("firewall-cmd", "--panic-on")
	require.Contains(t, m.try("close"), "PANIC_MODE")
	l.Run("firewall-cmd", "--panic-off")
	m.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("firewalld"))
	l.Run("nft", "delete", "table", "inet", "other")
}

// TestFirewalldPolicy: what comes before the zones and can drop is named.
func TestFirewalldPolicy(t *testing.T) {
	t.Parallel()
	l := newFirewalld(t, `
for p in bad fine; do
	firewall-offline-cmd --new-policy=$p >/dev/null
	firewall-offline-cmd --policy=$p --add-ingress-zone=ANY >/dev/null
	firewall-offline-cmd --policy=$p --add-egress-zone=HOST >/dev/null
done
firewall-offline-cmd --policy=bad --set-priority=-5 >/dev/null
firewall-offline-cmd --policy=bad --add-rich-rule='rule family=ipv4 source address=203.0.113.9 drop' >/dev/null
firewall-offline-cmd --policy=fine --set-priority=-6 >/dev/null
`)
	m, _ := l.manager()
	require.Contains(t, m.do("state"), "{[firewalld] [{policy bad of firewalld its priority puts it before the zones}] []}")
}

// firewalldWithoutRights: who may change nftables but not firewalld is told what
// to do.
func firewalldWithoutRights(t *testing.T, l *lab) {
	before := l.dump("firewalld")
	l.Run("sh", "-ec", "mkdir /run/anyone; chmod 1777 /run/anyone")
	answer := l.start("manager", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		"--inh-caps=+net_admin,+dac_read_search", "--ambient-caps=+net_admin,+dac_read_search").try("open lock=/run/anyone/lock")
	require.Contains(t, answer, "in firewalld: administrator rights are needed")
	require.Contains(t, answer, "by hand: firewall-cmd --add-rich-rule='rule priority=\"-1\" family=\"ipv4\" source address=\""+friend4+`/32" port port="8080" protocol="tcp" accept'`)
	require.Equal(t, before, l.dump("firewalld"))
}

// TestFirewalldOnIptables: firewalld that was told to use iptables.
func TestFirewalldOnIptables(t *testing.T) {
	t.Parallel()
	needs(t, "iptables-nft", "ip6tables-nft", "ipset")
	l := newFirewalld(t, "sed -i s/^FirewallBackend=.*/FirewallBackend=iptables/ /etc/firewalld/firewalld.conf\n")
	dump := func() string {
		return counters.ReplaceAllString(l.Run("sh", "-ec", "iptables-save; ip6tables-save; firewall-cmd --list-all-zones"), "")
	}
	before := dump()
	require.Contains(t, before, "INPUT_ZONES")
	require.Empty(t, l.reach("tcp"))
	m, _ := l.manager()
	require.Contains(t, m.do("state"), "{[firewalld] [")
	m.do(allowFriend)
	require.Equal(t, friends, l.reach("tcp"))
	require.NotContains(t, dump(), "roundsman-gate")
	l.Run("firewall-cmd", "--reload")
	l.poll(func() bool { return l.reach("tcp") == friends }, "not open again after a reload")
	m.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, dump())
}

// firewalldForeign: the bus answers, but firewalld rules over other networks
// than this one.
func firewalldForeign(t *testing.T, l *lab) {
	before := l.dump("firewalld")
	m := l.start("manager", "unshare", "-n")
	m.do("open")
	require.Equal(t, "{[] [] []}", m.do("state"))
	m.do(allowFriend)
	require.Equal(t, before, l.dump("firewalld"))
	m.do("close")
}
