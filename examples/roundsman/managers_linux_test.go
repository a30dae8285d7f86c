package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
)

// counting is a component whose program counts its runs, notes when it overlaps
// with another, and takes as long as the test wants.
func counting(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "component.json"), []byte(`{"name": "counting", "version": "`+version+`", "scheme": "numeric",
 "probe": {"argv": ["cat", "/var/lib/counting.version"]}, "files": [{"name": "run.sh", "executable": true}],
 "install": ["./run.sh", "`+version+`"], "profile": "zero-ok"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run.sh"), []byte(`#!/bin/sh
mkdir /var/lib/counting.alone || echo overlap >>/var/lib/counting.overlaps
echo run >>/var/lib/counting.runs
`+waitFor+`
sleep 0.3
echo "$1" >/var/lib/counting.version
rmdir /var/lib/counting.alone
`), 0o700))
	return dir
}

// another manager has a journal of its own, and so an agent of its own.
func (m *manager) another() *manager {
	o := *m
	o.journal = m.t.TempDir()
	return &o
}

func (m *manager) noOverlap() {
	m.t.Helper()
	require.Empty(m.t, strings.TrimSpace(m.host.Run("sh", "-c", "cat /var/lib/counting.overlaps 2>/dev/null || :")))
}

// Managers that do not know of each other deploy to one host at once: one program
// runs at a time, and the others are told what does.
func TestRealManagers(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	c := counting(t, "1.0")
	cmd, out := m.startDeploy(c, "counting")
	for _, flags := range [][]string{nil, {"--agentless"}} {
		o := m.another()
		status, list := o.run(append([]string{"deploy", "--component", c, m.target()}, flags...)...)
		require.NotZero(t, status)
		require.Len(t, outcomes(list), 1)
		got := outcomes(list)[0]
		require.Equal(t, "Failed", got["outcome"])
		require.Contains(t, got["text"], `"counting 1.0" runs there since 20`)
		require.Contains(t, got["text"], "run again when that has ended")
		require.Equal(t, 1, m.runs("counting"))
		// Nothing of it is pending.
		status, list = o.run("recover", m.target())
		require.Zero(t, status)
		require.Empty(t, outcomes(list))
	}
	m.host.Run("touch", "/var/lib/go-on")
	require.NoError(t, cmd.Wait(), "%s", out)
	require.Equal(t, "Updated", outcomes(events(t, out.Bytes()))[0]["outcome"])
	o := m.another()
	status, list := o.run("deploy", "--component", c, m.target())
	require.Zero(t, status)
	require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"], "as it was told")
	require.Equal(t, 1, m.runs("counting"))
	m.clean()

	// All at once.
	m.host.Run("rm", "/var/lib/go-on")
	next := counting(t, "2.0")
	ended := make(chan string)
	var managers sync.WaitGroup
	for i := range 4 {
		args := []string{"deploy", "--component", next, m.target(), "--json"}
		if i%2 == 1 {
			args = append(args, "--agentless")
		}
		cmd := m.another().command(args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		managers.Go(func() {
			_ = cmd.Wait()
			ended <- out.String()
		})
	}
	for i := range 4 {
		if i == 3 { // the one that has the host
			m.host.Run("touch", "/var/lib/go-on")
		}
		said := <-ended
		o := outcomes(events(t, []byte(said)))
		require.Len(t, o, 1, said)
		if i == 3 {
			require.Equal(t, "Updated", o[0]["outcome"], said)
			break
		}
		require.Equal(t, "Failed", o[0]["outcome"], said)
		require.Contains(t, o[0]["text"], `"counting 2.0" runs there since 20`)
	}
	managers.Wait()
	require.Equal(t, 2, m.runs("counting"))
	m.noOverlap()
	m.clean()
}

// A job that holds the host when that goes down does not hold it afterwards.
func TestRealManagersAfterReboot(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	c := counting(t, "1.0")
	cmd, _ := m.startDeploy(c, "counting")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	m.host.Run("sh", "-c", "ls -a /var/lib/roundsman | grep -q '^[.]roundsman-job-'")
	m.host.Reboot()
	m.host.Run("touch", "/var/lib/go-on")
	m.host.Run("sh", "-c", "rmdir /var/lib/counting.alone")
	o := m.another()
	status, list := o.run("deploy", "--component", c, m.target())
	require.Zero(t, status)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
	require.Equal(t, 2, m.runs("counting"))
	// The first finds out what became of its own.
	status, list = m.run("recover", m.target())
	require.Zero(t, status)
	require.Len(t, outcomes(list), 1)
	require.Equal(t, "Updated", outcomes(list)[0]["outcome"], "by an inventory")
	require.Eventually(t, func() bool {
		return strings.TrimSpace(m.host.Run("sh", "-c", "ls -a /var/lib/roundsman | grep '^[.]roundsman-job-' || :")) == ""
	}, 30*time.Second, 100*time.Millisecond)
	m.clean()
}

// An inventory leaves nothing, not even a log.
func TestRealInventoryLeavesNothing(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	for _, flags := range [][]string{nil, {"--agentless"}, {"--keep-logs=-1s"}} {
		status, _ := m.another().run(append([]string{"inventory", m.target()}, flags...)...)
		require.Zero(t, status)
		require.Empty(t, strings.TrimSpace(m.host.Run("sh", "-c", "find /var/lib/roundsman /opt/roundsman -mindepth 1 2>/dev/null || :")))
	}
	m.clean()
}

// A probe leaves what a killed run left where it is, says that its job runs, and says
// nothing once that has ended.
func TestRealProbeBesideKilled(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"agent": nil, "agentless": {"--agentless"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			cmd, _ := m.startDeploy(counting(t, "1.0"), "counting", flags...)
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			before, agents := tree(m.host), programs(m.host)
			status, found := m.probed(nil, append(flags, m.target())...)
			require.Equal(t, 10, status)
			busy := one(t, found, sum.FindBusy, 0, "")
			require.Equal(t, sum.Blocks, busy.Severity, "%v", busy)
			require.Contains(t, busy.Text, "counting 1.0")
			require.Contains(t, busy.Advice, "finish it by roundsman recover")
			require.Len(t, sum.Blocking(found), 1)
			unchanged(t, m.host, before)
			nothingNew(t, m.host, agents)
			require.Contains(t, strings.Join(programs(m.host), "\n"), "run.sh")

			m.host.Run("touch", "/var/lib/go-on")
			require.Eventually(t, func() bool {
				return m.host.Run("sh", "-c", "ls -a /var/lib/roundsman | grep '^[.]roundsman-job-' || :") == ""
			}, time.Minute, 100*time.Millisecond, "the job has not ended")
			before, agents = tree(m.host), programs(m.host)
			status, found = m.probed(nil, append(flags, m.target())...)
			require.Zero(t, status)
			require.Equal(t, sum.Passed, one(t, found, sum.FindBusy, 0, "").Severity)
			unchanged(t, m.host, before)
			nothingNew(t, m.host, agents)

			status, list := m.run("recover")
			require.Zero(t, status)
			require.Len(t, outcomes(list), 1)
			require.Equal(t, "Updated", outcomes(list)[0]["outcome"])
			require.Equal(t, 1, m.runs("counting"))
			m.clean()
		})
	}
}

// nothingNew waits until no program runs on a host that did not run before: sessions of
// sshd take a while to end. What the killed run left may end meanwhile: an agent that
// loses its lease, the shell of a lost line, the shim of a job that is done.
func nothingNew(t *testing.T, h *realtest.Host, before []string) {
	t.Helper()
	var added []string
	require.Eventually(t, func() bool {
		added = slices.DeleteFunc(programs(h), func(p string) bool { return slices.Contains(before, p) })
		return len(added) == 0
	}, time.Minute, 300*time.Millisecond, "%v", &added)
}

// programs are the programs that run on a host but for what a shell that waits runs.
// By name, since such a shell has a child at times, with its own command line until
// that runs sleep.
func programs(h *realtest.Host) []string {
	return slices.DeleteFunc(h.Processes(), func(p string) bool {
		return strings.HasPrefix(p, "sleep ") || strings.HasPrefix(p, "ps ") || strings.HasSuffix(p, "<defunct>")
	})
}
