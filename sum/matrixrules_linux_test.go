package sum_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
)

// dialIn dials from addresses in a network namespace to ports of as many others, all
// at once, and returns which pairs and ports answered. Unless source is 0 the dials
// have source ports from there on.
func dialIn(t *testing.T, ns string, from, to []netip.Addr, source uint16, ports ...uint16) (open []string) {
	t.Helper()
	var results []chan error
	for i := range from {
		for _, port := range ports {
			local := netip.AddrPortFrom(from[i], 0)
			if source != 0 {
				local = netip.AddrPortFrom(from[i], source+uint16(len(results)))
			}
			result := make(chan error, 1)
			results = append(results, result)
			go func() { result <- dialOneIn(ns, local, netip.AddrPortFrom(to[i], port)) }()
		}
	}
	for k, result := range results {
		err := <-result
		var timeout net.Error
		switch {
		case err == nil:
			open = append(open, fmt.Sprint(k/len(ports), " ", ports[k%len(ports)]))
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.As(err, &timeout) && timeout.Timeout():
		default:
			require.NoError(t, err, "the test itself")
		}
	}
	return open
}

func dialOneIn(ns string, from, to netip.AddrPort) error {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	there, err := os.Open("/run/netns/" + ns)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	// Where it is rejected by ICMP, TCP tries until the time is up.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	_ = c.(*net.TCPConn).SetLinger(0) // the source port is wanted again
	return c.Close()
}

// The manager in the network of a realtest.Host, and somebody else there.
var (
	friend   = []netip.Addr{netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("2001:db8:1::1")}
	stranger = []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:ffff::9")}
)

// closed make a host's firewall reject everything, so that it shows at once.
var closed = map[sum.RuleFormat]string{
	sum.RulesNFT: `nft -f - <<'END'
table inet filter {
	chain input { type filter hook input priority 0; policy drop;
		ct state established,related accept
		meta l4proto ipv6-icmp accept
		reject with tcp reset
	}
	chain forward { type filter hook forward priority 0; policy drop;
		ct state established,related accept
		meta l4proto ipv6-icmp accept
		reject with tcp reset
	}
}
END`,
	sum.RulesIptables: `for p in iptables ip6tables; do for c in INPUT FORWARD; do
	$p -P $c DROP
	$p -A $c -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
	[ $p = iptables ] || $p -A $c -p ipv6-icmp -j ACCEPT
	$p -A $c -p tcp -j REJECT --reject-with tcp-reset
done; done`,
	// What ufw would set in the kernel is not what is tested.
	// Rules of the site's own that reject come first.
	sum.RulesUFW: `sed -i 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/; s/^IPT_MODULES=.*/IPT_MODULES=/; s/^IPV6=.*/IPV6=yes/; s/^DEFAULT_INPUT_POLICY=.*/DEFAULT_INPUT_POLICY="REJECT"/' /etc/default/ufw
ufw reject proto tcp to any port 22,61000 >/dev/null
ufw route reject proto tcp to any port 62286 >/dev/null
ufw --force enable >/dev/null`,
	sum.RulesFirewalld: startFirewalld + `
for p in 22 61000; do firewall-cmd -q --add-rich-rule="rule port port=$p protocol=tcp reject"; done`,
}

// startFirewalld starts firewalld on a host that has no systemd, with a bus of its
// own, and takes away what it opens by default.
const startFirewalld = `mkdir -p /run/dbus
dbus-daemon --system --nofork --nopidfile >/dev/null 2>&1 &
firewalld --nofork --nopid >/tmp/firewalld.log 2>&1 &
for i in $(seq 100); do firewall-cmd --state >/dev/null 2>&1 && break; sleep 0.2; done
firewall-cmd --state
firewall-cmd -q --remove-service=ssh --remove-service=dhcpv6-client
firewall-cmd -q --permanent --remove-service=ssh --remove-service=dhcpv6-client`

