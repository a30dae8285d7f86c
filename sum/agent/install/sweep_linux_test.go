package install_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// agentPID returns the process of the agent in the lab's directory.
func (l *lab) agentPID() int {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir(), agent.ReadyName))
	require.NoError(l.t, err)
	var ready agent.Ready
	require.NoError(l.t, json.Unmarshal(data, &ready))
	require.Positive(l.t, ready.PID)
	return ready.PID
}

func TestRemoveOfADeadAgent(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	a := l.start(l.dial())
	script(t, a, "true") // something is in the store
	require.NoError(t, syscall.Kill(l.agentPID(), syscall.SIGKILL))
	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Empty(t, left, "no job ran, and nothing was wrong")
	l.requireClean()
	require.NoDirExists(t, l.dir())
}

// What Start made goes again, with the directories above, and nothing else.
func TestRemoveLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	outer := l.base
	l.base = filepath.Join(l.base, "opt", "agents")
	for _, there := range []string{"", outer} {
		if there != "" {
			require.NoError(t, os.Mkdir(there, 0o700))
		}
		left, err := l.start(l.dial()).Remove(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
		require.NoDirExists(t, filepath.Join(outer, "opt"))
		if there != "" {
			require.DirExists(t, there)
		} else {
			require.NoDirExists(t, outer)
		}
	}
}

// An agent that has a warning to tell leaves its log.
func TestRemoveLeavesWarnings(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	a := l.start(l.dial())
	log, err := os.OpenFile(l.dir()+"/agent.log", os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = log.WriteString("time=2026-01-01T00:00:00Z level=WARN msg=careful\n")
	require.NoError(t, err)
	require.NoError(t, log.Close())
	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{l.dir() + "/agent.log"}, left)
}

// Whoever begins, with an agent or as one, removes what is old.
func TestStartPrunes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(l *lab, o agent.StartOptions) agent.Agent{
		"agent": func(l *lab, o agent.StartOptions) agent.Agent {
			a, err := installer().Start(t.Context(), l.dial(), o)
			require.NoError(l.t, err)
			return a
		},
		"in process": func(l *lab, o agent.StartOptions) agent.Agent {
			conn, err := (&local.Transport{}).Dial(l.t.Context(), transport.Endpoint{})
			require.NoError(l.t, err)
			l.t.Cleanup(func() { _ = conn.Close(context.Background()) })
			a, err := (&install.Installer{InProcess: true}).Start(t.Context(), conn, o)
			require.NoError(l.t, err)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, sshtest.Config{})
			for keep, stays := range map[time.Duration]bool{0: false, time.Nanosecond: false, 31 * 24 * time.Hour: true, -1: true} {
				old := filepath.Join(l.base, "0123456789abcdef")
				require.NoError(t, os.MkdirAll(old, 0o700))
				require.NoError(t, os.WriteFile(old+"/agent.log", nil, 0o600))
				at := time.Now().Add(-30*24*time.Hour - time.Minute)
				require.NoError(t, os.Chtimes(old+"/agent.log", at, at))
				require.NoError(t, os.Chtimes(old, at, at))
				o := l.opts()
				o.KeepLogs = keep
				a := start(l, o)
				_, err := os.Stat(old)
				require.Equal(t, stays, err == nil, keep)
				left, err := a.Remove(t.Context())
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}
}

func TestSweepSparesARunningJob(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	a := l.start(l.dial())
	gate := filepath.Join(t.TempDir(), "gate")
	job := script(t, a, "echo waiting; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo done")
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := a.Status(t.Context(), job.ID, 0)
		return err == nil && s.State == agent.Running
	}, 20*time.Second, 20*time.Millisecond)
	_, err = a.Remove(t.Context())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	require.NoError(t, a.Close(t.Context()))
	require.NoError(t, syscall.Kill(l.agentPID(), syscall.SIGKILL))

	in := installer()
	_, err = in.Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	// Also if somebody deleted the agent's program.
	require.NoError(t, os.Remove(filepath.Join(l.dir(), agent.BinaryName)))
	_, err = in.Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	require.NoError(t, os.Remove(filepath.Join(l.dir(), agent.BinaryName)))
	_, err = (&install.Installer{Source: install.First()}).Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrNoBinary, "without the program nobody can tell, so nothing is deleted")
	require.DirExists(t, filepath.Join(l.dir(), "jobs", job.ID))

	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	require.Eventually(t, func() bool {
		_, err = in.Sweep(t.Context(), l.dial(), l.place())
		return err == nil
	}, 20*time.Second, 50*time.Millisecond, "%v", err)
	l.requireClean()
	log, err := os.ReadFile(filepath.Join(l.dir(), "jobs", job.ID+".log"))
	require.NoError(t, err)
	require.Equal(t, "waiting\ndone\n", string(log))
}

