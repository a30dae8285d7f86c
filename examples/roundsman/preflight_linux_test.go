package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
)

// probed are the findings of preflight --probe. Without login flags of the caller's
// they are the usual ones.
func (m *manager) probed(login []string, args ...string) (status int, found []sum.Finding) {
	m.t.Helper()
	if login == nil {
		login = []string{"--identity", m.host.Identity, "--known-hosts", m.host.HostKey}
	}
	args = append([]string{"preflight", "--probe", "--json", "--journal", m.journal, "--connect-timeout", "5s"}, append(args, login...)...)
	cmd := m.net.Command(m.t.Context(), m.bin, args...)
	cmd.Env, cmd.Dir = m.command().Env, m.command().Dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil {
		require.ErrorAs(m.t, err, &exit, "%s", errs.String())
	}
	m.t.Logf("roundsman %s: status %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String())
	for _, e := range events(m.t, out.Bytes()) {
		if e["event"] != "finding" {
			continue
		}
		line, err := json.Marshal(e)
		require.NoError(m.t, err)
		var f sum.Finding
		require.NoError(m.t, json.Unmarshal(line, &f))
		found = append(found, f)
	}
	return cmd.ProcessState.ExitCode(), found
}

// one returns the finding with a code and, unless it is 0, a port.
func one(t *testing.T, found []sum.Finding, code sum.FindingCode, port uint16, d sum.Direction) sum.Finding {
	t.Helper()
	for _, f := range found {
		if f.Code == code && (port == 0 || f.Port == port) && f.Direction == d {
			return f
		}
	}
	require.Failf(t, "not found", "%s, %s %d, among %v", code, d, port, found)
	return sum.Finding{}
}

// tree are the files of a host where an agent may be, or may leave something.
func tree(h *realtest.Host) map[string]bool {
	out := map[string]bool{}
	for name := range strings.Lines(h.Run("sh", "-c", "find /var/lib /opt /root /home /tmp /run -maxdepth 3 2>/dev/null")) {
		if !strings.HasPrefix(name, "/run/ssh") && !strings.HasPrefix(name, "/run/sudo") {
			out[strings.TrimSpace(name)] = true
		}
	}
	return out
}

// unchanged checks that no file has come or gone.
func unchanged(t *testing.T, h *realtest.Host, before map[string]bool) {
	t.Helper()
	var come, gone []string
	after := tree(h)
	for name := range after {
		if !before[name] {
			come = append(come, name)
		}
	}
	for name := range before {
		if !after[name] {
			gone = append(gone, name)
		}
	}
	require.Empty(t, come, "left on the target")
	require.Empty(t, gone, "removed from the target")
}

// TestPreflight: what stands in the way has a finding of its own, that names direction
// and port, and nothing is changed on the target.
func TestPreflight(t *testing.T) {
	t.Parallel()
	classic := []string{"--generation", "classic", "--first-ports"}
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, m *manager) (login []string) // nil: the usual
		target  func(m *manager) string
		flags   []string
		code    sum.FindingCode
		port    uint16
		back    bool
		notice  bool // it does not block
		text    string
	}{
		"port blocked to the target": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.host.Run("nft", "insert rule inet only22 in tcp dport 22 drop")
				return nil
			},
			code: sum.FindFiltered, port: 22,
		},
		"agent's port blocked": {
			prepare: func(_ *testing.T, m *manager) []string { waysOut(m.host); return nil },
			flags:   classic, code: sum.FindFiltered, port: 62286,
		},
		"port blocked back": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.fence()
				waysOut(m.host)
				open(m.host, "in tcp dport 62286 accept")
				return nil
			},
			flags: classic, code: sum.FindFiltered, port: 61000, back: true, notice: true,
		},
		"port rejected back": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.nft("table inet site { chain in { type filter hook input priority 0; tcp dport 61000 reject with tcp reset; }; }")
				waysOut(m.host)
				open(m.host, "in tcp dport 62286 accept")
				return nil
			},
			flags: classic, code: sum.FindRefused, port: 61000, back: true, notice: true,
		},
		"target lets nothing out": {
			prepare: func(_ *testing.T, m *manager) []string { open(m.host, "in tcp dport 62286 accept"); return nil },
			flags:   classic, code: sum.FindFiltered, port: 61000, back: true, notice: true,
		},
		"wrong service": {
			prepare: func(t *testing.T, m *manager) []string {
				open(m.host, "in tcp dport 8080 accept")
				server := m.host.Command(t.Context(), "python3", "-m", "http.server", "8080")
				require.NoError(t, server.Start())
				t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
				require.Eventually(t, func() bool { return strings.Contains(m.host.Run("ss", "-Hltn"), ":8080") }, time.Minute, 50*time.Millisecond)
				return nil
			},
			target: func(m *manager) string { return m.target() + ":8080" },
			code:   sum.FindService, port: 8080,
		},
		"refused": {
			prepare: func(_ *testing.T, m *manager) []string { open(m.host, "in tcp dport 2222 accept"); return nil },
			target:  func(m *manager) string { return m.target() + ":2222" },
			code:    sum.FindRefused, port: 2222,
		},
		"no route": {
			target: func(*manager) string { return "linux://root@198.51.100.7" },
			code:   sum.FindNoRoute, port: 22,
		},
		"no name server": { // there is none in the test's network
			target: func(*manager) string { return "linux://root@nobody.invalid" },
			code:   sum.FindFailed, port: 22,
		},
		"wrong password": {
			prepare: func(t *testing.T, m *manager) []string {
				word := filepath.Join(t.TempDir(), "password")
				require.NoError(t, os.WriteFile(word, []byte("not this\n"), 0o600))
				return []string{"--known-hosts", m.host.HostKey, "--password-file", word}
			},
			code: sum.FindLogin, port: 22,
		},
		"wrong host key": {
			prepare: func(t *testing.T, m *manager) []string {
				line, err := os.ReadFile(m.net.Host(realtest.HostConfig{}).HostKey)
				require.NoError(t, err)
				_, key, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
				known := filepath.Join(t.TempDir(), "known_hosts")
				require.NoError(t, os.WriteFile(known, []byte(m.host.Addr+" "+key+"\n"), 0o600))
				return []string{"--identity", m.host.Identity, "--known-hosts", known}
			},
			code: sum.FindIdentity, port: 22,
		},
		"unknown host key": {
			prepare: func(t *testing.T, m *manager) []string {
				known := filepath.Join(t.TempDir(), "known_hosts")
				require.NoError(t, os.WriteFile(known, nil, 0o600))
				return []string{"--identity", m.host.Identity, "--known-hosts", known}
			},
			code: sum.FindUnknown, port: 22,
		},
		"read-only": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.host.Run("sh", "-c", "for d in /var/lib/roundsman /opt/roundsman; do mkdir -p $d; mount -t tmpfs -o ro,mode=755 none $d; done")
				return nil
			},
			code: sum.FindDirectory, text: "read-only file system mounted at",
		},
		"no sudo": {
			prepare: func(_ *testing.T, m *manager) []string { m.addUser(); return nil },
			target:  func(m *manager) string { return "linux://ops@" + m.host.Addr },
			flags:   []string{"--sudo"},
			code:    sum.FindRights, port: 22,
		},
		"full disk": {
			prepare: func(_ *testing.T, m *manager) []string { m.host.FillDisk(); return nil },
			code:    sum.FindSpace, text: "32 MiB are needed",
		},
		"noexec": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.host.Run("sh", "-c", "for d in /var/lib/roundsman /opt/roundsman; do mkdir -p $d; mount -t tmpfs -o noexec,mode=755 none $d; done")
				return nil
			},
			code: sum.FindNoExec,
		},
		// Linux has no clock for each container; date(1), which the agentless way asks, stands
		// for a host whose clock is wrong.
		"clock 10 years off": {
			prepare: func(_ *testing.T, m *manager) []string {
				m.host.Run("sh", "-c", `d=$(command -v date); mv $d $d.real; printf '#!/bin/sh\nexec %s.real -d "+10 years" "$@"\n' $d >$d; chmod 755 $d`)
				return nil
			},
			flags: []string{"--agentless"}, code: sum.FindClock, notice: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			var login []string
			if tt.prepare != nil {
				login = tt.prepare(t, m)
			}
			target := m.target()
			if tt.target != nil {
				target = tt.target(m)
			}
			before := tree(m.host)
			status, found := m.probed(login, append(tt.flags, target)...)
			var d sum.Direction
			switch {
			case tt.back:
				d = sum.ToManager
			case tt.port != 0:
				d = sum.ToTarget
			}
			f := one(t, found, tt.code, tt.port, d)
			require.NotEmpty(t, f.Text)
			require.Contains(t, f.Text, tt.text)
			require.NotEmpty(t, f.Advice)
			if tt.notice {
				require.Equal(t, sum.Notice, f.Severity)
				require.Zero(t, status)
			} else {
				require.Equal(t, sum.Blocks, f.Severity)
				require.Equal(t, exitFailed, status)
			}
			for _, other := range found {
				require.Truef(t, other.Severity != sum.Blocks || other.Code == tt.code, "%v", other)
			}
			unchanged(t, m.host, before)
			m.host.Run("sh", "-c", "pkill -KILL -x python3 || :")
			m.clean()
		})
	}
}

