package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// These tests run the built command line on the server itself, as on locked-down
// networks: a host of its own, on which the program and the components are all
// that is needed. There is no Go toolchain in its PATH.

// site is a host and the program on it.
type site struct {
	*manager
	program string // "roundsman", or inProcess
	user    string // who runs the program; "" is root
}

func newSite(t *testing.T, program string) *site {
	t.Helper()
	return newSiteOn(t, program, newManager(t))
}

func newSiteOn(t *testing.T, program string, m *manager) *site {
	t.Helper()
	s := &site{manager: m, program: program}
	bin := s.bin
	if program != "roundsman" {
		var err error
		bin, err = os.Executable()
		require.NoError(t, err)
	}
	s.put(bin, "/usr/local/bin/"+program, "755")
	return s
}

// put copies a file to the host.
func (s *site) put(file, name, mode string) string {
	s.t.Helper()
	f, err := os.Open(file)
	require.NoError(s.t, err)
	defer f.Close()
	cmd := s.host.Command(context.Background(), "sh", "-ec", `mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"`, "sh", name, mode)
	cmd.Stdin = f
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	return name
}

// deb puts a package on the host.
func (s *site) deb(name, version, postinst string) string {
	s.t.Helper()
	file := deb(s.t, name, version, postinst)
	return s.put(file, "/srv/"+filepath.Base(file), "644")
}

func (s *site) command(args ...string) *exec.Cmd {
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
	argv := []string{"env", "-i", "PATH=" + path, "HOME=/root", "/usr/local/bin/" + s.program}
	if s.user != "" {
		argv = []string{"setpriv", "--reuid", s.user, "--regid", s.user, "--init-groups",
			"env", "-i", "PATH=" + path, "HOME=/home/" + s.user, "/usr/local/bin/" + s.program}
	}
	argv = append(argv, args...)
	cmd := s.host.Command(context.Background(), argv[0], argv[1:]...)
	cmd.Dir = "/"
	return cmd
}

// run runs a command to its end and returns its exit status and JSON events.
func (s *site) run(args ...string) (int, []map[string]any) {
	s.t.Helper()
	cmd := s.command(append(args, "--json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(s.t, err, &exit, "%s", errs.String())
	}
	s.t.Logf("roundsman %s: status %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), tailOf(out.String()), errs.String())
	return cmd.ProcessState.ExitCode(), events(s.t, out.Bytes())
}

// begin starts a command and returns when the installer of a package runs.
func (s *site) begin(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	s.t.Helper()
	cmd := s.command(append(args, "--json")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	require.Eventually(s.t, func() bool { return s.runs(name) == 1 }, 2*time.Minute, 100*time.Millisecond, "the installer did not start")
	return cmd, &out
}

// onlySSH checks that nothing on the host can be dialled but sshd.
func (s *site) onlySSH() {
	s.t.Helper()
	tcp := s.host.Listeners()
	require.NotEmpty(s.t, tcp)
	for _, l := range tcp {
		require.Contains(s.t, l, ":22 ", "listening on TCP")
		require.Contains(s.t, l, "sshd")
	}
	require.Empty(s.t, strings.TrimSpace(s.host.Run("ss", "-Hlnup")), "listening on UDP")
}

// TestLocalDeploy: the program updates the host that it runs on, and opens nothing.
func TestLocalDeploy(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"roundsman", inProcess} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			localDeploy(t, newSite(t, program))
		})
	}
	t.Run("classic", func(t *testing.T) {
		t.Parallel()
		localDeploy(t, newSite(t, "roundsman"), "--generation", "classic")
	})
}

