package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// link is a TCP connection of a host to the manager.
type link struct{ here, there uint16 }

// links returns the connections that a package's postinst saw while it ran, but for
// those of SSH.
func (m *manager) links(h *realtest.Host, name string) []link {
	m.t.Helper()
	var out []link
	for line := range strings.Lines(h.Run("cat", "/var/lib/"+name+".links")) {
		f := strings.Fields(line)
		here, err := netip.ParseAddrPort(f[len(f)-2])
		require.NoError(m.t, err, line)
		there, err := netip.ParseAddrPort(f[len(f)-1])
		require.NoError(m.t, err, line)
		if here.Port() != 22 {
			out = append(out, link{here.Port(), there.Port()})
		}
	}
	return out
}

// seesLinks is a postinst that waits until agent and manager have dialled each other,
// and notes the connections of its host.
func seesLinks(name string) string {
	return `i=0
while [ $i -lt 300 ] && [ "$(ss -Htn state established | awk '$3 !~ /:22$/' | wc -l)" -lt 2 ]; do sleep 0.2; i=$((i+1)); done
sleep 1
ss -Htn state established >/var/lib/` + name + ".links"
}

// open adds rules to the firewall of a host, of which nothing but port 22 is open.
func open(h *realtest.Host, rules ...string) {
	for _, r := range rules {
		h.Run("nft", "add rule inet only22 "+r)
	}
}

// TestClassic: in the classic generation, with the documented ports open and no
// others; with those to which the conversations move; and where the firewall lets
// through only the first contact though they are to move.
func TestClassic(t *testing.T) {
	t.Parallel()
	first := []string{
		"in tcp sport 60000-60999 tcp dport 62286-62290 accept",
		"out tcp dport 61000-61007 accept",
	}
	for name, tt := range map[string]struct {
		rules []string
		flags []string
		stays bool
	}{
		"the documented ports": {rules: first, flags: []string{"--first-ports"}, stays: true},
		"moving": {rules: []string{
			"in tcp sport 60000-60999 tcp dport 1025-65535 accept",
			"out tcp dport 1025-65535 accept",
		}},
		"moving is blocked": {rules: first, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			open(m.host, tt.rules...)
			pkg := deb(t, "rmclassic", "1.0", seesLinks("rmclassic"))
			status, list := m.run(append([]string{"deploy", "--generation", "classic", "--component", pkg, m.target()}, tt.flags...)...)
			require.Equal(t, 0, status)
			require.Equal(t, "Updated", outcomes(list)[0]["outcome"])

			var to, back []link
			for _, l := range m.links(m.host, "rmclassic") {
				if l.there >= 60000 && l.there < 61000 && l.here != 61000 {
					to = append(to, l)
				} else {
					back = append(back, l)
				}
			}
			require.NotEmpty(t, to, "nothing comes from the documented source ports")
			require.NotEmpty(t, back, "the agent makes no connection")
			for _, l := range to {
				if tt.stays {
					require.EqualValues(t, 62286, l.here)
				} else {
					require.Greater(t, l.here, uint16(1024))
					require.NotEqualValues(t, 62286, l.here)
				}
			}
			for _, l := range back {
				if tt.stays {
					require.EqualValues(t, 61000, l.there)
				} else {
					require.Greater(t, l.there, uint16(1024))
					require.NotContains(t, []uint16{61000, 61001}, l.there)
				}
			}
			m.clean()
			status, list = m.run(append([]string{"deploy", "--generation", "classic", "--component", pkg, m.target()}, tt.flags...)...)
			require.Equal(t, 0, status)
			require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
			require.Equal(t, 1, m.runs("rmclassic"))
			m.clean()
		})
	}
}

// TestClassicTargets: one port receives the agents of all targets, or each has one.
func TestClassicTargets(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"one port": nil, "a port for each": {"--port-per-target"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			other := m.net.Host(realtest.HostConfig{})
			for _, h := range []*realtest.Host{m.host, other} {
				open(h, "in tcp dport 62286 accept", "out tcp dport 61000-61007 accept")
			}
			pkg := deb(t, "rmclassic", "1.0", seesLinks("rmclassic"))
			args := append([]string{"deploy", "--generation", "classic", "--first-ports", "--component", pkg,
				"--identity", other.Identity, "--known-hosts", other.HostKey, m.target(), "linux://root@" + other.Addr}, flags...)
			status, list := m.run(args...)
			require.Equal(t, 0, status)
			require.Len(t, outcomes(list), 2)
			seen := map[uint16]bool{}
			for _, h := range []*realtest.Host{m.host, other} {
				for _, l := range m.links(h, "rmclassic") {
					if l.here != 62286 {
						seen[l.there] = true
					}
				}
			}
			if flags == nil {
				require.Equal(t, map[uint16]bool{61000: true}, seen)
			} else {
				require.Equal(t, map[uint16]bool{61000: true, 61001: true}, seen)
			}
			m.clean()
		})
	}
}