// addUser adds a user who logs in with root's key and may do nothing more.
func (m *manager) addUser() {
	m.t.Helper()
	m.host.Run("sh", "-ec", `
		useradd -m -s /bin/sh ops; usermod -p '*' ops
		install -d -m 700 -o ops -g ops /home/ops/.ssh
		install -m 600 -o ops -g ops /root/.ssh/authorized_keys /home/ops/.ssh/`)
}

// TestPreflightPasses: where nothing stands in the way nothing is said to, in both
// generations, over IPv4 and IPv6, and where the firewalls are to be opened.
func TestPreflightPasses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		flags  []string
		closed bool // the firewalls let nothing in but SSH
		six    bool
	}{
		"current":              {},
		"current by IPv6":      {six: true},
		"agentless":            {flags: []string{"--agentless"}},
		"classic":              {flags: []string{"--generation", "classic"}},
		"classic by IPv6":      {flags: []string{"--generation", "classic"}, six: true},
		"classic to be opened": {flags: []string{"--generation", "classic", "--open-firewall"}, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			waysOut(m.host)
			if tt.closed {
				m.fence()
			} else {
				open(m.host, "in tcp dport 1025-65535 accept")
			}
			target := m.target()
			if tt.six {
				target = "linux://root@[" + m.host.Addr6 + "]"
			}
			ours, theirs, before := m.ruleset(), rulesetOf(m.host), tree(m.host)
			status, found := m.probed(nil, append(tt.flags, target)...)
			require.Zero(t, status)
			for _, f := range found {
				require.Equal(t, sum.Passed, f.Severity, "%v", f)
			}
			one(t, found, sum.FindReached, 22, sum.ToTarget)
			one(t, found, sum.FindClock, 0, "")
			if strings.HasPrefix(name, "classic") {
				one(t, found, sum.FindReached, 62286, sum.ToTarget)
				one(t, found, sum.FindReached, 61000, sum.ToManager)
			}
			unchanged(t, m.host, before)
			require.Equal(t, ours, m.ruleset())
			require.Equal(t, theirs, rulesetOf(m.host))
			m.clean()
		})
	}
}