func TestSweepOfLiveAgentAndOfNothing(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	a := l.start(l.dial())
	left, err := installer().Sweep(t.Context(), l.dial(), a.Place())
	require.NoError(t, err)
	require.Empty(t, left)
	l.requireClean()
	left, err = installer().Sweep(t.Context(), l.dial(), agent.Place{ID: "x", Dir: l.base + "/x"})
	require.NoError(t, err)
	require.Empty(t, left)
	for _, p := range []agent.Place{{ID: "etc", Dir: "/etc"}, {ID: "x", Dir: l.base}} {
		_, err = installer().Sweep(t.Context(), l.dial(), p)
		require.ErrorIs(t, err, transport.ErrInvalid)
	}
}

func TestSweepWithoutAnybodyToAsk(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	keep := []string{"agent.log", "jobs/0123456789abcdef0123456789abcdef.json", "jobs/0123456789abcdef0123456789abcdef.log"}
	for _, name := range append([]string{"roundsman-agent.part", "bootstrap.json", "blobs/x/y", "jobs/note.log", "jobs/.tmp-1"}, keep...) {
		name = filepath.Join(l.dir(), name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, []byte("x"), 0o600))
	}
	conn := l.dial()
	left, err := (&install.Installer{Source: install.First()}).Sweep(t.Context(), conn, l.place())
	require.NoError(t, err)
	require.Len(t, left, 3)
	require.Equal(t, keep, files(t, l.dir()))
	require.Zero(t, conn.count("run"))
}

func TestFindLookAndLogs(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	a := l.start(conn)
	job := script(t, a, "echo hello")
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	finish(t, a, job.ID)
	require.NoError(t, os.MkdirAll(filepath.Join(l.base, "foreign", "things"), 0o700))

	found, err := install.Find(t.Context(), conn, []string{l.base + "/missing", l.base})
	require.NoError(t, err)
	require.Equal(t, []agent.Place{l.place()}, found)
	c, err := install.Look(t.Context(), conn, found[0])
	require.NoError(t, err)
	require.True(t, c.Exists && c.Binary && c.Lock)
	require.Len(t, c.Logs, 3)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	c, err = install.Look(t.Context(), conn, found[0])
	require.NoError(t, err)
	require.False(t, c.Binary || c.Lock)
	require.Empty(t, c.Rest)
	found, err = install.Find(t.Context(), conn, []string{l.base})
	require.NoError(t, err)
	require.Len(t, found, 1, "its logs are there still")

	got := map[string]*buffer{}
	require.NoError(t, install.Logs(t.Context(), conn, found[0], func(name string) (io.WriteCloser, error) {
		got[name] = &buffer{}
		return got[name], nil
	}))
	require.Len(t, got, 3)
	require.Equal(t, "hello\n", got[job.ID+".log"].String())
	require.NotEmpty(t, got[agent.LogName].String())
	for _, b := range got {
		require.True(t, b.closed)
	}
	disk := errors.New("disk is full")
	err = install.Logs(t.Context(), conn, found[0], func(string) (io.WriteCloser, error) { return nil, disk })
	require.ErrorIs(t, err, disk)
}

type buffer struct {
	bytes.Buffer
	closed bool
}

func (b *buffer) Close() error { b.closed = true; return nil }

// TestStartWithoutFirewall: an agent that may not open the host's firewall, or cannot,
// does not start, and nothing but its log stays. Nobody is told that more did.
func TestStartWithoutFirewall(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts real hosts")
	}
	t.Parallel()
	realtest.Need(t, "useradd")
	realtest.Need(t, "iptables-legacy")
	n := realtest.NewNet(t)
	for name, tt := range map[string]struct{ user, before string }{
		"no right":   {"op", "useradd -m -p '*' op"},
		"no program": {"root", "iptables-legacy -A INPUT -s 203.0.113.9 -j DROP && rm -f /usr/sbin/*legacy*"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &booted{Host: n.Host(realtest.HostConfig{SSHD: []string{"AuthorizedKeysFile /root/.ssh/authorized_keys", "StrictModes no"}}), t: t, ns: n.NS}
			h.Run("sh", "-ec", "chmod 755 /root /root/.ssh; chmod 644 /root/.ssh/authorized_keys; "+tt.before)
			base := "/var/tmp/" + tt.user
			_, err := installer().Start(t.Context(), h.dial(tt.user), agent.StartOptions{Target: "db1", ID: "m1-db1", BaseDirs: []string{base},
				Classic: &agent.Classic{OpenFirewall: true}})
			require.ErrorIs(t, err, agent.ErrStart)
			require.NotContains(t, err.Error(), "removed")
			require.Equal(t, base+"/m1-db1/agent.log\n", h.Run("find", base, "-type", "f"))
		})
	}
}

// TestSweepSaysWhy: a sweep that fails says why, and not what stays as it should.
func TestSweepSaysWhy(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	require.NoError(t, os.MkdirAll(l.dir(), 0o700))
	program := "#!/bin/sh\necho " + l.dir() + "/agent.log\necho the firewall is locked >&2\nexit 1\n"
	require.NoError(t, os.WriteFile(filepath.Join(l.dir(), agent.BinaryName), []byte(program), 0o700))
	_, err := installer().Sweep(t.Context(), l.dial(), l.place())
	require.ErrorContains(t, err, "the firewall is locked")
	require.NotContains(t, err.Error(), agent.LogName)
}
