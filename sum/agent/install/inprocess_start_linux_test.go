package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestInProcessChoosesTheDirectory(t *testing.T) {
	l := ownHost(t)
	noexec := filepath.Join(t.TempDir(), "noexec")
	conn := &noexecConn{Forward: transport.Forward{Conn: l.localConn()}, dir: noexec}
	in := &install.Installer{InProcess: true}
	opts := l.opts()
	opts.BaseDirs = []string{noexec}
	_, err := in.Start(t.Context(), conn, opts)
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.Contains(t, err.Error(), "mounted noexec")
	require.NoDirExists(t, noexec)
	opts.BaseDirs = []string{noexec, l.base}
	a, err := in.Start(t.Context(), conn, opts)
	require.NoError(t, err)
	require.Equal(t, l.dir(), a.Place().Dir)
	require.Equal(t, []string{l.id + "/agent.log", l.id + "/lease", l.id + "/lock"}, files(t, l.base))
	_, err = a.Remove(t.Context())
	require.NoError(t, err)

	full := errors.New("journal is full")
	opts.Opened = func(context.Context, agent.Place) error { return full }
	opts.ID = "another"
	_, err = in.Start(t.Context(), conn, opts)
	require.ErrorIs(t, err, full)
	require.NoDirExists(t, filepath.Join(l.base, "another"))
}

// TestInProcessStartLeavesNothing ends a start at each of its steps.
func TestInProcessStartLeavesNothing(t *testing.T) {
	for _, at := range []string{"stat", "mkdir", "put try.sh", "run try.sh", "remove"} {
		for _, line := range []bool{true, false} {
			t.Run(fmt.Sprint(at, ", the connection lives: ", line), func(t *testing.T) {
				l := ownHost(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				conn := l.localConn()
				begun := false
				conn.hook = func(op string) error {
					if begun || !strings.HasPrefix(op, at) {
						return nil
					}
					begun = true
					if line {
						cancel()
						return nil
					}
					return &transport.Error{Op: op, Kind: transport.ErrConnLost}
				}
				_, err := (&install.Installer{InProcess: true}).Start(ctx, conn, l.opts())
				if line {
					require.ErrorIs(t, err, context.Canceled)
				} else {
					require.ErrorIs(t, err, transport.ErrConnLost)
				}
				require.NoDirExists(t, filepath.Join(l.dir(), "blobs"))
				require.Empty(t, files(t, l.base))
			})
		}
	}
}

// TestInProcessElsewhere: a target that is not this host gets an agent as ever.
func TestInProcessElsewhere(t *testing.T) {
	l := ownHost(t)
	conn := &elsewhere{transport.Forward{Conn: l.localConn()}}
	a := l.startWith(&install.Installer{InProcess: true, Source: &built}, conn)
	require.FileExists(t, filepath.Join(l.dir(), agent.BinaryName))
	require.NotEmpty(t, l.processes())
	_, err := a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

type elsewhere struct{ transport.Forward }

// running reports whether a process runs, and is not only waited for.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// TestInProcessTakesOver: an agent of an earlier run that still serves has to go,
// and its job goes on.
func TestInProcessTakesOver(t *testing.T) {
	t.Parallel()
	for _, name := range []string{withShims, onItsOwn} {
		t.Run(name, func(t *testing.T) {
			l := ownHost(t)
			child := l.startWith(&install.Installer{Source: &built}, l.localConn())
			job, open := waiting(t, child)
			pid := l.agentPID()
			a := l.startWith(ways()[name], l.localConn())
			require.Eventually(t, func() bool { return !running(pid) }, time.Minute, 10*time.Millisecond, "two agents in one directory")
			require.NoFileExists(t, child.Place().Addr)
			_, err := a.Remove(t.Context())
			require.ErrorIs(t, err, agent.ErrJobRunning)
			open()
			s, _ := finish(t, a, job.ID)
			require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
		})
	}
}

// TestInProcessIsNotEnded: nobody ends a manager because of the directory in which
// it is the agent, not even itself.
func TestInProcessIsNotEnded(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]*install.Installer{
		"by a second agent of its own": {InProcess: true},
		"by a child":                   {Source: &built},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := ownHost(t)
			a := l.startWith(&install.Installer{InProcess: true}, l.localConn())
			_, err := next.Start(t.Context(), l.localConn(), l.opts())
			if next.InProcess {
				require.ErrorIs(t, err, transport.ErrBusy)
			} else {
				require.ErrorIs(t, err, agent.ErrStart)
			}
			require.ErrorContains(t, err, fmt.Sprint(os.Getpid()))
			_, err = a.Jobs(t.Context())
			require.NoError(t, err, "it goes on")
			_, err = next.Sweep(t.Context(), l.localConn(), l.place())
			require.Error(t, err)
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			_, err = next.Sweep(t.Context(), l.localConn(), l.place())
			require.NoError(t, err)
			l.requireClean()
		})
	}
}