func localDeploy(t *testing.T, s *site, flags ...string) {
	status, list := s.run("inventory", "local:")
	require.Equal(t, 0, status)
	inv := list[0]["inventory"].(map[string]any)["identity"].(map[string]any)
	require.Equal(t, "linux", inv["os"])
	s.clean()

	pkg := s.deb("rmslow", "1.0", "echo configured; "+waitFor)
	status, list = s.run("plan", "--component", pkg, "local:", "-o", "/srv/plan.json")
	require.Equal(t, 0, status)
	require.Empty(t, outcomes(list))
	s.clean()

	cmd, out := s.begin("rmslow", append([]string{"deploy", "--plan", "/srv/plan.json"}, flags...)...)
	for range 20 { // as long as the installer runs
		s.onlySSH()
	}
	processes := strings.Join(s.host.Processes(), "\n")
	require.Contains(t, processes, s.program+" deploy")
	require.Equal(t, s.program != inProcess, strings.Contains(processes, "roundsman-agent"), "another process is the agent")
	require.Equal(t, s.program != inProcess, strings.Contains(s.host.Run("ss", "-Hlnx"), "agent.sock"))
	require.Equal(t, 1, s.runs("rmslow"))
	require.NotContains(t, s.installed("rmslow"), "install ok installed", "it has to run while it is looked at")
	s.host.Run("touch", "/var/lib/go-on")
	require.NoError(t, cmd.Wait(), "%s", out)
	o := outcomes(events(t, out.Bytes()))[0]
	require.Equal(t, "Updated", o["outcome"])
	require.Equal(t, "local:", o["target"])
	require.Equal(t, map[string]any{"space": "dpkg", "value": "0"}, o["code"])
	require.Equal(t, "1.0 install ok installed", s.installed("rmslow"))
	s.clean()

	status, list = s.run("deploy", "--component", pkg, "local:", "--detailed-exitcode")
	require.Equal(t, 3, status)
	require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
	require.Equal(t, 1, s.runs("rmslow"), "installed a second time")
	s.clean()

	status, _ = s.run("logs", "local:", "--out", "/srv/logs")
	require.Equal(t, 0, status)
	require.Contains(t, s.host.Run("sh", "-c", "cat $(find /srv/logs -type f)"), "configured")
	status, list = s.run("recover")
	require.Equal(t, 0, status)
	require.Empty(t, outcomes(list))
}

// TestLocalKilled kills the program, and with it the manager of the host, while the
// installer runs; in the second case the agent as well. In the third there is none
// but the manager.
func TestLocalKilled(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string][]string{
		"the manager":                   {"roundsman"},
		"the manager and the agent":     {"roundsman", "roundsman-agent"},
		"the manager that is the agent": {inProcess},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kill[0])
			pkg := s.deb("rmslow", "1.0", "echo before; "+waitFor+"; echo after")
			cmd, _ := s.begin("rmslow", "deploy", "--component", pkg, "local:")
			for _, program := range kill {
				// In the host's process namespace alone. The shim has the name of the
				// agent; with both gone nobody sees how the installer ends.
				s.host.Run("pkill", "-KILL", "-x", program)
			}
			_ = cmd.Wait()
			s.host.Run("touch", "/var/lib/go-on")
			status, list := s.run("recover")
			require.Equal(t, 0, status)
			found := outcomes(list)
			require.Len(t, found, 1)
			require.Equal(t, "Updated", found[0]["outcome"])
			require.Equal(t, "1.0 install ok installed", s.installed("rmslow"))
			require.Equal(t, 1, s.runs("rmslow"), "installed twice")
			s.clean()
			if len(kill) == 1 { // somebody wrote the output to its end
				require.Contains(t, s.host.Run("sh", "-c", "cat /var/lib/roundsman/*/jobs/*.log"), "before\nafter\n")
			}
			status, list = s.run("deploy", "--component", pkg, "local:", "--detailed-exitcode")
			require.Equal(t, 3, status)
			require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
		})
	}
}

// TestLocalUser: a user without rights updates what is the user's own; what takes
// root fails as the system says it.
func TestLocalUser(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "setpriv")
	for _, program := range []string{"roundsman", inProcess} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			localUser(t, newSite(t, program))
		})
	}
}

