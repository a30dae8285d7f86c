package install_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// faulty is a manager that works on a booted container, and what is done to it.
type faulty struct {
	*container
	conn transport.Conn
	a    agent.Agent
	job  agent.Job
}

// login dials until the container answers.
func (f *faulty) login() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		conn, err := f.dial()
		if err == nil {
			f.conn = conn
		}
		return err == nil
	}, patience, 100*time.Millisecond, "it does not answer")
}

// start brings the agent, or finds what is left of it.
func (f *faulty) start(lease time.Duration) {
	f.t.Helper()
	opts := bootOpts()
	opts.Lease = lease
	var err error
	f.a, err = installer().Start(f.t.Context(), f.conn, opts)
	require.NoError(f.t, err)
}

// begin has a job run until the test says go.
func (f *faulty) begin() {
	f.t.Helper()
	f.run(f.conn, "rm", "-f", "/var/go-on", "/var/runs")
	f.job = script(f.t, f.a, `echo run >>/var/runs
i=0; while [ ! -e /var/go-on ] && [ $i -lt 1200 ]; do sleep 0.1; i=$((i+1)); done
echo told`)
	_, err := f.a.Install(f.t.Context(), f.job)
	require.NoError(f.t, err)
	require.Eventually(f.t, func() bool { return f.runs() == 1 }, patience, 50*time.Millisecond, "it does not begin")
}

func (f *faulty) runs() int {
	f.t.Helper()
	return strings.Count(f.run(f.conn, "sh", "-c", "cat /var/runs 2>/dev/null || :"), "run")
}

func (f *faulty) goOn() { f.run(f.conn, "touch", "/var/go-on") }

// hangUp lets go of agent and connection without a word to the agent, as a manager does
// that is killed.
func (f *faulty) hangUp() {
	_ = f.conn.Close(context.WithoutCancel(f.t.Context()))
	_ = f.a.Close(context.WithoutCancel(f.t.Context()))
}

// done checks that the job has ended well and ran once, and that nothing is left but
// logs once the agent goes.
func (f *faulty) done() {
	f.t.Helper()
	s, log := finish(f.t, f.a, f.job.ID)
	require.Equal(f.t, agent.Done, s.State, "%+v", s)
	require.Equal(f.t, 0, s.Exit.Code, "%+v", s)
	require.Equal(f.t, "told\n", log)
	require.Equal(f.t, 1, f.runs())
	f.gone(func() {
		_, err := f.a.Remove(f.t.Context())
		require.NoError(f.t, err)
	})
}

func (f *faulty) gone(remove func()) {
	f.t.Helper()
	remove()
	require.Eventually(f.t, func() bool {
		return f.run(f.conn, "sh", "-c", `systemctl list-units --all --plain --no-legend 'roundsman-*'; pgrep -f '[r]oundsman-agent' || true
			find /var/lib/roundsman ! -type d ! -name agent.log ! -path '*/jobs/*.json' ! -path '*/jobs/*.log'`) == ""
	}, patience, 100*time.Millisecond, "something is left")
}

func (f *faulty) cable(in bool) {
	f.t.Helper()
	out, err := exec.Command("ip", "-n", f.ns, "link", "set", "lo", map[bool]string{true: "up", false: "down"}[in]).CombinedOutput()
	require.NoError(f.t, err, "%s", out)
}

// served reports whether an agent runs, or the shim of a job. This machine can look
// while the cable is cut.
func (f *faulty) served() bool {
	f.t.Helper()
	out, err := exec.Command("ip", "netns", "pids", f.ns).Output()
	require.NoError(f.t, err)
	return slices.ContainsFunc(strings.Fields(string(out)), func(pid string) bool {
		argv, err := os.ReadFile("/proc/" + pid + "/cmdline") // it may have ended meanwhile
		return err == nil && bytes.Contains(argv, []byte(agent.BinaryName))
	})
}

// TestNspawnFaults: what the kill matrix does to hosts of namespaces, once to a server
// that is booted with all of its own services, while a program runs that is being
// installed.
func TestNspawnFaults(t *testing.T) {
	t.Parallel()
	f := &faulty{container: spawn(t)}
	t.Cleanup(func() {
		if f.conn != nil {
			_ = f.conn.Close(context.Background())
		}
	})
	on := func(name string, do func(t *testing.T)) {
		require.True(t, t.Run(name, func(t *testing.T) {
			old := f.t
			f.t = t
			defer func() { f.t = old }()
			f.login()
			do(t)
			f.hangUp()
		}))
	}
	on("agent killed", func(t *testing.T) {
		f.start(0)
		f.begin()
		f.run(f.conn, "systemctl", "kill", "--kill-whom=main", "-s", "KILL", agent.UnitName("m1-db1"))
		f.goOn()
		f.hangUp()
		f.login()
		f.start(0)
		f.done()
	})
	on("manager killed", func(t *testing.T) {
		f.start(0)
		f.begin()
		f.hangUp()
		f.login()
		f.goOn()
		f.start(0)
		f.done()
	})
	on("cable cut and returned", func(t *testing.T) {
		f.start(0)
		f.begin()
		f.cable(false)
		f.cable(true)
		f.hangUp()
		f.login()
		f.goOn()
		f.start(0)
		f.done()
	})
	on("cable cut for good", func(t *testing.T) {
		f.start(2 * time.Second)
		f.begin()
		f.goOn()
		require.True(t, f.served())
		f.cable(false)
		f.hangUp()
		require.Eventually(t, func() bool { return !f.served() }, patience, 50*time.Millisecond, "it outlives its lease")
		f.cable(true)
		f.login()
		f.gone(func() {})
		require.Equal(t, 1, f.runs())
		f.start(0)
		f.done()
	})
	on("disk full", func(t *testing.T) {
		f.run(f.conn, "sh", "-ec", "mkdir -p /var/lib/roundsman; mount -t tmpfs -o mode=755,size=32M none /var/lib/roundsman")
		f.start(0)
		f.begin()
		f.run(f.conn, "sh", "-c", "cat /dev/zero >/var/lib/roundsman/filler 2>/dev/null; [ -s /var/lib/roundsman/filler ]")
		f.goOn()
		s, _ := finish(t, f.a, f.job.ID)
		require.Equal(t, agent.Done, s.State, "the result is lost: %+v", s)
		require.Equal(t, 1, f.runs())
		f.run(f.conn, "rm", "/var/lib/roundsman/filler")
		f.gone(func() {
			_, err := f.a.Remove(t.Context())
			require.NoError(t, err)
		})
		f.run(f.conn, "umount", "/var/lib/roundsman")
	})
	on("restarted", func(t *testing.T) {
		f.start(0)
		f.begin()
		before, err := f.conn.Identify(t.Context())
		require.NoError(t, err)
		// At once, without stopping anything.
		_, _ = transport.Run(t.Context(), f.conn, transport.Command{Argv: []string{"systemctl", "reboot", "--force", "--force"}})
		f.hangUp()
		require.Eventually(t, func() bool {
			f.login()
			now, err := f.conn.Identify(t.Context())
			if err != nil || now.BootID == before.BootID {
				_ = f.conn.Close(t.Context())
				return false
			}
			return true
		}, patience, 100*time.Millisecond, "it does not restart")
		f.start(0)
		s, _ := finish(t, f.a, f.job.ID)
		require.Equal(t, agent.Interrupted, s.State, "%+v", s)
		require.Equal(t, before.BootID, s.BootID)
		require.Equal(t, 1, f.runs(), "it was started again")
		f.gone(func() {
			_, err := f.a.Remove(t.Context())
			require.NoError(t, err)
		})
	})
}
