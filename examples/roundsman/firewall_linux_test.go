package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
)

// fence has the manager's own host drop what no rule lets in, from namespace to
// namespace.
func (m *manager) fence() {
	m.t.Helper()
	m.nft(`table inet site {
	chain in {
		type filter hook input priority 0; policy drop
		iif lo accept
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
}`)
}

func (m *manager) nft(rules string) {
	m.t.Helper()
	cmd := m.net.Command(m.t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	out, err := cmd.CombinedOutput()
	require.NoError(m.t, err, "%s", out)
}

// ruleset is the manager's firewall.
func (m *manager) ruleset() string {
	m.t.Helper()
	out, err := m.net.Command(m.t.Context(), "nft", "list", "ruleset").CombinedOutput()
	require.NoError(m.t, err, "%s", out)
	return string(out)
}

func rulesetOf(h *realtest.Host) string { return h.Run("nft", "list", "ruleset") }

// waysOut are the rules for what the target itself sends, which nobody opens for it.
func waysOut(h *realtest.Host) {
	open(h, "out tcp dport 1025-65535 accept")
}

// TestOpenFirewall: with firewalls on both sides that let in nothing but SSH, the
// classic generation opens its ports and leaves the rules as they were; without
// the flag nothing is touched.
func TestOpenFirewall(t *testing.T) {
	t.Parallel()
	for name, family := range map[string]func(*realtest.Host) string{
		"IPv4": func(h *realtest.Host) string { return "linux://root@" + h.Addr },
		"IPv6": func(h *realtest.Host) string { return "linux://root@[" + h.Addr6 + "]" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.fence()
			waysOut(m.host)
			ours, theirs := m.ruleset(), rulesetOf(m.host)
			pkg := deb(t, "rmwall", "1.0", seesLinks("rmwall")+"\nnft list ruleset >/var/lib/rmwall.rules")
			status, list := m.run("deploy", "--generation", "classic", "--open-firewall", "--component", pkg, family(m.host))
			require.Equal(t, 0, status)
			require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
			during := m.host.Run("cat", "/var/lib/rmwall.rules")
			require.Contains(t, during, "roundsman.", "the target's firewall was not opened: it was never closed")
			back := false
			for _, l := range m.links(m.host, "rmwall") {
				if l.there < 60000 || l.there >= 61000 || l.here == 61000 {
					back = true
				}
			}
			require.True(t, back, "the agent did not get through the manager's firewall")
			require.Equal(t, ours, m.ruleset(), "the manager's firewall is not as it was")
			require.Equal(t, theirs, rulesetOf(m.host), "the target's firewall is not as it was")
			m.clean()
		})
	}
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		m.fence()
		ours, theirs := m.ruleset(), rulesetOf(m.host)
		status, _ := m.run("deploy", "--generation", "classic", "--component", deb(t, "rmwall", "1.0", ""), m.target())
		require.Equal(t, 10, status)
		require.Equal(t, ours, m.ruleset())
		require.Equal(t, theirs, rulesetOf(m.host))
		m.clean()
	})
}

// TestOpenFirewallKilled: what is killed leaves nobody let in, and what is left of its
// rules goes with recover.
func TestOpenFirewallKilled(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"agent", "manager", "manager that has a guardian"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.fence()
			waysOut(m.host)
			ours, theirs := m.ruleset(), rulesetOf(m.host)
			cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow", "--generation", "classic", "--open-firewall")
			require.Contains(t, m.ruleset(), "table inet roundsman.")
			require.Contains(t, rulesetOf(m.host), "table inet roundsman.")
			if who == "agent" {
				m.host.Run("pkill", "-KILL", "-f", "roundsman-agent serve")
				m.host.Run("touch", "/var/lib/go-on")
				require.NoError(t, cmd.Wait(), "%s", out)
				require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
			} else {
				require.NoError(t, cmd.Process.Kill())
				_ = cmd.Wait()
				require.Eventually(t, func() bool { return !strings.Contains(m.ruleset(), "table inet roundsman.") }, 10*time.Second, 20*time.Millisecond,
					"a dead manager's port is still open")
				if who != "manager" { // as where rules outlive a process
					guard := m.net.Command(t.Context(), m.bin, guardName)
					guard.Stdin = strings.NewReader("run-1-1\n")
					out, err := guard.CombinedOutput()
					require.NoError(t, err, "%s", out)
					require.Equal(t, ours, m.ruleset(), "something is left")
				}
				m.host.Run("touch", "/var/lib/go-on")
				status, list := m.run("recover") // the journal knows that there were rules
				require.Equal(t, 0, status)
				require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
			}
			require.Equal(t, 1, m.runs("rmslow"))
			require.Equal(t, ours, m.ruleset(), "the manager's firewall is not as it was")
			require.Equal(t, theirs, rulesetOf(m.host), "the target's firewall is not as it was")
			m.clean()
		})
	}
}

// TestOpenFirewallRefused: an agent that may not touch the firewall says which rule is
// to be added, and nothing else is done.
func TestOpenFirewallRefused(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.host.Run("sh", "-ec", `
		useradd -m -s /bin/sh ops; usermod -p '*' ops
		install -d -m 700 -o ops -g ops /home/ops/.ssh
		install -m 600 -o ops -g ops /root/.ssh/authorized_keys /home/ops/.ssh/`)
	theirs := rulesetOf(m.host)
	status, list := m.run("deploy", "--generation", "classic", "--open-firewall", "--component", deb(t, "rmwall", "1.0", ""), "linux://ops@"+m.host.Addr)
	require.Equal(t, 10, status)
	said := ""
	for _, e := range list {
		if e["event"] == "error" {
			said += fmt.Sprint(e)
		}
	}
	require.Contains(t, said, "administrator")
	require.Regexp(t, `nft [^;]* tcp dport 62286`, said, "the rule to add is not named")
	require.Equal(t, theirs, rulesetOf(m.host))
	m.clean()
}

// TestOpenFirewallCannot: where the target's firewall cannot be opened, the probe and
// the deployment say whose it is, and what to do.
func TestOpenFirewallCannot(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"no right":   "",
		"no program": "iptables-legacy -A INPUT -s 203.0.113.9 -j DROP && rm -f /usr/sbin/*legacy*",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			realtest.Need(t, "iptables-legacy")
			m := newManager(t)
			target := m.target()
			if before == "" {
				m.addUser()
				target = "linux://ops@" + m.host.Addr
			} else {
				m.host.Run("sh", "-ec", before)
			}
			classic := []string{"--generation", "classic", "--open-firewall", target}
			status, found := m.probed(nil, classic...)
			require.Equal(t, 10, status)
			f := one(t, found, sum.FindFirewall, 62286, sum.ToTarget)
			require.Equal(t, sum.Blocks, f.Severity)
			require.Contains(t, f.Text, "the target's firewall cannot be opened")
			require.NotEmpty(t, f.Advice)
			status, list := m.run(append([]string{"inventory"}, classic...)...)
			require.Equal(t, 10, status)
			said := fmt.Sprint(list)
			require.Contains(t, said, "the target's firewall cannot be opened")
			require.NotContains(t, said, "removed")
			m.clean()
		})
	}
}
