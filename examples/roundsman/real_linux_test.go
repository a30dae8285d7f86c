package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// These tests run the built command line against a real OpenSSH server on a host
// of its own: network, processes, file system and package database. Nothing but
// port 22 of the host is open, and nothing of the manager.

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "roundsman-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "roundsman")
	// Without what a debugger reads: it is copied to most hosts as their agent.
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build", Err: &buildError{string(out), err}}
	}
	return bin, nil
})

type buildError struct {
	out string
	err error
}

func (e *buildError) Error() string { return e.err.Error() + "\n" + e.out }

// manager runs the command line in the manager's namespace.
type manager struct {
	t       *testing.T
	net     *realtest.Net
	host    *realtest.Host
	bin     string
	home    string
	journal string
}

func newManager(t *testing.T, sshd ...string) *manager {
	t.Helper()
	return newManagerOn(t, realtest.HostConfig{SSHD: sshd})
}

func newManagerOn(t *testing.T, host realtest.HostConfig) *manager {
	t.Helper()
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	realtest.Need(t, "dpkg-deb")
	net := realtest.NewNet(t)
	bin, err := buildOnce()
	require.NoError(t, err)
	m := &manager{t: t, net: net, host: net.Host(host), bin: bin,
		home: t.TempDir(), journal: t.TempDir()}
	m.ownPackages()
	return m
}

// ownPackages gives the host a database of packages of its own, on the same disk:
// dpkg would read for long what this machine has.
func (m *manager) ownPackages() {
	m.t.Helper()
	m.host.Run("sh", "-ec", `mkdir -p /srv/dpkg/info /srv/dpkg/updates /srv/dpkg/triggers
		echo 1 >/srv/dpkg/info/format; : >/srv/dpkg/status
		mount --bind /srv/dpkg /var/lib/dpkg`)
}

func (m *manager) target() string { return "linux://root@" + m.host.Addr }

func (m *manager) command(args ...string) *exec.Cmd {
	args = append(args, "--journal", m.journal, "--identity", m.host.Identity, "--known-hosts", m.host.HostKey)
	cmd := m.net.Command(context.Background(), m.bin, args...)
	cmd.Env = append(os.Environ(), "HOME="+m.home, "SSH_AUTH_SOCK=", "ROUNDSMAN_PASSWORD=",
		// The agent is built in the go command's usual cache, not in that home.
		"GOCACHE="+goEnv(m.t, "GOCACHE"), "GOMODCACHE="+goEnv(m.t, "GOMODCACHE"), "GOPATH="+goEnv(m.t, "GOPATH"))
	cmd.Dir, _ = os.Getwd() // in the module, so that go build finds the agent
	return cmd
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	env, err := goEnvOnce()
	require.NoError(t, err)
	require.Contains(t, env, name)
	return env[name]
}

var goEnvOnce = sync.OnceValues(func() (map[string]string, error) {
	out, err := exec.Command("go", "env", "-json").Output()
	if err != nil {
		return nil, err
	}
	var env map[string]string
	return env, json.Unmarshal(out, &env)
})

// run runs a command to its end and returns its exit status and JSON events.
func (m *manager) run(args ...string) (int, []map[string]any) {
	m.t.Helper()
	cmd := m.command(append(args, "--json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(m.t, err, &exit, "%s", errs.String())
	}
	m.t.Logf("roundsman %s: status %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), tailOf(out.String()), errs.String())
	return cmd.ProcessState.ExitCode(), events(m.t, out.Bytes())
}

func tailOf(s string) string {
	if len(s) > 4000 {
		return "...\n" + s[len(s)-4000:]
	}
	return s
}

func events(t *testing.T, out []byte) []map[string]any {
	t.Helper()
	var list []map[string]any
	for line := range bytes.Lines(out) {
		var e map[string]any
		require.NoError(t, json.Unmarshal(line, &e), "not a JSON line: %s", line)
		require.EqualValues(t, 1, e["v"])
		list = append(list, e)
	}
	return list
}

func outcomes(list []map[string]any) []map[string]any {
	var out []map[string]any
	for _, e := range list {
		if e["event"] == "outcome" {
			out = append(out, e)
		}
	}
	return out
}

// deb builds a package. Its postinst counts its runs on the target and then
// takes as long as asked.
func deb(t *testing.T, name, version, postinst string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(file, content string, mode os.FileMode) {
		file = filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), mode))
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	write("DEBIAN/control", "Package: "+name+"\nVersion: "+version+"\nArchitecture: all\n"+
		"Maintainer: roundsman tests <tests@example.com>\nDescription: a package that a test builds\n", 0o644)
	write("usr/share/"+name+"/hello", "hello\n", 0o644)
	write("DEBIAN/postinst", "#!/bin/sh\nset -e\necho run >>/var/lib/"+name+".runs\n"+postinst+"\n", 0o755)
	file := filepath.Join(t.TempDir(), name+"_"+version+"_all.deb")
	out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

// runs returns how often the package's postinst ran on the host.
func (m *manager) runs(name string) int {
	m.t.Helper()
	return strings.Count(m.host.Run("sh", "-c", "cat /var/lib/"+name+".runs 2>/dev/null || :"), "run")
}

func (m *manager) installed(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.host.Run("sh", "-c", "dpkg-query -W -f '${Version} ${Status}' "+name+" 2>/dev/null || :"))
}

