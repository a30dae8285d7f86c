package install_test

import (
	"context"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen. It is no measure.
const patience = time.Minute

// booted is a Linux server on which systemd runs, reached over a real sshd.
type booted struct {
	*realtest.Host
	t  *testing.T
	ns string
}

func boot(t *testing.T, logind ...string) *booted {
	t.Helper()
	if testing.Short() {
		t.Skip("not run with -short: it boots a host")
	}
	n := realtest.NewNet(t)
	h := n.Host(realtest.HostConfig{Systemd: true, Logind: logind, SSHD: []string{
		"AuthorizedKeysFile /root/.ssh/authorized_keys", "StrictModes no",
	}})
	h.Run("chmod", "755", "/root", "/root/.ssh")
	h.Run("chmod", "644", "/root/.ssh/authorized_keys")
	return &booted{Host: h, t: t, ns: n.NS}
}

func (h *booted) dial(user string) transport.Conn {
	h.t.Helper()
	pem, err := os.ReadFile(h.Identity)
	require.NoError(h.t, err)
	key, err := xssh.ParsePrivateKey(pem)
	require.NoError(h.t, err)
	known, err := os.ReadFile(h.HostKey)
	require.NoError(h.t, err)
	_, hostKey, _ := strings.Cut(strings.SplitN(string(known), "\n", 2)[0], " ")
	conn, err := (&ssh.Transport{DialContext: dialIn(h.ns)}).Dial(h.t.Context(), transport.Endpoint{
		Address: h.Addr, Credentials: transport.Credentials{User: user},
		Trust: transport.Trust{HostKeys: []string{hostKey}}, Options: ssh.Options{Signers: []xssh.Signer{key}},
	})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// dialIn dials from a network namespace.
func dialIn(ns string) transport.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		answer := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // and the thread ends with this goroutine
			there, err := os.Open("/run/netns/" + ns)
			if err == nil {
				defer there.Close()
				err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
			}
			if err != nil {
				answer <- result{err: err}
				return
			}
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			answer <- result{c, err}
		}()
		r := <-answer
		return r.conn, r.err
	}
}

func (h *booted) await(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("%s did not come about; units:\n%s\nagent.log:\n%s\njournal:\n%s", what, strings.Join(h.units(), "\n"),
				h.Run("sh", "-c", "tail -n 30 /var/lib/roundsman/*/agent.log /home/*/.cache/roundsman/*/agent.log; true"),
				h.Run("journalctl", "--no-pager", "-n", "40"))
		}
	}
}

// units lists our units that systemd knows in any state. args may be --user.
func (h *booted) units(args ...string) []string {
	h.t.Helper()
	args = append(append([]string{}, args...), "list-units", "--all", "--plain", "--no-legend", "--no-pager", "roundsman-*")
	var out []string
	for line := range strings.Lines(h.Run("systemctl", args...)) {
		out = append(out, strings.Fields(line)[0])
	}
	return out
}

func (h *booted) property(unit, name string) string {
	h.t.Helper()
	return strings.TrimSpace(h.Run("systemctl", "show", "--value", "--property="+name, unit))
}

// group is the control group of a process, as systemd sees it.
func (h *booted) group(pid string) string {
	h.t.Helper()
	for line := range strings.Lines(h.Run("cat", "/proc/"+pid+"/cgroup")) {
		if group, ok := strings.CutPrefix(line, "0::"); ok {
			return path.Base(strings.TrimSpace(group))
		}
	}
	h.t.Fatal("no control group")
	return ""
}

func (h *booted) alive(pid string) bool {
	return h.Command(context.Background(), "kill", "-0", pid).Run() == nil
}

func (h *booted) read(name string) string {
	return strings.TrimSpace(h.Run("sh", "-c", `cat "$1" 2>/dev/null || true`, "sh", name))
}