// TestPreflightBusy: another manager at work is found.
func TestPreflightBusy(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow")
	m.journal = t.TempDir() // the other's
	for _, flags := range [][]string{nil, {"--agentless"}} {
		status, found := m.probed(nil, append(flags, m.target())...)
		require.Equal(t, exitFailed, status)
		require.Contains(t, one(t, found, sum.FindBusy, 0, "").Text, "rmslow")
	}
	m.host.Run("touch", "/var/lib/go-on")
	require.NoError(t, cmd.Wait(), "%s", out)
	m.clean()
}

// bigDeb builds a package with so many bytes that cannot be compressed.
func bigDeb(t *testing.T, name string, size int) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte("Package: "+name+"\nVersion: 1.0\nArchitecture: all\n"+
		"Maintainer: roundsman tests <tests@example.com>\nDescription: a package that a test builds\n"), 0o644))
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	file := filepath.Join(t.TempDir(), name+"_1.0_all.deb")
	out, err := exec.Command("dpkg-deb", "-Znone", "--root-owner-group", "--build", dir, file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

// TestDeployPreflight: a deployment looks before it changes something, unless it is
// told not to.
func TestDeployPreflight(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.host.Run("sh", "-c", "mkdir -p /var/lib/roundsman; mount -t tmpfs -o size=48M,mode=755 none /var/lib/roundsman")
	status, list := m.run("deploy", "--component", bigDeb(t, "rmbig", 32<<20), m.target())
	require.Equal(t, exitFailed, status)
	require.Empty(t, outcomes(list))
	said := ""
	for _, e := range list {
		if e["event"] == "error" {
			said += e["error"].(string)
		}
	}
	require.Contains(t, said, string(sum.FindSpace))
	require.Contains(t, said, "/var/lib/roundsman")
	require.Zero(t, m.runs("rmbig"))
	m.clean()
}
