package install_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// TestWindowsSweepSparesARunningJob: whatever became of the agent and its program, only
// the program itself can say that no job runs.
func TestWindowsSweepSparesARunningJob(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
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
	in := winInstaller()
	_, err = in.Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	svc, ok := l.scm.Lookup(agent.ServiceName(l.id))
	require.True(t, ok && svc.State == smbtest.Running, "the agent of a job goes on")
	_, err = a.Jobs(t.Context())
	require.NoError(t, err)
	require.NoError(t, a.Close(t.Context()))

	// The manager dies, the agent is killed, and another manager process comes.
	require.NoError(t, syscall.Kill((&lab{t: t, base: filepath.Dir(l.dir()), id: l.id}).agentPID(), syscall.SIGKILL))
	_, err = in.Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrJobRunning)
	require.NoError(t, os.Remove(l.dir(agent.WindowsBinaryName)))
	_, err = in.Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrJobRunning, "the program is sent again")
	require.NoError(t, os.Remove(l.dir(agent.WindowsBinaryName)))
	_, err = (&install.Installer{Source: install.First()}).Sweep(t.Context(), l.dial(), l.place())
	require.ErrorIs(t, err, agent.ErrNoBinary, "without the program nobody can tell, so nothing is deleted")
	require.DirExists(t, l.dir("jobs", job.ID))
	require.Empty(t, l.removal(), "the service that asked is gone")

	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	require.Eventually(t, func() bool {
		_, err = in.Sweep(t.Context(), l.dial(), l.place())
		return err == nil
	}, 20*time.Second, 50*time.Millisecond, "%v", err)
	l.requireClean()
	log, err := os.ReadFile(l.dir("jobs", job.ID+".log"))
	require.NoError(t, err)
	require.Equal(t, "waiting\ndone\n", string(log))
}

// removal returns the services of the command remove.
func (l *winLab) removal() (names []string) {
	for _, svc := range l.scm.List() {
		if svc.Name == agent.RemoveServiceName(l.id) {
			names = append(names, svc.Name)
		}
	}
	return names
}

// Whoever was killed while it swept left a service, too.
func TestWindowsSweepTakesARemovalOver(t *testing.T) {
	t.Parallel()
	for _, state := range []smbtest.State{smbtest.Stopped, smbtest.Running} {
		l := newWinLab(t, true)
		require.NoError(t, l.start(l.dial()).Close(t.Context()))
		l.add(agent.RemoveServiceName(l.id), state)
		_, err := winInstaller().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
		l.requireNothing()
	}
}