// clean checks that nothing but logs is left on the host.
func (m *manager) clean() {
	m.t.Helper()
	var processes string
	require.Eventually(m.t, func() bool {
		processes = strings.Join(m.host.Processes(), "\n")
		return !strings.Contains(processes, "roundsman-agent")
	}, 30*time.Second, 200*time.Millisecond, "an agent is left")
	for _, file := range strings.Fields(m.host.Run("sh", "-c", "find /var/lib/roundsman /opt/roundsman /root/.cache/roundsman ! -type d 2>/dev/null || :")) {
		log := filepath.Base(file) == "agent.log" || filepath.Base(filepath.Dir(file)) == "jobs"
		require.Truef(m.t, log, "left on the host: %s", file)
	}
	for _, l := range m.host.Listeners() {
		require.Contains(m.t, l, ":22", "left listening")
	}
	require.NotContains(m.t, m.host.Run("ss", "-Hlnx"), "agent.sock")
	require.Empty(m.t, strings.TrimSpace(m.host.Run("find", "/tmp", "/run", "-name", "*roundsman*")))
}

func TestRealDeploy(t *testing.T) {
	t.Parallel()
	for name, sshd := range map[string][]string{
		"stream-local forwarding": nil,
		"exec only":               {"AllowStreamLocalForwarding no", "AllowTcpForwarding no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t, sshd...)
			m.host.Run("umount", "/var/lib/dpkg") // with all that this machine has
			pkg := deb(t, "rmhello", "2.10-3", "echo configured")

			status, list := m.run("deploy", "--component", pkg, m.target())
			require.Equal(t, 0, status)
			require.Len(t, outcomes(list), 1)
			o := outcomes(list)[0]
			require.Equal(t, "Updated", o["outcome"])
			require.Equal(t, "rmhello", o["component"])
			require.Equal(t, "", o["from"])
			require.Equal(t, "2.10-3", o["to"])
			require.Equal(t, map[string]any{"space": "dpkg", "value": "0"}, o["code"])
			require.True(t, strings.HasPrefix(o["target"].(string), "linux://root@"))
			require.Equal(t, "2.10-3 install ok installed", m.installed("rmhello"))
			m.clean()

			status, list = m.run("deploy", "--component", pkg, m.target(), "--detailed-exitcode")
			require.Equal(t, 3, status)
			require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
			require.Equal(t, 1, m.runs("rmhello"), "installed a second time")
			m.clean()

			into := t.TempDir()
			status, _ = m.run("logs", m.target(), "--out", into)
			require.Equal(t, 0, status)
			logs := readAll(t, into)
			require.Contains(t, logs, "configured", "the installer's output is in the logs")
		})
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		b.Write(content)
		return err
	}))
	return b.String()
}

// waitFor is an installer that waits until the test lets it go on.
const waitFor = `i=0; while [ ! -e /var/lib/go-on ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done`

