package install_test

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// TestWindowsInspect: without a program on the target it is said what can be seen, and
// what cannot; and nothing is changed.
func TestWindowsInspect(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	l.add("LanmanServer", smbtest.Running)
	base := filepath.Join(l.srv.Admin(), "roundsman")
	inspect := func(opts agent.InspectOptions) (agent.Facts, *winTap) {
		t.Helper()
		conn := l.dial()
		opts.Target = "win1"
		look, err := winInstaller().Inspect(t.Context(), conn, opts)
		require.NoError(t, err)
		f, err := look.Facts(t.Context())
		require.NoError(t, err)
		_, err = look.Dial(t.Context(), netip.MustParseAddrPort("192.0.2.1:1"))
		require.ErrorIs(t, err, errors.ErrUnsupported)
		_, err = look.Listen(t.Context(), agent.ListenOptions{})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.NoError(t, look.Close(t.Context()))
		require.Zero(t, conn.count("put")+conn.count("mkdir")+conn.count("remove")+conn.count("start"))
		return f, &conn
	}
	f, _ := inspect(agent.InspectOptions{})
	require.Positive(t, f.Free)
	require.Positive(t, f.Within)
	require.Less(t, f.Skew.Abs(), time.Minute)
	f.Free, f.Skew, f.Within = 0, 0, 0
	require.Equal(t, agent.Facts{OS: "windows", Arch: "amd64", UID: -1, Dir: "/roundsman"}, f)
	require.NoDirExists(t, base)
	require.Len(t, l.scm.List(), 1, "no service was made")

	// Another manager, whose agent runs or whose fate is not known.
	mark := `{"agent":"m2","job":"0123456789abcdef0123456789abcdef","component":"bios","version":"2.0"}` + "\nheld\n"
	name := filepath.Join(base, agent.HostLockPrefix+"0123456789abcdef0123456789abcdef.4.5.6")
	require.NoError(t, os.Mkdir(base, 0o700))
	require.NoError(t, os.WriteFile(name, []byte(mark), 0o600))
	f, _ = inspect(agent.InspectOptions{})
	require.Empty(t, f.Holders)
	require.ErrorContains(t, f.HoldersErr, `"bios 2.0" runs there`)
	require.ErrorContains(t, f.HoldersErr, "or was killed")
	l.add(agent.ServiceName("m2"), smbtest.Running)
	f, _ = inspect(agent.InspectOptions{})
	require.NoError(t, f.HoldersErr)
	require.Len(t, f.Holders, 1)
	require.Equal(t, "m2", f.Holders[0].Agent)
	require.NoError(t, os.WriteFile(name, []byte("no JSON"), 0o600))
	f, _ = inspect(agent.InspectOptions{})
	require.ErrorContains(t, f.HoldersErr, "cannot be read")
	require.NoError(t, os.Remove(name))

	// Its own agent's payloads count.
	l.write("blobs/x", "blobs/y")
	p := l.place()
	f, conn := inspect(agent.InspectOptions{Place: &p})
	require.EqualValues(t, 2, f.Staged)
	require.Zero(t, conn.count("create"), "that it may is known")

	// Rights, and directories.
	l.scm.SetFaults(smbtest.Faults{CreateDenied: true})
	f, _ = inspect(agent.InspectOptions{})
	require.Empty(t, f.Dir)
	require.Len(t, f.Unfit, 1)
	require.ErrorIs(t, f.Unfit[0], fs.ErrPermission)
	require.ErrorContains(t, f.Unfit[0], "UAC")
	l.scm.SetFaults(smbtest.Faults{})
	require.NoError(t, os.WriteFile(filepath.Join(l.srv.Admin(), "file"), nil, 0o600))
	f, _ = inspect(agent.InspectOptions{BaseDirs: []string{"/file", "relative", "/elsewhere/deep"}})
	require.Equal(t, "/elsewhere/deep", f.Dir)
	require.Len(t, f.Unfit, 2)
}

// TestWindowsCheckKilled: the service by which rights are looked at is deleted by the next
// who comes, whatever that one wants, if its manager was killed before; but not before a
// Start has told the journal where it is about to change something.
func TestWindowsCheckKilled(t *testing.T) {
	t.Parallel()
	const left = agent.ServicePrefix + "check"
	l := newWinLab(t, true)
	inspect := func(conn winTap) (agent.Facts, error) {
		look, err := winInstaller().Inspect(t.Context(), conn, agent.InspectOptions{Target: "win1"})
		require.NoError(t, err)
		return look.Facts(t.Context())
	}
	exists := func() bool {
		return slices.ContainsFunc(l.scm.List(), func(s smbtest.Service) bool { return s.Name == left })
	}
	for name, next := range map[string]func(conn winTap) error{
		"inspect": func(conn winTap) error { _, err := inspect(conn); return err },
		"start": func(conn winTap) error {
			o, told := l.opts(), false
			o.Opened = func(context.Context, agent.Place) error {
				if !told {
					require.True(t, exists(), "to look changes nothing")
				}
				told = true
				return nil
			}
			a, err := winInstaller().Start(t.Context(), conn, o)
			if err == nil {
				_, err = a.Remove(t.Context())
			}
			return err
		},
		"sweep": func(conn winTap) error {
			_, err := winInstaller().Sweep(t.Context(), conn, l.place())
			return err
		},
	} {
		l.add("LanmanServer", smbtest.Stopped)
		other, conn := l.dial(), l.dial()
		created := false
		conn.hook = func(op string) error {
			if created { // and dead
				return &transport.Error{Op: op, Kind: transport.ErrConnLost}
			}
			if created = op == "create "+left; created { // a server that refuses no second display name
				return transport.DeleteService(t.Context(), other, "LanmanServer")
			}
			return nil
		}
		_, err := inspect(conn)
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.True(t, exists(), name)
		l.add("LanmanServer", smbtest.Running)
		require.NoError(t, next(l.dial()), name)
		require.False(t, exists(), name)
		require.NoError(t, transport.StopService(t.Context(), other, "LanmanServer"))
		require.NoError(t, transport.DeleteService(t.Context(), other, "LanmanServer"))
	}
}