// TestWindowsSweepFaults: what goes wrong while it is swept is said, with what is left,
// and the next sweep goes on.
func TestWindowsSweepFaults(t *testing.T) {
	t.Parallel()
	asked := []string{agent.WindowsBinaryName, "lock", agent.ReadyName}
	for name, tt := range map[string]struct {
		files  []string
		faults smbtest.Faults
		run    func(l *winLab) error // the command remove
		kinds  []error
		code   transport.Code
		says   []string
	}{
		"the command fails": {files: asked, run: func(l *winLab) error { l.scm.Exit(agent.RemoveServiceName(l.id), smbtest.ErrSpecific, 1); return nil },
			code: transport.Code{Space: "service", Value: "1"}, says: []string{`see C:\Windows\roundsman\m1-win1\agent.log`}},
		"the command crashes": {files: asked, faults: smbtest.Faults{ExitCode: smbtest.ErrProcessAborted}, code: win32("1067")},
		"no room": {files: asked, run: func(l *winLab) error {
			l.scm.Exit(agent.RemoveServiceName(l.id), smbtest.ErrSpecific, agent.ExitNoSpace)
			return nil
		}, kinds: []error{transport.ErrNoSpace}},
		"a job runs": {files: asked, run: func(l *winLab) error {
			l.scm.Exit(agent.RemoveServiceName(l.id), smbtest.ErrSpecific, agent.ExitJobRunning)
			return nil
		}, kinds: []error{agent.ErrJobRunning}},
		"it cannot run, and there is a job": {files: append([]string{"jobs/0123456789abcdef0123456789abcdef/spec.json"}, asked...), faults: smbtest.Faults{StartError: 225},
			kinds: []error{agent.ErrStart}, says: []string{"a job may be using"}},
		"it does not come up": {files: asked, faults: smbtest.Faults{StartError: smbtest.ErrStartTimeout}, kinds: []error{transport.ErrTimeout}},
		"no rights":           {files: asked, faults: smbtest.Faults{Denied: true}, code: win32("5"), says: []string{"UAC"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newWinLab(t, false)
			l.write(tt.files...)
			l.add(agent.ServiceName(l.id), smbtest.Stopped)
			if tt.run != nil {
				l.act = func(string) error { return tt.run(l) }
			}
			l.scm.SetFaults(tt.faults)
			_, err := winInstaller().Sweep(t.Context(), l.dial(), l.place())
			require.Error(t, err)
			for _, kind := range tt.kinds {
				require.ErrorIs(t, err, kind)
			}
			if tt.code != (transport.Code{}) {
				require.Equal(t, tt.code, transport.CodeOf(err))
			}
			for _, text := range tt.says {
				require.ErrorContains(t, err, text)
			}
			require.Len(t, files(t, l.dir()), len(tt.files), "nothing is deleted")
			require.Empty(t, l.removal())

			l.scm.SetFaults(smbtest.Faults{})
			l.act = func(name string) error {
				for _, f := range tt.files[:len(tt.files)-len(asked)] {
					require.NoError(t, os.RemoveAll(filepath.Dir(l.dir(f))))
				}
				l.scm.Exit(name, 0, 0)
				return nil
			}
			left, err := winInstaller().Sweep(t.Context(), l.dial(), l.place())
			require.NoError(t, err)
			require.Empty(t, left)
			l.requireNothing()
		})
	}
}

// A program of ours that never could run left nothing that runs.
func TestWindowsSweepWithoutTheProgram(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	keep := []string{"agent.log", "jobs/0123456789abcdef0123456789abcdef.json", "jobs/0123456789abcdef0123456789abcdef.log"}
	l.write(append([]string{"lock", agent.BootstrapName, "blobs/x", "jobs/.tmp-1", "." + agent.WindowsBinaryName + ".part"}, keep...)...)
	left, err := (&install.Installer{Source: install.First()}).Sweep(t.Context(), l.dial(), l.place())
	require.NoError(t, err)
	require.Len(t, left, 3)
	require.Equal(t, keep, files(t, l.dir()))
	l.requireClean()
}