// startDeploy starts a deployment and returns when the installer runs.
func (m *manager) startDeploy(pkg, name string, flags ...string) (*exec.Cmd, *bytes.Buffer) {
	m.t.Helper()
	cmd := m.command(append([]string{"deploy", "--component", pkg, m.target(), "--json"}, flags...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	require.NoError(m.t, cmd.Start())
	m.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	require.Eventually(m.t, func() bool { return m.runs(name) == 1 }, 2*time.Minute, 100*time.Millisecond, "the installer did not start")
	return cmd, &out
}

func TestRealAgentKilled(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow")
	m.host.Run("pkill", "-KILL", "-f", "roundsman-agent serve")
	m.host.Run("touch", "/var/lib/go-on")
	require.NoError(t, cmd.Wait(), "%s", out)
	list := outcomes(events(t, out.Bytes()))
	require.Len(t, list, 1)
	require.Equal(t, "Updated", list[0]["outcome"])
	require.Equal(t, 1, m.runs("rmslow"))
	m.clean()
}

func TestRealManagerKilled(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"recover", "deploy"} {
		t.Run("then "+second, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			pkg := deb(t, "rmslow", "1.0", waitFor)
			cmd, _ := m.startDeploy(pkg, "rmslow")
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			m.host.Run("touch", "/var/lib/go-on")

			args := []string{"recover"}
			if second == "deploy" {
				args = []string{"deploy", "--component", pkg, m.target()}
			}
			status, list := m.run(args...)
			require.Equal(t, 0, status)
			found := outcomes(list)
			require.NotEmpty(t, found)
			require.Equal(t, "Updated", found[0]["outcome"])
			require.Equal(t, "1.0 install ok installed", m.installed("rmslow"))
			require.Equal(t, 1, m.runs("rmslow"), "installed twice")
			m.clean()

			// Nothing is pending any more, and nothing is needed any more.
			status, list = m.run("recover")
			require.Equal(t, 0, status)
			require.Empty(t, outcomes(list))
			status, _ = m.run("deploy", "--component", pkg, m.target(), "--detailed-exitcode")
			require.Equal(t, 3, status)
			require.Equal(t, 1, m.runs("rmslow"))
		})
	}
}

func TestRealCableCut(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	cmd, out := m.startDeploy(deb(t, "rmslow", "1.0", waitFor), "rmslow")
	m.host.Cable(false)
	m.host.Run("touch", "/var/lib/go-on")
	require.Eventually(t, func() bool { return strings.HasPrefix(m.installed("rmslow"), "1.0 install ok") }, time.Minute, 200*time.Millisecond)
	m.host.Cable(true)
	require.NoError(t, cmd.Wait(), "%s", out)
	require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
	require.Equal(t, 1, m.runs("rmslow"))
	m.clean()
}

// TestRealSudo deploys as a user who may become root. The agent's socket is
// root's, so that forwarding does not reach it and sudo has to.
func TestRealSudo(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "sudo")
	m := newManager(t)
	m.host.Run("sh", "-ec", `
		useradd -m -s /bin/sh ops; usermod -p '*' ops
		install -d -m 700 -o ops -g ops /home/ops/.ssh
		install -m 600 -o ops -g ops /root/.ssh/authorized_keys /home/ops/.ssh/
		echo 'ops ALL=(root) NOPASSWD: ALL' >/etc/sudoers.d/ops; chmod 440 /etc/sudoers.d/ops`)
	pkg := deb(t, "rmhello", "2.10-3", "")
	target := "linux://ops@" + m.host.Addr
	status, list := m.run("deploy", "--component", pkg, "--sudo", target)
	require.Equal(t, 0, status)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	require.Equal(t, "2.10-3 install ok installed", m.installed("rmhello"))
	m.clean()

	into := t.TempDir()
	status, _ = m.run("logs", "--sudo", target, "--out", into)
	require.Equal(t, 0, status)
	require.Contains(t, readAll(t, into), "Setting up rmhello")
}

// TestRealIPv6 uses nothing but IPv6.
func TestRealIPv6(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	status, list := m.run("deploy", "--component", deb(t, "rmhello", "2.10-3", ""), "linux://root@["+m.host.Addr6+"]")
	require.Equal(t, 0, status)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	m.clean()
}

// TestRealAgentless: a host that executes no program of ours, because where the
// agent would be is mounted noexec, gets its package by commands alone, and so does
// one whose manager is killed meanwhile.
func TestRealAgentless(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.host.Run("sh", "-c", "mkdir -p /var/lib/roundsman /opt/roundsman && mount -t tmpfs -o noexec,mode=755 none /var/lib/roundsman && mount -t tmpfs -o noexec,mode=755 none /opt/roundsman")
	pkg := deb(t, "rmplain", "1.0", waitFor)
	status, list := m.run("deploy", "--component", pkg, m.target())
	require.NotZero(t, status)
	require.Empty(t, outcomes(list))

	cmd := m.command("deploy", "--component", pkg, "--agentless", m.target(), "--json")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return m.runs("rmplain") == 1 }, 2*time.Minute, 100*time.Millisecond, "the installer did not start")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NotContains(t, strings.Join(m.host.Processes(), "\n"), "roundsman-agent")
	m.host.Run("touch", "/var/lib/go-on")
	status, list = m.run("recover", m.target()) // the journal knows how it was begun
	require.Zero(t, status)
	require.Len(t, outcomes(list), 1)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	require.Equal(t, 1, m.runs("rmplain"))
	m.clean()

	status, list = m.run("deploy", "--component", pkg, "--agentless", m.target())
	require.Zero(t, status)
	require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
	m.clean()
}
