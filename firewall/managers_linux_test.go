package firewall_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	allowFriend = "allow tcp " + friend4 + "/32 " + friend6 + "/128"
	friends     = "friend4 friend6"
)

// TestManagers: several managers of one host do not disturb each other, however
// one of them ends.
func TestManagers(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	l := newLab(t, "V=-nft\n"+iptablesRules+nftRules[:strings.Index(nftRules, "flush ruleset\n")]+"table ip native { chain in { type filter hook input priority 5; policy drop; ct state established accept; }; }\nEND\nnft -f /etc/fw.nft")
	before := l.dump("iptables")
	a, pidA := l.manager()
	b, _ := l.manager()
	require.Contains(t, a.do("state"), "[iptables-nft nft] [] []", "two front ends at once")
	a.do(allowFriend)
	b.do("allow tcp " + stranger4 + "/32")
	require.Equal(t, friends+" stranger4", l.reach("tcp"))
	require.Equal(t, "0 []", b.do("sweep"), "swept what living ones have")

	l.kill(pidA)
	require.Equal(t, "stranger4", l.reach("tcp"), "only what the dead one had is closed")
	require.Equal(t, "0 []", b.do("sweep"))
	c, _ := l.manager()
	require.Equal(t, "stranger4", l.reach("tcp"))
	c.do(allowFriend)
	b.do("close")
	require.Equal(t, friends, l.reach("tcp"))
	require.Equal(t, "closed", closed(b.try(allowFriend)))
	c.do("close")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("iptables"))
}

func closed(answer string) string {
	if strings.Contains(answer, "firewall is closed") {
		return "closed"
	}
	return answer
}

// TestKilledAnywhere: managers are killed at any point of what they do, and one
// that lives keeps its port open all the time.
func TestKilledAnywhere(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	l := newLab(t, "V=-nft\n"+iptablesRules)
	before := l.dump("iptables")
	living, pid := l.manager()
	living.do("allow tcp " + stranger4 + "/32")
	for i := range 12 {
		l.killedInMid(i, time.Duration(i)*700*time.Microsecond)
		require.Equal(t, "stranger4", l.reach("tcp"))
	}
	l.kill(pid)
	require.Empty(t, l.reach("tcp"))
	l.start("manager").do("sweep")
	require.Equal(t, before, l.dump("iptables"))

	// Without a living one, each has to make the gates, and to sweep.
	for i := range 12 {
		victim, pid := l.manager()
		_, err := fmt.Fprintln(victim.in, allowFriend)
		require.NoError(t, err)
		time.Sleep(time.Duration(i) * 700 * time.Microsecond)
		l.kill(pid)
		l.start("manager").do("sweep")
		require.Empty(t, l.reach("tcp"))
		require.Equal(t, before, l.dump("iptables"))
	}
}