// TestWindowsProgramInUse: what runs cannot be deleted. It is waited for, and when that
// takes too long named.
func TestWindowsProgramInUse(t *testing.T) {
	t.Parallel()
	t.Run("for a moment", func(t *testing.T) {
		t.Parallel()
		l := newWinLab(t, false)
		l.write(agent.WindowsBinaryName, "blobs/x")
		release, err := l.srv.Hold("ADMIN$", `roundsman\m1-win1\`+agent.WindowsBinaryName)
		require.NoError(t, err)
		conn := l.dial()
		conn.hook = func(op string) error {
			if strings.HasPrefix(op, "remove") && strings.HasSuffix(op, agent.WindowsBinaryName) {
				l.wg.Go(func() { time.Sleep(300 * time.Millisecond); release() }) // while the driver insists
			}
			return nil
		}
		left, err := winInstaller().Sweep(t.Context(), conn, l.place())
		require.NoError(t, err)
		require.Empty(t, left)
		l.requireNothing()
	})
	t.Run("for too long", func(t *testing.T) {
		t.Parallel()
		l := newWinLab(t, false)
		l.write(agent.WindowsBinaryName, "blobs/x", "lock")
		l.act = func(name string) error { l.scm.Exit(name, 0, 0); return os.Remove(l.dir("lock")) }
		release, err := l.srv.Execute("ADMIN$", `roundsman/m1-win1/`+agent.WindowsBinaryName)
		require.NoError(t, err)
		_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
		require.Error(t, err)
		require.ErrorContains(t, err, `C:\Windows\roundsman\m1-win1\`+agent.WindowsBinaryName+" is left")
		require.ErrorContains(t, err, "everything else but logs is removed")
		require.Equal(t, []string{agent.WindowsBinaryName}, files(t, l.dir()))
		require.Empty(t, l.scm.List())
		require.NoError(t, release())
		_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
		l.requireNothing()
	})
}

// TestWindowsDeletePending: of a file that was deleted while a virus scanner has it open
// the name goes later, and until then no directory is empty.
func TestWindowsDeletePending(t *testing.T) {
	t.Parallel()
	full := &transport.Error{Op: "remove", Kind: fs.ErrExist, Code: transport.Code{Space: "ntstatus", Value: "0xC0000101"}}
	for name, tt := range map[string]struct {
		times int // that the directory is full; -1 is for good
		fault error
		says  string
	}{
		"for a moment": {times: 3, fault: full},
		"for too long": {times: -1, fault: full, says: `C:\Windows\roundsman\m1-win1 is left`},
		"line lost":    {times: 1, fault: &transport.Error{Op: "remove", Kind: transport.ErrConnLost}, says: `C:\Windows\roundsman\m1-win1 is left`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newWinLab(t, false)
			l.write(agent.WindowsBinaryName)
			conn := l.dial()
			conn.hook = func(op string) error {
				if op == "remove "+l.place().Dir && tt.times != 0 {
					tt.times--
					return tt.fault
				}
				return nil
			}
			_, err := winInstaller().Sweep(t.Context(), conn, l.place())
			if tt.says == "" {
				require.NoError(t, err)
				l.requireNothing()
				return
			}
			require.ErrorContains(t, err, tt.says)
			require.ErrorIs(t, err, tt.fault.(*transport.Error).Kind)
			_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
			require.NoError(t, err)
			l.requireNothing()
		})
	}
}

// TestWindowsHangingAgent: an agent whose service does not stop is ended by the command
// remove.
func TestWindowsHangingAgent(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	l.write(agent.WindowsBinaryName, "lock")
	l.add(agent.ServiceName(l.id), smbtest.Running)
	l.scm.SetFaults(smbtest.Faults{HoldStop: true})
	l.act = func(name string) error {
		l.scm.SetFaults(smbtest.Faults{}) // its process is gone
		l.scm.Exit(name, 0, 0)
		return os.Remove(l.dir("lock"))
	}
	_, err := winInstaller().Sweep(t.Context(), l.dial(), l.place())
	require.NoError(t, err)
	l.requireNothing()
}

// TestWindowsMarkedService: a service that somebody has open goes when that closes it,
// which holds nobody up.
func TestWindowsMarkedService(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	l.add(agent.ServiceName(l.id), smbtest.Running)
	release, err := l.scm.Hold(agent.ServiceName(l.id))
	require.NoError(t, err)
	for range 2 { // the second finds it marked already
		_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
	}
	svc, ok := l.scm.Lookup(agent.ServiceName(l.id))
	require.True(t, ok && svc.Deleted)
	release()
	l.requireNothing()
}

// TestWindowsLostWhileSweeping breaks the connection at every call of a Sweep. The next
// one leaves nothing.
func TestWindowsLostWhileSweeping(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run: slow")
	}
	l := newWinLab(t, true)
	for n, done := 1, false; !done; n++ {
		require.NoError(t, l.start(l.dial()).Close(t.Context()))
		conn := l.dial()
		conn.cutAt, conn.cutAfter = n, n%2 == 0
		_, err := winInstaller().Sweep(t.Context(), conn, l.place())
		if done = err == nil && len(conn.calls) < n; !done && err != nil {
			require.ErrorIs(t, err, transport.ErrConnLost, last(conn.tap))
		}
		_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
		l.requireNothing()
	}
}