// TestClassicBlocked: a port of the agent's that nobody can reach is said, with the
// direction and the port, and nothing is left.
func TestClassicBlocked(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string][]string{
		"dropped":  nil,
		"rejected": {"in tcp dport 62286 reject", "out meta l4proto { icmp, icmpv6 } accept"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			open(m.host, rules...)
			status, list := m.run("deploy", "--generation", "classic", "--component", deb(t, "rmclassic", "1.0", ""), m.target())
			require.Equal(t, 10, status)
			said := ""
			for _, e := range list {
				if e["event"] == "error" {
					said += fmt.Sprint(e)
				}
			}
			require.Contains(t, said, "62286")
			require.Contains(t, said, "firewall")
			require.Zero(t, m.runs("rmclassic"))
			m.clean()
		})
	}
}

// TestClassicSecondManager: where the firewall knows the first port alone, a second
// manager is told of the agent that has it, and not to change the firewall.
func TestClassicSecondManager(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	open(m.host, "in tcp sport 60000-60999 tcp dport 62286 accept", "in tcp dport 62287 reject", "out tcp dport 61000-61007 accept", "out meta l4proto { icmp, icmpv6 } accept")
	cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow", "--generation", "classic", "--first-ports")
	dir := strings.TrimSpace(m.host.Run("sh", "-c", "dirname /var/lib/roundsman/*/ready.json"))
	status, list := m.another().run("inventory", "--generation", "classic", "--first-ports", m.target())
	require.Equal(t, 10, status)
	said := ""
	for _, e := range list {
		if e["event"] == "error" {
			said += fmt.Sprint(e["error"])
		}
	}
	require.Contains(t, said, "TCP port 62286 of the target is taken by the agent in "+dir)
	require.Contains(t, said, "listens on 62287")
	require.NotContains(t, said, "firewalls, that of the target")
	m.host.Run("touch", "/var/lib/go-on")
	require.NoError(t, cmd.Wait(), "%s", out)
	require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
	m.clean()
}

// TestClassicIPv6: the same over IPv6.
func TestClassicIPv6(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	open(m.host, "in tcp sport 60000-60999 tcp dport 62286 accept", "out tcp dport 61000 accept")
	pkg := deb(t, "rmclassic", "1.0", seesLinks("rmclassic"))
	status, list := m.run("deploy", "--generation", "classic", "--first-ports", "--component", pkg, "linux://root@["+m.host.Addr6+"]")
	require.Equal(t, 0, status)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	links := m.links(m.host, "rmclassic")
	require.Contains(t, fmt.Sprint(links), "61000}")
	require.Contains(t, fmt.Sprint(links), "{62286 60")
	m.clean()
}

// TestClassicWayBackBlocked: what the agent cannot tell is asked for.
func TestClassicWayBackBlocked(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	open(m.host, "in tcp sport 60000-60999 tcp dport 62286 accept")
	pkg := deb(t, "rmclassic", "1.0", "sleep 5")
	status, list := m.run("deploy", "--generation", "classic", "--first-ports", "--component", pkg, m.target())
	require.Equal(t, 0, status)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	require.Contains(t, m.host.Run("sh", "-c", "cat /var/lib/roundsman/*/agent.log"), "the manager is not reached")
	said := ""
	for _, e := range list {
		if e["phase"] == "callback" {
			said = e["text"].(string)
		}
	}
	require.Contains(t, said, ":61000", "the operator is not told")
	m.clean()
}

// TestClassicKilled: agent, manager and cable; what is killed leaves no port behind,
// on either side, and the result is found, by a manager of either generation.
func TestClassicKilled(t *testing.T) {
	t.Parallel()
	rules := []string{"in tcp sport 60000-60999 tcp dport 1025-65535 accept", "out tcp dport 1025-65535 accept"}
	t.Run("agent", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		open(m.host, rules...)
		cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow", "--generation", "classic")
		m.host.Run("pkill", "-KILL", "-f", "roundsman-agent serve")
		m.host.Run("touch", "/var/lib/go-on")
		require.NoError(t, cmd.Wait(), "%s", out)
		require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
		require.Equal(t, 1, m.runs("rmslow"))
		m.clean()
	})
	for _, next := range []string{"classic", "current"} {
		t.Run("manager then "+next, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			open(m.host, rules...)
			cmd, _ := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow", "--generation", "classic", "--port-per-target")
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			listeners, err := m.net.Command(t.Context(), "ss", "-Hltn").Output()
			require.NoError(t, err)
			require.Empty(t, string(listeners), "the manager's ports outlive it")
			m.host.Run("touch", "/var/lib/go-on")
			status, list := m.run("recover", "--generation", next)
			require.Equal(t, 0, status)
			require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
			require.Equal(t, 1, m.runs("rmslow"))
			m.clean()
		})
	}
	t.Run("cable", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		open(m.host, rules...)
		cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow", "--generation", "classic")
		m.host.Cable(false)
		m.host.Run("touch", "/var/lib/go-on")
		require.Eventually(t, func() bool { return strings.HasPrefix(m.installed("rmslow"), "1.0 install ok") }, time.Minute, 200*time.Millisecond)
		m.host.Cable(true)
		require.NoError(t, cmd.Wait(), "%s", out)
		require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
		require.Equal(t, 1, m.runs("rmslow"))
		m.clean()
	})
}
