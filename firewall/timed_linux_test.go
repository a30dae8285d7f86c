package firewall_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTimed: on a kernel without tables that end with the process, openings end by
// themselves.
func TestTimed(t *testing.T) {
	needs(t, "iptables-nft", "ip6tables-nft")
	for _, tt := range []struct{ name, setup, reload, dump string }{
		{"nft", nftRules, "nft -f /etc/fw.nft", "nft"}, // which flushes all there is
		{"iptables", "V=-nft\n" + iptablesRules, "V=-nft\n" + restore, "iptables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.setup)
			l.Run("sh", "-ec", tt.reload)
			before := l.dump(tt.dump)
			require.Empty(t, l.reach("tcp"))
			m, pid := l.manager("old", "ttl=3s")
			other, _ := l.manager("old", "ttl=3s")
			m.do(allowFriend)
			require.Equal(t, friends, l.reach("tcp"))
			require.NotContains(t, l.Run("nft", "list", "tables"), "owner")
			require.Contains(t, m.do("state"), "[test-"+pid+"-")
			other.do("allow tcp " + stranger4 + "/32")
			require.Equal(t, friends+" stranger4", l.reach("tcp"))

			// Renewals keep it open, whatever is flushed.
			for range 2 {
				l.waitRenewal(pid)
				require.Equal(t, friends+" stranger4", l.reach("tcp"))
				l.Run("sh", "-ec", tt.reload)
				l.poll(func() bool { return l.reach("tcp") == friends+" stranger4" }, "not open again after a reload")
			}
			require.Equal(t, "0 []", other.do("sweep"), "swept what living ones have")
			m.do("release")
			require.Equal(t, "stranger4", l.reach("tcp"))
			m.do(allowFriend)

			l.kill(pid)
			l.poll(func() bool { return l.reach("tcp") == "stranger4" }, "open after SIGKILL and the time that openings last")
			l.poll(func() bool {
				return regexp.MustCompile(`table inet roundsman\.[0-9]+-test-` + pid + "-").MatchString(other.do("sweep"))
			}, "the dead one's table is not swept")
			require.Equal(t, "0 []", other.do("sweep"))
			require.Equal(t, "stranger4", l.reach("tcp"), "the living one's is closed")
			other.do("close")
			require.Empty(t, l.reach("tcp"))
			require.Equal(t, before, l.dump(tt.dump))
		})
	}
}

// waitRenewal waits until what a manager has open lasts longer than it did.
func (l *lab) waitRenewal(pid string) {
	l.t.Helper()
	alive := func() string {
		name := regexp.MustCompile(`roundsman\.[0-9]+-test-` + pid + `-\S+`).FindString(l.Run("nft", "list", "tables"))
		if name == "" {
			return ""
		}
		out, err := l.Command(l.t.Context(), "nft", "list", "set", "inet", name, "alive").Output()
		if err != nil {
			return ""
		}
		return name + " " + regexp.MustCompile(`expires [0-9a-z]+`).FindString(string(out))
	}
	last := alive()
	l.poll(func() bool {
		now := alive()
		renewed := now > last // of times of one digit of seconds
		last = now
		return renewed && strings.Contains(now, "expires 2s")
	}, "nothing is renewed")
}

// TestTimedManyAtOnce: a thousand leases are renewed in one transaction.
func TestTimedManyAtOnce(t *testing.T) {
	l := newLab(t, nftRules)
	before := l.dump("nft")
	m, _ := l.manager("old", "ttl=6s")
	t.Log("1,000 rules with two prefixes each:", m.do("many"))
	l.Run("sh", "-ec", "nft monitor >/tmp/monitor 2>&1 </dev/null &")
	var transaction string
	l.poll(func() bool {
		all := strings.Split(l.Run("cat", "/tmp/monitor"), "# new generation")
		for _, transaction = range all[:len(all)-1] { // the last one has not ended
			if strings.Contains(transaction, "delete element inet roundsman.") && strings.Contains(transaction, " alive ") {
				return true
			}
		}
		return false
	}, "nothing is renewed")
	elements := regexp.MustCompile(`(?m)^(add|delete) element inet \S+ peers(4_32|6_128) `).FindAllStringSubmatch(transaction, -1)
	count := map[string]int{}
	for _, e := range elements {
		count[e[1]+e[2]]++
	}
	require.Equal(t, map[string]int{"add4_32": 1000, "delete4_32": 1000, "add6_128": 1000, "delete6_128": 1000}, count)
	m.do("close")
	require.Equal(t, before, l.dump("nft"))
}

// TestTimedPause: a manager that did not run for longer than its openings last
// opens them again.
func TestTimedPause(t *testing.T) {
	l := newLab(t, nftRules)
	before := l.dump("nft")
	m, pid := l.manager("old", "ttl=3s")
	m.do(allowFriend)
	l.Run("kill", "-STOP", pid)
	l.poll(func() bool { return l.reach("tcp") == "" }, "open though nobody renews it")
	require.Contains(t, l.start("manager").do("sweep"), "table inet roundsman.1-test-"+pid)
	require.Equal(t, before, l.dump("nft"))
	l.Run("kill", "-CONT", pid)
	l.poll(func() bool { return l.reach("tcp") == friends }, "not open again")
	m.do("release")
	m.do("close")
	require.Equal(t, before, l.dump("nft"))
}