// start starts the agent m1-db1 anew.
func (h *booted) start(conn transport.Conn) agent.Agent {
	h.t.Helper()
	a, err := installer().Start(h.t.Context(), conn, bootOpts())
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

func bootOpts() agent.StartOptions { return agent.StartOptions{Target: "db1", ID: "m1-db1"} }

// begin installs a job that runs until the file /run/go-on-<name> is there and
// then exits with 3. It returns the number of its process.
func (h *booted) begin(a agent.Ops, name string, noKill bool) (agent.Job, string) {
	h.t.Helper()
	dir := "/run/"
	if _, err := h.Command(h.t.Context(), "test", "-d", "/home/ops").Output(); err == nil {
		dir = "/tmp/"
	}
	job := script(h.t, a, `echo $$ >`+dir+name+`.pid.new; mv `+dir+name+`.pid.new `+dir+name+`.pid
i=0; while [ ! -e `+dir+`go-on-`+name+` ] && [ $i -lt 6000 ]; do sleep 0.1; i=$((i+1)); done
echo went on; exit 3`)
	job.NoKill = noKill
	_, err := a.Install(h.t.Context(), job)
	require.NoError(h.t, err)
	var pid string
	h.await("the start of "+name, func() bool { pid = h.read(dir + name + ".pid"); return pid != "" })
	return job, pid
}

func (h *booted) goOn(name string) { h.Run("touch", "/run/go-on-"+name, "/tmp/go-on-"+name) }

func (h *booted) requireDone(a agent.Ops, id string) {
	h.t.Helper()
	s, log := finish(h.t, a, id)
	require.Equal(h.t, agent.Done, s.State, s.Result.Text)
	require.Equal(h.t, &transport.Exit{Code: 3}, s.Exit)
	require.Equal(h.t, "went on\n", log)
}

// requireClean asserts that there is neither unit nor process nor any file but logs.
func (h *booted) requireClean(dir string) {
	h.t.Helper()
	h.await("the end of all units", func() bool { return len(h.units()) == 0 })
	require.Empty(h.t, strings.TrimSpace(h.Run("sh", "-c", "pgrep -f '[r]oundsman-agent' || true")))
	for name := range strings.FieldsSeq(h.Run("sh", "-c", "! [ -e "+dir+" ] || find "+dir+" -type f")) {
		require.Contains(h.t, []string{".log", ".json"}, filepath.Ext(name), "left behind: %s", name)
		require.NotContains(h.t, []string{agent.BootstrapName, agent.ReadyName}, filepath.Base(name))
	}
}

const bootDir = "/var/lib/roundsman/m1-db1"

func TestUnderSystemd(t *testing.T) {
	t.Parallel()
	h := boot(t)
	conn := h.dial("root")
	a := h.start(conn)
	unit := agent.UnitName("m1-db1")
	require.Equal(t, "roundsman-agent-m1-db1.service", unit)
	require.Equal(t, []string{unit}, h.units())
	require.Equal(t, "active", h.property(unit, "ActiveState"))
	require.Equal(t, "exec", h.property(unit, "Type"))
	require.Equal(t, "0077", h.property(unit, "UMask"))
	require.Equal(t, "infinity", h.property(unit, "RuntimeMaxUSec"))
	first := h.property(unit, "MainPID")
	require.Equal(t, unit, h.group(first))
	require.NotContains(t, h.Run("systemctl", "show", unit), "KEY")
	for _, e := range strings.Fields(h.property(unit, "Environment")) {
		name, _, _ := strings.Cut(e, "=")
		require.Contains(t, []string{"PATH", "HOME", "LANG"}, name)
	}

	// A job has a unit of its own and survives the stop of the agent's.
	job, program := h.begin(a, "stopped", false)
	jobUnit := agent.JobUnitName("m1-db1", job.ID)
	require.Equal(t, "roundsman-job-m1-db1-"+job.ID+".service", jobUnit)
	require.Equal(t, jobUnit, h.group(program))
	require.Equal(t, jobUnit, h.group(h.property(jobUnit, "MainPID")))
	require.Contains(t, h.Run("cat", "/proc/"+first+"/status"), "Umask:\t0022", "for the programs of an inventory")
	require.Empty(t, h.Run("find", bootDir, "-perm", "/077", "-not", "-path", "*/work/*"), "for its user alone")
	h.Run("systemctl", "stop", unit)
	require.Equal(t, []string{jobUnit}, h.units())
	require.True(t, h.alive(program))
	require.NoError(t, a.Close(t.Context()))
	a = h.start(conn)
	require.NotEqual(t, first, h.property(unit, "MainPID"))
	s, err := a.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Running, s.State)

	// It survives the death of the agent, whose failed unit is not kept, and ends
	// while there is none.
	h.Run("kill", "-9", h.property(unit, "MainPID"))
	h.await("the end of the agent", func() bool { return len(h.units()) == 1 })
	require.True(t, h.alive(program))
	h.goOn("stopped")
	h.await("the record", func() bool {
		return strings.Contains(h.read(bootDir+"/jobs/"+job.ID+".json"), `"Done"`)
	})
	a = h.start(conn)
	h.requireDone(a, job.ID)

	// A start takes over from an agent that runs.
	before := h.property(unit, "MainPID")
	a = h.start(conn)
	require.NotEqual(t, before, h.property(unit, "MainPID"))
	require.Contains(t, h.units(), unit)

	// The unit of a job that must not be interrupted cannot be stopped.
	job, program = h.begin(a, "flash", true)
	jobUnit = agent.JobUnitName("m1-db1", job.ID)
	h.Run("systemctl", "stop", "--no-block", jobUnit)
	h.await("the news in agent.log", func() bool {
		return strings.Contains(h.read(bootDir+"/agent.log"), "must not be interrupted and goes on")
	})
	require.True(t, h.alive(program))
	require.Equal(t, "deactivating", h.property(jobUnit, "ActiveState"))
	h.goOn("flash")
	h.requireDone(a, job.ID)

	// That of any other job can.
	job, program = h.begin(a, "ordinary", false)
	h.Run("systemctl", "stop", agent.JobUnitName("m1-db1", job.ID))
	require.False(t, h.alive(program))
	s, _ = finish(t, a, job.ID)
	require.Equal(t, agent.Interrupted, s.State)
	require.Equal(t, &transport.Exit{Code: -1, Signal: "TERM"}, s.Exit)
	require.Equal(t, transport.VerdictUnknown, s.Result.Verdict)
	require.Contains(t, s.Result.Text, "systemd stopped its unit")

	// The death of the shim is not that of the program.
	job, program = h.begin(a, "orphan", false)
	jobUnit = agent.JobUnitName("m1-db1", job.ID)
	h.Run("kill", "-9", h.property(jobUnit, "MainPID"))
	h.await("the end of the shim", func() bool { return h.property(jobUnit, "MainPID") == "0" })
	require.True(t, h.alive(program))
	s, err = a.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Running, s.State)
	h.goOn("orphan")
	s, _ = finish(t, a, job.ID)
	require.Equal(t, agent.Interrupted, s.State)

	// What a program leaves behind is not ended with it.
	job = script(t, a, "sleep 600 >/dev/null 2>&1 & echo $! >/run/daemon.pid")
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	s, _ = finish(t, a, job.ID)
	require.Equal(t, agent.Done, s.State)
	jobUnit, program = agent.JobUnitName("m1-db1", job.ID), h.read("/run/daemon.pid")
	h.await("the end of the unit", func() bool { return h.property(jobUnit, "ActiveState") == "inactive" })
	require.True(t, h.alive(program))
	require.Equal(t, jobUnit, h.group(program))

	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 11)
	h.Run("kill", program)
	h.requireClean(bootDir)
	require.NotContains(t, h.read(bootDir+"/agent.log"), "session of its own")
}