// TestKilledInIptables: a program that a killed manager had started still makes its
// change; the sweep comes after it.
func TestKilledInIptables(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	l := newLab(t, "V=-nft\n"+iptablesRules+`
cat >/usr/local/sbin/iptables-nft <<'END'
#!/bin/sh
case "$*" in *" -I "*) touch /tmp/begun; until [ -e /tmp/go ]; do sleep 0.05; done; /usr/sbin/iptables-nft "$@"; touch /tmp/done; exit; esac
exec /usr/sbin/iptables-nft "$@"
END
chmod +x /usr/local/sbin/iptables-nft`)
	before := l.dump("iptables")
	m := l.start("manager", "env", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
	pid := m.do("open")
	_, err := fmt.Fprintln(m.in, allowFriend)
	require.NoError(t, err)
	exists := func(file string) func() bool {
		return func() bool { return l.Command(t.Context(), "test", "-e", file).Run() == nil }
	}
	l.poll(exists("/tmp/begun"), "iptables is not called")
	l.kill(pid)
	sweeper := l.start("manager")
	_, err = fmt.Fprintln(sweeper.in, "sweep")
	require.NoError(t, err)
	time.Sleep(300 * time.Millisecond) // for a sweep that does not wait
	l.Run("touch", "/tmp/go")
	require.Regexp(t, "^ok 1 .*gate in chain INPUT of iptables-nft", sweeper.line())
	l.poll(exists("/tmp/done"), "iptables does not end")
	require.Equal(t, before, l.dump("iptables"))
}

// TestRollback: where one front end cannot be opened, none is.
func TestRollback(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	l := newLab(t, "V=-nft\n"+iptablesRules+`
cat >/usr/local/sbin/ip6tables-nft <<'END'
#!/bin/sh
case "$*" in *" -I "*) [ -e /etc/works ] || { echo no >&2; exit 4; }; esac
exec /usr/sbin/ip6tables-nft "$@"
END
chmod +x /usr/local/sbin/ip6tables-nft`)
	before := l.dump("iptables")
	m := l.start("manager", "env", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
	m.do("open")
	answer := m.try(allowFriend)
	require.Contains(t, answer, "allow 8080/tcp from")
	require.Contains(t, answer, "exit status 4")
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("iptables"))
	l.Run("touch", "/etc/works")
	m.do(allowFriend)
	require.Equal(t, friends, l.reach("tcp"))
	m.do("close")
	require.Equal(t, before, l.dump("iptables"))
}

// TestManyAndOverlapping: a thousand leases are one transaction, and prefixes may
// lie within each other.
func TestManyAndOverlapping(t *testing.T) {
	l := newLab(t, nftRules)
	before := l.dump("nft")
	m, _ := l.manager()
	t.Log("1,000 rules with two prefixes each:", m.do("many"))
	require.Equal(t, 2000, strings.Count(l.Run("nft", "list", "ruleset"), " . tcp . "))
	m.do("allow tcp 192.0.2.0/24 2001:db8:1::/48")
	require.Equal(t, friends, l.reach("tcp"))
	m.do(allowFriend)
	m.do("allow tcp 192.0.0.0/16 2001:db8::/32")
	require.Equal(t, friends+" stranger6", l.reach("tcp"))
	m.do("allow tcp anyone")
	require.Equal(t, friends+" stranger4 stranger6", l.reach("tcp"))
	m.do("release")
	require.Empty(t, l.reach("tcp"))
	require.Zero(t, strings.Count(l.Run("nft", "list", "ruleset"), " . tcp . "))
	m.do("allow udp " + friend4 + "/32")
	require.Equal(t, "friend4", l.reach("udp"))
	require.Empty(t, l.reach("tcp"))
	m.do("close")
	require.Equal(t, before, l.dump("nft"))
}

// TestFailedChange: after a change that the kernel refused, what was open is open.
func TestFailedChange(t *testing.T) {
	l := newLab(t, nftRules)
	before := l.dump("nft")
	m := l.start("driver")
	require.Contains(t, m.try(""), "refused: true", "the first change")
	require.Equal(t, before, l.dump("nft"))
	require.Contains(t, m.try(""), "refused: true", "a later one")
	require.Equal(t, "friend4", l.reach("tcp"))
	rules := l.Run("nft", "list", "ruleset")
	require.Equal(t, 1, strings.Count(rules, "table inet roundsman."))
	require.Contains(t, rules, "table inet roundsman.2-", "the table is not a new one")
	require.Contains(t, m.try(""), "closed")
	require.Equal(t, before, l.dump("nft"))
}

// TestMark: bits of a packet's mark that are not in the mask stay as they are, and
// both can be chosen.
func TestMark(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	for _, tt := range []struct{ option, seen string }{
		{"", "0x1052"}, {"mark=0x4000/0xf000", "0x42ff"}, {"mark=0x77/0xffffffff", "0x77"},
	} {
		t.Run(tt.seen, func(t *testing.T) {
			l := newLab(t, "V=-nft\n"+strings.ReplaceAll(iptablesRules, "$p$V -t mangle", ": ")+`nft -f - <<'END'
table ip theirs {
	chain pre { type filter hook prerouting priority 0; meta mark set 0x12ff; }
	chain seen { type nat hook input priority 100; meta mark `+tt.seen+` tcp dport 8080 counter; }
}
table inet other { chain in { type filter hook input priority 20; policy drop; iif "lo" accept; ct state established accept; meta l4proto ipv6-icmp accept; meta mark 0x12ff drop; meta l4proto tcp reject with tcp reset; }; }
END`)
			m, _ := l.manager(tt.option)
			m.do(allowFriend)
			require.Equal(t, friends, l.reach("tcp"))
			require.Contains(t, l.Run("nft", "list", "chain", "ip", "theirs", "seen"), "counter packets 1 ")
			rules := l.Run("sh", "-ec", "iptables-nft -S INPUT; ip6tables-nft -S INPUT; nft list table inet other")
			require.Equal(t, 3, strings.Count(rules, "roundsman-gate"), "%s", rules)
		})
	}
}

// TestForeignMark: a mark that others set opens nothing, in a filter that comes before
// the mangle chains or after them.
func TestForeignMark(t *testing.T) {
	for _, priority := range []string{"-300", "0"} {
		t.Run(priority, func(t *testing.T) {
			l := newLab(t, `nft -f - <<'END'
table inet theirs {
	chain pre { type filter hook prerouting priority 0; }
	chain mangle { type filter hook input priority mangle; }
	chain in { type filter hook input priority `+priority+`; policy drop; iif "lo" accept; ct state established accept; meta l4proto ipv6-icmp accept; meta l4proto tcp reject with tcp reset; }
}
END`)
			set := func(chain, mark string) {
				l.Run("nft", "flush chain inet theirs pre; flush chain inet theirs mangle; add rule inet theirs "+chain+" tcp dport 8080 meta mark set "+mark)
			}
			cilium := []string{"0x252", "0x12340f52"} // the cluster ID 82, alone and with an identity
			require.Empty(t, l.reach("tcp"))
			m, pid := l.manager()
			other, otherPid := l.manager()
			m.do(allowFriend)
			other.do("allow tcp " + stranger4 + "/32")
			for _, chain := range []string{"pre", "mangle"} {
				for _, mark := range append(cilium, "0x52", "0x1052") {
					set(chain, mark)
					require.Equal(t, friends+" stranger4", l.reach("tcp"), "%s in %s", mark, chain)
				}
			}
			l.kill(otherPid)
			l.kill(pid)
			require.Contains(t, l.dump("nft"), "roundsman-gate", "no gate to test")
			for _, mark := range cilium { // the gates that are left
				set("pre", mark)
				require.Empty(t, l.reach("tcp"), mark)
			}
		})
	}
}

// TestWithoutRights: who may not change the firewall is told what to add by hand.
func TestWithoutRights(t *testing.T) {
	needs(t, "setpriv", "ufw")
	l := newLab(t, nftRules)
	answer := l.start("manager", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups").try("open")
	require.Contains(t, answer, "administrator rights are needed")
	require.Contains(t, answer, "by hand: nft insert rule inet filter input ip saddr "+friend4+"/32 tcp dport 8080 accept")
	l.Run("sed", "-i", "s/^ENABLED=.*/ENABLED=yes/", "/etc/ufw/ufw.conf")
	answer = l.start("manager", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups").try("open")
	require.Contains(t, answer, "by hand: ufw prepend allow proto tcp from "+friend4+"/32 to any port 8080")
}

// TestGuessed: who may not look is told that what he sees is a guess.
func TestGuessed(t *testing.T) {
	needs(t, "setpriv")
	l := newLab(t, "") // without any firewall
	m, _ := l.manager("none")
	require.Equal(t, "{[] [] []}", m.do("state"))
	m = l.start("manager", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
	m.do("open none")
	require.Equal(t, "{[nft] [] []} guessed", m.do("state"))
}

// TestBlocks: filters that cannot be overridden are named; harmless ones are not.
func TestBlocks(t *testing.T) {
	needs(t, "iptables-legacy")
	l := newLab(t, `nft -f - <<'END'
table ip a { chain pre { type filter hook prerouting priority -300; policy drop; accept; }; }
table inet b { chain bad { ip saddr 203.0.113.9 drop; }; chain pre { type filter hook prerouting priority 0; jump bad; }; }
table ip6 c { chain pre { type filter hook prerouting priority 0; counter; }; }
table netdev d { chain in { type filter hook ingress device "eth0" priority 0; ip saddr 203.0.113.9 drop; }; }
END
iptables-nft -t mangle -A INPUT -s 203.0.113.9 -j DROP
iptables-legacy -t raw -A PREROUTING -s 203.0.113.9 -j DROP
`)
	m, _ := l.manager()
	state := m.do("state")
	for _, want := range []string{
		"{chain ip a pre hook prerouting comes before the input chains}",
		"{chain inet b pre hook prerouting comes before the input chains}",
		"{chain netdev d in hook ingress comes before the input chains}",
		"{chain ip mangle INPUT only the table filter of iptables is opened}",
		"{chain PREROUTING of table raw of legacy iptables only the table filter of iptables is opened}",
	} {
		require.Contains(t, state, want)
	}
	require.Equal(t, 5, strings.Count(state, "{")-1, state)
}

// TestLateFirewall: a firewall that comes when ports are open already is opened
// as well.
func TestLateFirewall(t *testing.T) {
	l := newLab(t, "")
	m, _ := l.manager()
	require.Equal(t, "{[] [] []}", m.do("state"))
	m.do(allowFriend)
	require.NotContains(t, l.dump("nft"), "roundsman-gate")
	l.Run("sh", "-ec", nftRules)
	l.poll(func() bool { return l.reach("tcp") == friends }, "the firewall that came late stays closed")
	require.Contains(t, l.dump("nft"), "roundsman-gate")
	m.do("close")
	require.NotContains(t, l.dump("nft"), "roundsman")
}

// TestLoadedTable: a table of legacy iptables that is only loaded, as by a program that
// looked, filters nothing and gets no gate, until it has a rule.
func TestLoadedTable(t *testing.T) {
	needs(t, "iptables-legacy", "ip6tables-legacy")
	l := newLab(t, "iptables-legacy -S; ip6tables-legacy -S")
	require.Contains(t, l.Run("cat", "/proc/net/ip_tables_names"), "filter", "it is loaded")
	m, _ := l.manager("check=200ms")
	require.Equal(t, "{[] [] []}", m.do("state"))
	m.do(allowFriend)
	require.NotContains(t, l.dump("iptables-legacy"), "roundsman-gate")
	l.Run("iptables-legacy", "-P", "INPUT", "DROP")
	l.poll(func() bool { return strings.Contains(l.dump("iptables-legacy"), "roundsman-gate") }, "no gate in a table that drops by now")
	require.Contains(t, m.do("state"), "{[iptables-legacy] [] [test-")
	m.do("close")
	require.NotContains(t, l.dump("iptables-legacy"), "roundsman-gate")
}

// TestIncompatible: a table that is only named like one of iptables, with a rule
// that iptables cannot read.
func TestIncompatible(t *testing.T) {
	needs(t, "iptables-nft")
	l := newLab(t, `nft -f - <<'END'
table ip filter {
	set s { type ipv4_addr; elements = { 203.0.113.9 }; }
	chain INPUT {
		type filter hook input priority 0; policy drop;
		ct state established accept
		ip saddr @s accept
		meta l4proto tcp reject with tcp reset
	}
}
END`)
	require.Error(t, l.Command(t.Context(), "iptables-nft", "-S", "INPUT").Run())
	before := l.dump("nft")
	m, _ := l.manager()
	m.do(allowFriend)
	require.Equal(t, friends+" stranger6", l.reach("tcp"))
	m.do("close")
	require.Equal(t, "friend6 stranger6", l.reach("tcp"), "IPv6 was never filtered")
	require.Equal(t, before, l.dump("nft"))
}

// TestRestoredTable: a table of ours that somebody saved and loaded again is no
// living owner's.
func TestRestoredTable(t *testing.T) {
	l := newLab(t, nftRules)
	before := l.dump("nft")
	m, pid := l.manager()
	m.do(allowFriend)
	saved := l.Run("sh", "-c", "nft list ruleset | grep -v 'flags owner' >/tmp/saved; cat /tmp/saved")
	require.Contains(t, saved, "table inet roundsman.")
	l.kill(pid)
	l.Run("sh", "-ec", "nft flush ruleset; nft -f /tmp/saved")
	require.Equal(t, friends, l.reach("tcp"), "what was saved is not what was open")
	require.Regexp(t, "^4 .*table inet roundsman.*gate in chain", l.start("manager").do("sweep"))
	require.Empty(t, l.reach("tcp"))
	require.Equal(t, before, l.dump("nft"))
}