var ruleTools = map[sum.RuleFormat][]string{
	sum.RulesNFT:       {"nft"},
	sum.RulesIptables:  {"iptables", "ip6tables"},
	sum.RulesUFW:       {"ufw"},
	sum.RulesFirewalld: {"firewalld", "firewall-cmd", "dbus-daemon"},
}

// apply gives rules to the tool that they are for.
func apply(t *testing.T, cmd func(name string, args ...string) *exec.Cmd, format sum.RuleFormat, rules string) {
	t.Helper()
	commands := [][]string{{"sh", "-e"}} // as they would be pasted
	if format == sum.RulesNFT {
		commands = [][]string{{"nft", "-c", "-f", "-"}, {"nft", "-f", "-"}}
	}
	for _, c := range commands {
		run := cmd(c[0], c[1:]...)
		run.Stdin = strings.NewReader(rules)
		out, err := run.CombinedOutput()
		require.NoError(t, err, "%s\n%s", out, rules)
	}
}

// TestRulesOpenAHost: on a host that rejects everything the rules open what the
// matrix says, for whom it says, and from the source ports that it says.
func TestRulesOpenAHost(t *testing.T) {
	for format, setup := range closed {
		t.Run(string(format), func(t *testing.T) {
			for _, p := range ruleTools[format] {
				realtest.Need(t, p)
			}
			n := realtest.NewNet(t)
			h := n.Host(realtest.HostConfig{SSHD: []string{"MaxStartups 100", "Port 62286", "Port 62293", "Port 62294", "Port 61000", "Port 61007", "Port 61008"}})
			for _, a := range stranger {
				out, err := n.Command(t.Context(), "ip", "addr", "add", netip.PrefixFrom(a, a.BitLen()).String(), "dev", "v1", "nodad").CombinedOutput()
				require.NoError(t, err, "%s", out)
				h.Run("ip", "route", "add", a.String(), "dev", "eth0")
			}
			h.Run("sh", "-ec", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit\necho 0 >/proc/sys/net/ipv6/icmp/ratelimit\nnft flush ruleset\n"+setup)
			on := func(name string, args ...string) *exec.Cmd { return h.Command(t.Context(), name, args...) }

			self := []netip.Addr{netip.MustParseAddr(h.Addr), netip.MustParseAddr(h.Addr6)}
			open := func(who []netip.Addr, source uint16, ports ...uint16) []string {
				return dialIn(t, n.NS, who, self, source, ports...)
			}
			all := []uint16{22, 62286, 62293, 62294, 61000, 61007, 61008}
			require.Empty(t, open(friend, 60001, all...), "open before there were rules")

			// As a target.
			m := sum.MatrixOptions{
				Generation: sum.Classic, Classic: sum.ClassicOptions{Stay: true}, Manager: friend,
				Lookup: func(host string) []netip.Addr {
					if host == "manager" { // of the other part, a target
						return friend
					}
					return self
				},
			}
			fleet := []sum.Target{{Kind: sum.Linux, Name: "x\nreboot", Address: "db1"}}
			apply(t, on, format, rulesOf(t, fleet, m, sum.RuleOptions{Format: format, Side: sum.SideTarget}))
			require.Equal(t, []string{"0 22", "0 62286", "0 62293", "1 22", "1 62286", "1 62293"}, open(friend, 60001, all...))
			want := []string{"0 22", "1 22"}
			if format == sum.RulesFirewalld { // as its comment says
				want = []string{"0 22", "0 62286", "1 22", "1 62286"}
			}
			require.Equal(t, want, open(friend, 50001, 22, 62286), "from another source port")
			require.Empty(t, open(stranger, 60001, all...), "for others")

			// As the manager of who was the manager.
			fleet[0].Address, m.Manager = "manager", self
			apply(t, on, format, rulesOf(t, fleet, m, sum.RuleOptions{Format: format, Side: sum.SideManager}))
			require.Equal(t, []string{"0 61000", "0 61007", "1 61000", "1 61007"}, open(friend, 0, 61000, 61007, 61008))
			require.Empty(t, open(stranger, 60001, all...), "for others")
			if format == sum.RulesUFW { // it checks what it takes for routes, too
				apply(t, on, format, rulesOf(t, fleet, m, sum.RuleOptions{Format: format, Side: sum.SideBetween, Optional: true}))
				require.Regexp(t, `(?s)62286:62293/tcp\s+ALLOW FWD\s+192\.0\.2\.6 60000:65535/tcp.*62286/tcp\s+REJECT FWD\s+Anywhere `, h.Run("ufw", "status"))
			}
		})
	}
}

// TestRulesOpenARouter: a firewall between two networks that forwards nothing lets
// through what the matrix says, in both directions.
func TestRulesOpenARouter(t *testing.T) {
	for _, format := range []sum.RuleFormat{sum.RulesNFT, sum.RulesIptables} {
		t.Run(string(format), func(t *testing.T) {
			for _, p := range ruleTools[format] {
				realtest.Need(t, p)
			}
			n := realtest.NewNet(t)
			config := realtest.HostConfig{SSHD: []string{"MaxStartups 100", "Port 62286", "Port 62294", "Port 61000", "Port 61008"}}
			a, b := n.Host(config), n.Host(config) // the manager and a target
			router := func(name string, args ...string) *exec.Cmd { return n.Command(t.Context(), name, args...) }
			out, err := router("sh", "-ec", "echo 1 >/proc/sys/net/ipv4/ip_forward\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\n"+closed[format]).CombinedOutput()
			require.NoError(t, err, "%s", out)
			for i, h := range []*realtest.Host{a, b} {
				h.Run("sh", "-ec", fmt.Sprintf("nft flush ruleset\nip route add default via 192.0.2.%d\nip -6 route add default via 2001:db8:%d::1", 4*i+5, i+1))
			}
			addrs := func(h *realtest.Host) []netip.Addr {
				return []netip.Addr{netip.MustParseAddr(h.Addr), netip.MustParseAddr(h.Addr6)}
			}
			// The namespaces of hosts are numbered as package realtest makes them.
			open := func(from, to *realtest.Host, source uint16) []string {
				ns := n.NS + "h1"
				if from == b {
					ns = n.NS + "h2"
				}
				return dialIn(t, ns, addrs(from), addrs(to), source, 22, 62286, 62294, 61000, 61008)
			}
			require.Empty(t, open(a, b, 60001))
			require.Empty(t, open(b, a, 0))
			m := sum.MatrixOptions{
				Generation: sum.Classic, Classic: sum.ClassicOptions{Stay: true}, Manager: addrs(a),
				Lookup: func(string) []netip.Addr { return addrs(b) },
			}
			fleet := []sum.Target{{Kind: sum.Linux, Name: "db1", Address: "db1"}}
			apply(t, router, format, rulesOf(t, fleet, m, sum.RuleOptions{Format: format, Side: sum.SideBetween}))
			require.Equal(t, []string{"0 22", "0 62286", "1 22", "1 62286"}, open(a, b, 60001))
			require.Equal(t, []string{"0 22", "1 22"}, open(a, b, 50001), "from another source port")
			require.Equal(t, []string{"0 61000", "1 61000"}, open(b, a, 0))
		})
	}
}

// TestRulesFirewalldPolicy: firewalld takes the policy for a firewall between
// networks, with every rule.
func TestRulesFirewalldPolicy(t *testing.T) {
	realtest.Need(t, "firewall-offline-cmd")
	h := realtest.NewNet(t).Host(realtest.HostConfig{}) // the configuration is a copy there
	m := sum.MatrixOptions{Generation: sum.Classic, Classic: sum.ClassicOptions{Stay: true}, Manager: manager}
	lines := active(rulesOf(t, parse(t, "linux://192.0.2.11", "linux://[2001:db8::12]", "ilo://192.0.2.13"), m,
		sum.RuleOptions{Format: sum.RulesFirewalld, Side: sum.SideBetween, Optional: true}))
	require.Equal(t, "firewall-cmd --reload", lines[len(lines)-1])
	const call = "firewall-cmd --permanent --policy=roundsman"
	// One call for all rules: each takes a second.
	script := strings.Join(lines[:3], "\n") + "\n" + call + strings.ReplaceAll(strings.Join(lines[3:len(lines)-1], ""), call, "")
	script = strings.ReplaceAll(script, "firewall-cmd --permanent", "firewall-offline-cmd")
	for range 2 { // they may be pasted again
		apply(t, func(name string, args ...string) *exec.Cmd { return h.Command(t.Context(), name, args...) }, sum.RulesFirewalld, script)
	}
	got := h.Run("firewall-offline-cmd", "--policy=roundsman", "--list-rich-rules")
	require.Equal(t, len(lines)-4, strings.Count(got, "\n"), got)
	require.Contains(t, got, `source address="192.0.2.13" destination address="192.0.2.1" port port="63003-63005" protocol="tcp" accept`)
	h.Run("firewall-offline-cmd", "--check-config")
}

// rulesetLists are what "esxcli network firewall ruleset list" says of a rule set, by
// releases: the words true and false are its state, and what can be configured.
var rulesetLists = map[string]struct {
	list, do []string
}{
	"7.0, off": {
		list: []string{"Name            Enabled", "--------------  -------", "CIMHttpsServer    false"},
		do:   []string{"set --ruleset-id=CIMHttpsServer --allowed-all=false", "allowedip add --ruleset-id=CIMHttpsServer --ip-address=192.0.2.1", "set --ruleset-id=CIMHttpsServer --enabled=true"},
	},
	"7.0, on": {
		list: []string{"Name            Enabled", "--------------  -------", "CIMHttpsServer     true"},
		do:   []string{"allowedip add --ruleset-id=CIMHttpsServer --ip-address=192.0.2.1"},
	},
	"8.0 U2, off": {
		list: []string{"Name            Enabled  Enable/Disable configurable  Allowed IP configurable",
			"--------------  -------  ---------------------------  -----------------------",
			"CIMHttpsServer    false                        false                     true"},
		do: []string{"set --ruleset-id=CIMHttpsServer --allowed-all=false", "allowedip add --ruleset-id=CIMHttpsServer --ip-address=192.0.2.1", "set --ruleset-id=CIMHttpsServer --enabled=true"},
	},
	"8.0 U2, on": {
		list: []string{"Name            Enabled  Enable/Disable configurable  Allowed IP configurable",
			"--------------  -------  ---------------------------  -----------------------",
			"CIMHttpsServer     true                        false                     true"},
		do: []string{"allowedip add --ruleset-id=CIMHttpsServer --ip-address=192.0.2.1"},
	},
}

// TestRulesESXCLISyntax: the shell takes the lines, a rule set that is off lets in
// nobody else once it is on, and one that is on and limits no addresses is left alone.
// There is no esxcli here but one that remembers.
func TestRulesESXCLISyntax(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "sh")
	rules := rulesOf(t, parse(t, "vmware://192.0.2.20"), sum.MatrixOptions{Manager: manager}, sum.RuleOptions{Format: sum.RulesESXCLI, Side: sum.SideTarget})
	for name, tt := range rulesetLists {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "list"), []byte(strings.Join(tt.list, "\n")+"\n"), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "esxcli"), []byte(`#!/bin/sh
echo "$*" >>"$DIR/log"
case $* in
*" allowedip list "*vSphereClient*) echo "vSphereClient  All" ;;
*" allowedip list "*) echo "CIMHttpsServer  192.0.2.200" ;;
*" ruleset list "*) cat "$DIR/list" ;;
esac
`), 0o755))
			cmd := exec.CommandContext(t.Context(), "sh", "-e")
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "DIR=" + dir}
			cmd.Stdin = strings.NewReader(rules)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			data, err := os.ReadFile(filepath.Join(dir, "log"))
			require.NoError(t, err)
			var did []string
			for l := range strings.Lines(string(data)) {
				if l = strings.TrimSpace(strings.TrimPrefix(l, "network firewall ruleset ")); !strings.Contains(l, "list ") {
					did = append(did, l)
				}
			}
			require.Equal(t, tt.do, did)
		})
	}
}
