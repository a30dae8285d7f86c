package install_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// TestWindowsLife: an agent comes over SMB, works and goes, and no program is run but as
// a service.
func TestWindowsLife(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	conn := l.dial()
	var mu sync.Mutex
	var places []agent.Place
	var boot []byte
	conn.hook = func(op string) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case strings.HasPrefix(op, "mkdir"), strings.HasPrefix(op, "put"), strings.HasPrefix(op, "create"):
			require.NotEmpty(t, places, "the journal knows of it before %s", op)
		case strings.HasPrefix(op, "start "+agent.ServiceName(l.id)):
			var err error
			boot, err = os.ReadFile(l.dir(agent.BootstrapName))
			require.NoError(t, err)
		}
		return nil
	}
	o := l.opts()
	o.Opened = func(_ context.Context, p agent.Place) error {
		mu.Lock()
		defer mu.Unlock()
		if len(places) == 0 {
			require.NoDirExists(t, filepath.Join(l.srv.Admin(), "roundsman"))
		}
		places = append(places, p)
		return nil
	}
	a, err := winInstaller().Start(t.Context(), conn, o)
	require.NoError(t, err)
	require.Equal(t, l.place(), places[0])
	require.NotEmpty(t, a.Place().Addr)

	// Nothing that is secret was on the share.
	var b agent.Bootstrap
	require.NoError(t, json.Unmarshal(boot, &b))
	require.Empty(t, b.Credentials)
	require.Len(t, b.Manager, 64)
	require.NotContains(t, string(boot), "PRIVATE")
	svc, ok := l.scm.Lookup(agent.ServiceName(l.id))
	require.True(t, ok)
	require.Equal(t, `"C:\Windows\roundsman\m1-win1\roundsman-agent.exe" serve -dir C:\Windows\roundsman\m1-win1 -service roundsman-agent-m1-win1`, svc.Command)
	require.EqualValues(t, 3, svc.StartType, "on demand")
	require.Equal(t, smbtest.Running, svc.State)

	_, err = a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	job := script(t, a, "echo hello; exit 0")
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	st, said := finish(t, a, job.ID)
	require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
	require.Equal(t, "hello\n", said)

	found, err := install.Find(t.Context(), l.dial(), nil)
	require.NoError(t, err)
	require.Equal(t, []agent.Place{l.place()}, found)
	c, err := install.Look(t.Context(), l.dial(), found[0])
	require.NoError(t, err)
	require.True(t, c.Binary && c.Lock)

	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 3)
	l.requireClean()
	require.Zero(t, conn.count("run"))
	require.Zero(t, l.scm.Handles())
	got := map[string]*buffer{}
	require.NoError(t, install.Logs(t.Context(), conn, found[0], func(name string) (io.WriteCloser, error) {
		got[name] = &buffer{}
		return got[name], nil
	}))
	require.Equal(t, "hello\n", got[job.ID+".log"].String())
	require.False(t, bytes.Contains(got[agent.LogName].Bytes(), []byte("PRIVATE")))
}

// Where no job ran and nothing is to be told, nothing at all stays.
func TestWindowsLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	left, err := l.start(l.dial()).Remove(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
	l.requireNothing()

	// A manager that died, and one that comes after it.
	a := l.start(l.dial())
	require.NoError(t, a.Close(t.Context()))
	left, err = winInstaller().Sweep(t.Context(), l.dial(), a.Place())
	require.NoError(t, err)
	require.Empty(t, left)
	l.requireNothing()

	left, err = winInstaller().Sweep(t.Context(), l.dial(), a.Place())
	require.NoError(t, err, "there is nothing any more")
	require.Empty(t, left)
}

// TestWindowsLostAtEveryCall breaks the connection at every call that a Start makes,
// before and after the call took effect, as where the manager is killed there. Neither a
// new Start nor a Sweep by another manager process may leave anything.
func TestWindowsLostAtEveryCall(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run: slow")
	}
	l := newWinLab(t, true)
	conn := l.dial()
	_, err := l.start(conn).Remove(t.Context())
	require.NoError(t, err)
	total := 0
	for i, call := range conn.calls {
		if strings.HasPrefix(call, "dial ") {
			total = i + 1
		}
	}
	require.Greater(t, total, 12)
	for n := 1; n <= total; n++ {
		for _, after := range []bool{false, true} {
			conn := l.dial()
			conn.cutAt, conn.cutAfter = n, after
			var known []agent.Place
			o := l.opts()
			o.Opened = func(_ context.Context, p agent.Place) error { known = append(known, p); return nil }
			a, err := winInstaller().Start(t.Context(), conn, o)
			if err == nil {
				require.NoError(t, a.Close(t.Context()))
			} else {
				require.ErrorIs(t, err, transport.ErrConnLost, "call %d: %s", n, last(conn.tap))
			}
			if len(known) == 0 {
				l.requireNothing()
				continue
			}
			if n%2 == 0 {
				a := l.start(l.dial())
				_, err = a.Jobs(t.Context())
				require.NoError(t, err)
				_, err = a.Remove(t.Context())
			} else {
				_, err = winInstaller().Sweep(t.Context(), l.dial(), known[0])
			}
			require.NoError(t, err, "after call %d: %s", n, last(conn.tap))
			l.requireClean()
		}
	}
}
