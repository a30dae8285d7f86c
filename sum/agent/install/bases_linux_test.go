package install_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// TestOneJobInSpiteOfBases: where /var executes nothing, or takes no files, a manager
// comes to be in /opt. A job there and one of a manager that has begun in /var keep
// each other out, with an agent and without, and so does a restart that was asked for.
func TestOneJobInSpiteOfBases(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts real hosts")
	}
	t.Parallel()
	n := realtest.NewNet(t)
	kinds := map[string]*install.Installer{"agent": installer(), "agentless": {Agentless: true}}
	for first, in := range kinds {
		t.Run(first, func(t *testing.T) {
			h := &booted{Host: n.Host(realtest.HostConfig{}), t: t, ns: n.NS}
			h.Run("sh", "-ec", `rm -f /sbin/shutdown /usr/sbin/shutdown; printf '#!/bin/sh\nexit 0\n' >/usr/sbin/shutdown; chmod 755 /usr/sbin/shutdown`)
			begin := func(in *install.Installer, id string, bases ...string) agent.Agent {
				t.Helper()
				a, err := in.Start(t.Context(), h.dial("root"), agent.StartOptions{Target: "db1", ID: id, BaseDirs: bases})
				require.NoError(t, err)
				t.Cleanup(func() { _ = a.Close(context.Background()) })
				return a
			}
			holder := begin(in, "one")
			require.Equal(t, "/var/lib/roundsman/one", holder.Place().Dir)
			h.Run("sh", "-ec", "mount --bind /var/lib/roundsman /var/lib/roundsman; mount -o remount,bind,noexec /var/lib/roundsman")
			var others []agent.Agent
			for second, in := range kinds {
				bases := []string(nil) // where it finds out itself
				if second == "agentless" {
					bases = []string{"/opt/roundsman"}
				}
				o := begin(in, "other-"+second, bases...)
				require.Equal(t, "/opt/roundsman/other-"+second, o.Place().Dir)
				others = append(others, o)
			}
			h.Run("mount", "-o", "remount,bind,exec", "/var/lib/roundsman")
			busy := func(a agent.Agent, what string) {
				t.Helper()
				_, err := a.Install(t.Context(), script(t, a, "exit 0"))
				require.ErrorIs(t, err, agent.ErrHostBusy)
				require.ErrorContains(t, err, what)
				require.ErrorIs(t, a.Reboot(t.Context(), transport.RebootOptions{}), agent.ErrHostBusy)
			}
			run := func(a agent.Agent, name string, rest ...agent.Agent) {
				t.Helper()
				job := agent.Job{ID: script(t, a, "").ID, Component: name, Version: "1", Profile: agent.ProfileZeroOK,
					Argv: []string{"sh", "-c", "echo begun; until [ -e /run/go-on-" + name + " ]; do sleep 0.05; done"}}
				_, err := a.Install(t.Context(), job)
				require.NoError(t, err)
				require.Eventually(t, func() bool {
					st, err := a.Status(t.Context(), job.ID, 0)
					return err == nil && len(st.Log) > 0
				}, patience, 20*time.Millisecond)
				for _, o := range rest {
					busy(o, name)
				}
				h.Run("touch", "/run/go-on-"+name)
				st, _ := finish(t, a, job.ID)
				require.Equal(t, transport.VerdictApplied, st.Result.Verdict, st.Result.Text)
			}
			run(holder, "first", others...)
			for i, o := range others {
				run(o, []string{"second", "third"}[i], holder, others[1-i])
			}
			// What cannot be written can still be read.
			a := script(t, others[0], "exit 0")
			h.Run("mount", "-o", "remount,bind,ro", "/var/lib/roundsman")
			_, err := others[0].Install(t.Context(), a)
			require.NoError(t, err)
			finish(t, others[0], a.ID)

			// A restart, too, keeps jobs out, wherever they are.
			require.NoError(t, others[0].Reboot(t.Context(), transport.RebootOptions{Delay: 10 * time.Minute}))
			h.Run("mount", "-o", "remount,bind,rw", "/var/lib/roundsman")
			for _, o := range []agent.Agent{holder, others[0], others[1]} {
				_, err := o.Install(t.Context(), script(t, o, "exit 0"))
				require.ErrorIs(t, err, agent.ErrHostBusy)
				require.ErrorContains(t, err, "a restart of the host is due at 20")
				require.True(t, errors.Is(err, transport.ErrBusy))
			}
			// It can be brought forward, by anybody.
			require.NoError(t, holder.Reboot(t.Context(), transport.RebootOptions{Delay: 5 * time.Minute}))
			require.Equal(t, "1\n", h.Run("sh", "-c", "ls -d /var/lib/roundsman/.r* /opt/roundsman/.r* 2>/dev/null | wc -l"))
			// And after it nothing is in the way.
			h.Reboot()
			again := begin(in, "one")
			job := script(t, again, "exit 0")
			_, err = again.Install(t.Context(), job)
			require.NoError(t, err)
			st, _ := finish(t, again, job.ID)
			require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
			require.Equal(t, "0\n", h.Run("sh", "-c", "ls -d /var/lib/roundsman/.r* /opt/roundsman/.r* 2>/dev/null | wc -l"))
		})
	}
}
