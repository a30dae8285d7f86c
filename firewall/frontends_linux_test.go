package firewall_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// nftRules have three input chains that can drop, one of them before the mangle
// chains. What is not let in is rejected, so that a closed port shows at once; a
// connecting socket takes only a reset for an answer to its first packet.
const nftRules = `cat >/etc/fw.nft <<'END'
flush ruleset
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		ct state established,related accept
		meta l4proto ipv6-icmp accept
		meta l4proto tcp reject with tcp reset
		reject
	}
}
table ip early {
	chain in {
		type filter hook input priority -160; policy accept;
		ct state established accept
		tcp dport 8080 reject with tcp reset
	}
}
table ip6 late {
	chain in {
		type filter hook input priority 10; policy drop;
		ct state established accept
		meta l4proto ipv6-icmp accept
		meta l4proto tcp reject with tcp reset
		reject
	}
}
END
nft -f /etc/fw.nft
`

// iptablesRules also take away marks that were set before the mangle chains.
const iptablesRules = `
for p in iptables ip6tables; do
	$p$V -t mangle -A INPUT -j MARK --set-mark 0
	$p$V -P INPUT DROP
	$p$V -A INPUT -i lo -j ACCEPT
	$p$V -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
	[ $p = iptables ] || $p$V -A INPUT -p ipv6-icmp -j ACCEPT
	$p$V -A INPUT -p tcp -j REJECT --reject-with tcp-reset
	$p$V -A INPUT -j REJECT
	$p$V-save >/etc/fw.$p
done
`

// What ufw would set in the kernel is not what is tested.
const ufwRules = `
sed -i 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/; s/^IPT_MODULES=.*/IPT_MODULES=/; s/^IPV6=.*/IPV6=yes/; s/^DEFAULT_INPUT_POLICY=.*/DEFAULT_INPUT_POLICY="REJECT"/' /etc/default/ufw
ufw --force enable >/dev/null
ufw reject 8080 >/dev/null
`

// firewalldRules starts firewalld on a bus of the host. What is closed is answered
// with a reset: see nftRules.
const firewalldRules = `
for f in ipv4 ipv6; do
	firewall-offline-cmd --zone=public --add-rich-rule="rule priority=32767 family=$f protocol value=tcp reject type=tcp-reset" >/dev/null
done
mkdir -p /run/dbus
dbus-daemon --system --fork --nopidfile
` + startFirewalld

const startFirewalld = `
setsid firewalld --nofork --nopid >>/run/firewalld.log 2>&1 </dev/null &
for i in $(seq 300); do ! firewall-cmd --state >/dev/null 2>&1 || exit 0; sleep 0.1; done
cat /run/firewalld.log
exit 1
`

const restore = "iptables$V-restore </etc/fw.iptables; ip6tables$V-restore </etc/fw.ip6tables"

// TestRealFrontEnds: in every front end a port opens for whom the rule names and for
// nobody else, survives reloads, closes when it should, and leaves nothing.
func TestRealFrontEnds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		programs []string
		setup    string
		reload   string
		found    string
		saved    string // what saves and restores the rules in force, if anything does
		options  string
	}{
		{"nft", []string{"nft"}, nftRules, "nft -f /etc/fw.nft", "[nft]", "", ""},
		{"iptables", []string{"iptables-nft", "ip6tables-nft"}, "V=-nft\n" + iptablesRules, "V=-nft\n" + restore, "[iptables-nft]", "-nft", ""},
		{"iptables-legacy", []string{"iptables-legacy", "ip6tables-legacy"}, "V=-legacy\n" + iptablesRules, "V=-legacy\n" + restore, "[iptables-legacy]", "-legacy", "check=200ms"}, // it tells nobody of changes
		{"ufw", []string{"ufw", "iptables-nft"}, ufwRules, "ufw reload", "[ufw]", "-nft", ""},
		{"firewalld", []string{"firewalld", "firewall-cmd", "dbus-daemon"}, firewalldRules, "firewall-cmd --reload >/dev/null", "[firewalld]", "", "ttl=6s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needs(t, tt.programs...)
			l := newLab(t, tt.setup)
			restore := func() {
				if tt.saved != "" {
					l.Run("sh", "-ec", strings.ReplaceAll("for p in iptables ip6tables; do $pV-save >/tmp/saved; $pV-restore </tmp/saved; done", "V", tt.saved))
				}
			}
			l.Run("sh", "-ec", tt.reload) // which brings chains into the order that they stay in
			restore()
			before := l.dump(tt.name)

			require.Empty(t, l.reach("tcp"), "open before anything happened")
			m, pid := l.manager(tt.options)
			require.Contains(t, m.do("state"), "{"+tt.found+" [] []}")
			require.Equal(t, before, l.dump(tt.name), "changed without a lease")
			m.do(allowFriend)
			require.Equal(t, friends, l.reach("tcp"))
			require.Empty(t, l.reach("udp"), "another protocol is open")
			require.Contains(t, m.do("state"), "[test-"+pid+"-")

			m.do("release")
			require.Empty(t, l.reach("tcp"), "open after the lease")
			m.do(allowFriend)
			for range 2 { // the first may be repaired because of the lease's own changes
				l.Run("sh", "-ec", tt.reload)
				l.poll(func() bool { return l.reach("tcp") == friends }, "not open again after a reload")
			}
			restore()
			require.Equal(t, friends, l.reach("tcp"), "after the rules in force were saved and restored")
			require.Empty(t, l.reach("udp"), "saved and restored rules are wider")
			m.do("allow tcp " + stranger4 + "/32 " + stranger6 + "/128")
			require.Equal(t, friends+" stranger4 stranger6", l.reach("tcp"), "the stranger is not even connected")

			l.kill(pid)
			sweeper := l.start("manager")
			if tt.name == "firewalld" { // rules of it end by themselves
				l.poll(func() bool { return l.reach("tcp") == "" }, "open after SIGKILL and the time that rules last")
			} else {
				require.Empty(t, l.reach("tcp"), "open after SIGKILL")
				dead := l.dump(tt.name)
				require.Contains(t, dead, "roundsman-gate", "nothing to sweep")
				require.NotContains(t, dead, "table inet roundsman.")
				require.Regexp(t, `^[1-9].*gate in chain .* test-`+pid+"-", sweeper.do("sweep"))
			}
			require.Equal(t, before, l.dump(tt.name), "after SIGKILL and Sweep")
			require.Equal(t, "0 []", sweeper.do("sweep"))

			m, _ = l.manager()
			m.do(allowFriend)
			require.Equal(t, friends, l.reach("tcp"))
			m.do("close")
			require.Empty(t, l.reach("tcp"), "open after Close")
			require.Equal(t, before, l.dump(tt.name), "after Close")
			require.Empty(t, l.Run("sh", "-c", "ls /run | grep roundsman || :"), "a lock file is left")
			if tt.name != "iptables-legacy" { // its programs would load its tables only to look
				require.Empty(t, l.Run("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"))
			}
		})
	}
}