func localUser(t *testing.T, s *site) {
	s.host.Run("useradd", "-m", "-s", "/bin/sh", "ops")
	pkg := s.deb("rmhello", "2.10-3", "")
	s.user = "ops"

	status, list := s.run("inventory", "local:")
	require.Equal(t, 0, status)
	require.NotEmpty(t, list)
	status, list = s.run("deploy", "--component", pkg, "local:")
	require.Equal(t, 10, status)
	require.Empty(t, outcomes(list), "it is known before that this fails")
	require.Condition(t, func() bool {
		return slices.ContainsFunc(list, func(e map[string]any) bool {
			said, _ := e["error"].(string)
			return strings.Contains(said, "the package rmhello needs root")
		})
	}, "%v", list)
	status, list = s.run("deploy", "--no-preflight", "--component", pkg, "local:")
	require.Equal(t, 10, status)
	require.Len(t, outcomes(list), 1)
	o := outcomes(list)[0]
	require.Equal(t, "Failed", o["outcome"])
	require.Equal(t, map[string]any{"space": "dpkg", "value": "2"}, o["code"])
	require.Contains(t, o["text"], "superuser privilege")
	require.Empty(t, s.installed("rmhello"))

	status, list = s.run("deploy", "--component", pkg, "local:", "--sudo")
	require.Equal(t, 10, status)
	require.Contains(t, list[0]["error"], "run the program itself under sudo")
	require.Empty(t, outcomes(list))

	s.host.Run("sh", "-ec", `mkdir /srv/tool; cd /srv/tool
		printf '#!/bin/sh\necho 2.0 >"$HOME/tool.version"\n' >setup
		cat >component.json <<'EOF'
{"name": "tool", "version": "2.0", "scheme": "numeric", "kinds": ["local"], "profile": "zero-ok",
 "probe": {"argv": ["/bin/cat", "/home/ops/tool.version"]},
 "files": [{"name": "setup"}], "install": ["./setup"]}
EOF`)
	for _, want := range []string{"Updated", "NotNeeded"} {
		status, list = s.run("deploy", "--component", "/srv/tool", "local:")
		require.Equal(t, 0, status)
		require.Equal(t, want, outcomes(list)[0]["outcome"])
	}
	s.clean()
	left := s.host.Run("find", "/home/ops/.cache", "!", "-type", "d")
	for file := range strings.FieldsSeq(left) {
		require.True(t, filepath.Base(file) == "agent.log" || filepath.Base(filepath.Dir(file)) == "jobs", "left on the host: %s", file)
	}
	require.Empty(t, strings.TrimSpace(s.host.Run("sh", "-c", "find /var/lib/roundsman /opt/roundsman 2>/dev/null || :")), "nothing of root's")
}

// TestLocalServiceStopped: a manager that is its host's agent, and a service of
// systemd, is stopped in the middle of a job, with everything in its unit. The job is
// in none of it, goes on, and is found.
func TestLocalServiceStopped(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"roundsman", withShims} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			m := newManagerOn(t, realtest.HostConfig{Systemd: true})
			s := newSiteOn(t, program, m)
			pkg := s.deb("rmslow", "1.0", waitFor)
			s.host.Run("systemd-run", "--unit=manager", "--collect", "--setenv=HOME=/root",
				"/usr/local/bin/"+program, "deploy", "--component", pkg, "local:", "--json")
			require.Eventually(t, func() bool { return s.runs("rmslow") == 1 }, 2*time.Minute, 100*time.Millisecond, "the installer did not start")
			s.host.Run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "manager")
			require.Eventually(t, func() bool {
				out, _ := s.host.Command(t.Context(), "systemctl", "is-active", "manager").Output()
				return strings.TrimSpace(string(out)) != "active"
			}, time.Minute, 100*time.Millisecond)
			require.Contains(t, s.host.Run("systemctl", "list-units", "--plain", "--no-legend", "roundsman-job-*"), "running", "the job is no unit of its own")
			s.host.Run("touch", "/var/lib/go-on")
			status, list := s.run("recover")
			require.Equal(t, 0, status)
			require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
			require.Equal(t, 1, s.runs("rmslow"), "installed twice")
			require.Eventually(t, func() bool {
				return strings.TrimSpace(s.host.Run("systemctl", "list-units", "--plain", "--no-legend", "--all", "roundsman-*")) == ""
			}, time.Minute, 100*time.Millisecond, "units are left")
		})
	}
}