// TestUnderSystemdNothingStays: neither after the lease, nor after a sweep, nor
// where the shim of a job cleans up after an agent that was killed.
func TestUnderSystemdNothingStays(t *testing.T) {
	t.Parallel()
	h := boot(t)
	conn := h.dial("root")
	opts := bootOpts()
	opts.Lease = time.Second
	unit := agent.UnitName(opts.ID)

	a, err := installer().Start(t.Context(), conn, opts)
	require.NoError(t, err)
	require.Equal(t, []string{unit}, h.units())
	require.NoError(t, a.Close(t.Context()))
	h.requireClean(bootDir)

	a, err = installer().Start(t.Context(), conn, opts)
	require.NoError(t, err)
	_, program := h.begin(a, "last", false)
	h.Run("kill", "-9", h.property(unit, "MainPID"))
	require.NoError(t, a.Close(t.Context()))
	h.await("the end of the agent", func() bool { return len(h.units()) == 1 })
	require.True(t, h.alive(program))
	h.goOn("last")
	h.requireClean(bootDir)

	a = h.start(conn)
	_, err = installer().Sweep(t.Context(), conn, a.Place())
	require.NoError(t, err)
	h.requireClean(bootDir)

	h.start(conn)
	h.Run("kill", "-9", h.property(unit, "MainPID"))
	_, err = installer().Sweep(t.Context(), conn, a.Place())
	require.NoError(t, err)
	h.requireClean(bootDir)
}

// TestLogout: what the agent of root, or of a user who lingers, does goes on when
// the session is over of which logind kills the rest.
func TestLogout(t *testing.T) {
	t.Parallel()
	h := boot(t, "KillUserProcesses=yes", "KillExcludeUsers=")
	h.Run("useradd", "-m", "-k", "/nonexistent", "-p", "*", "-s", "/bin/sh", "ops")
	h.Run("useradd", "-m", "-k", "/nonexistent", "-p", "*", "-s", "/bin/sh", "guest")
	h.Run("loginctl", "enable-linger", "ops")
	uid := strings.TrimSpace(h.Run("id", "-u", "ops"))
	h.await("the service manager of the user", func() bool {
		return h.Command(t.Context(), "test", "-S", "/run/user/"+uid+"/systemd/private").Run() == nil
	})
	type run struct {
		user, group, program, agent string
		job                         agent.Job
	}
	runs := []*run{{user: "root"}, {user: "ops"}, {user: "guest"}}
	for _, r := range runs {
		conn := h.dial(r.user)
		a := h.start(conn)
		r.job, r.program = h.begin(a, r.user, true)
		r.agent = strings.TrimSpace(h.Run("sh", "-c", `pgrep -u "$1" -f '[r]oundsman-agent serve'`, "sh", r.user))
		r.group = h.group(r.agent)
		require.NotContains(t, r.agent, "\n")
		switch r.user {
		case "guest":
			require.Regexp(t, `^session-[0-9]+\.scope$`, r.group)
		default:
			require.Equal(t, agent.UnitName("m1-db1"), r.group)
			require.Equal(t, agent.JobUnitName("m1-db1", r.job.ID), h.group(r.program))
		}
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, conn.Close(t.Context()))
	}
	// The guest's may stay as long as its job's shim, which catches SIGTERM.
	h.await("the end of the sessions", func() bool {
		list := h.Run("loginctl", "list-sessions", "--no-legend")
		return !strings.Contains(list, " root ") && !strings.Contains(list, " ops ")
	})
	for _, r := range runs {
		if r.user == "guest" { // else the test would prove nothing
			h.await("the end of the guest's processes", func() bool { return !h.alive(r.agent) && !h.alive(r.program) })
			continue
		}
		require.True(t, h.alive(r.agent), r.user)
		require.True(t, h.alive(r.program), r.user)
		h.goOn(r.user)
		a := h.start(h.dial(r.user))
		h.requireDone(a, r.job.ID)
		_, err := a.Remove(t.Context())
		require.NoError(t, err)
	}
	h.Run("sh", "-c", "pkill -KILL -u guest || true")
	h.requireClean(bootDir)
	h.await("the end of the user's units", func() bool { return len(h.units("--user", "--machine=ops@")) == 0 })
}

// TestSystemdRefuses: then everything works as without it, and agent.log says so.
func TestSystemdRefuses(t *testing.T) {
	t.Parallel()
	h := boot(t)
	h.Run("mv", "/usr/bin/systemd-run", "/usr/bin/systemd-run.real")
	h.Run("sh", "-c", `printf '#!/bin/sh\n[ "$1" = --version ] && exec "$0.real" --version\necho refused by policy >&2\nexit 1\n' >/usr/bin/systemd-run
chmod 755 /usr/bin/systemd-run`)
	a := h.start(h.dial("root"))
	require.Empty(t, h.units())
	job, _ := h.begin(a, "anyway", false)
	h.goOn("anyway")
	h.requireDone(a, job.ID)
	log := h.read(bootDir + "/agent.log")
	require.Contains(t, log, "systemd cannot start the agent, which becomes a session of its own")
	require.Contains(t, log, "systemd cannot start the shim of a job, which becomes a session of its own")
	require.Contains(t, log, "refused by policy")
	_, err := a.Remove(t.Context())
	require.NoError(t, err)
	h.requireClean(bootDir)
}
