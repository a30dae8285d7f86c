package install_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
)

func (l *lab) inspect(conn transport.Conn, opts agent.InspectOptions) agent.Inspector {
	l.t.Helper()
	opts.Target = "db1"
	if opts.BaseDirs == nil {
		opts.BaseDirs = []string{l.base}
	}
	k, err := installer().Inspect(l.t.Context(), conn, opts)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = k.Close(context.Background()) })
	return k
}

// temporary are the files that an Inspector has on the target.
func (l *lab) temporary() []string {
	l.t.Helper()
	out, err := filepath.Glob(filepath.Join(filepath.Dir(l.base), ".roundsman-check.*"))
	require.NoError(l.t, err)
	return out
}

// TestInspect: what the target is like, and who reaches whom, by a file that is gone
// afterwards.
func TestInspect(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	k := l.inspect(l.dial(), agent.InspectOptions{})
	require.Len(t, l.temporary(), 1)
	require.NoDirExists(t, l.base)

	facts, err := k.Facts(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.base, facts.Dir)
	require.Empty(t, facts.Unfit)
	require.Greater(t, facts.Free, int64(1<<20))
	require.Equal(t, os.Getuid(), facts.UID)
	require.Less(t, facts.Skew.Abs(), time.Minute)
	require.Empty(t, facts.Holders)
	require.False(t, facts.Agentless)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go agent.Greet(ln, "it is me")
	here := netip.MustParseAddrPort(ln.Addr().String())
	got, err := k.Dial(t.Context(), here)
	require.NoError(t, err)
	require.Equal(t, agent.Reached{How: agent.ReachedPeer, Greeting: "it is me"}, got)
	ln.Close()
	got, err = k.Dial(t.Context(), here)
	require.NoError(t, err)
	require.Equal(t, agent.ReachedRefused, got.How)
	require.NotEmpty(t, got.Text)

	there, err := k.Listen(t.Context(), agent.ListenOptions{Greeting: "and it is me"})
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(there.Port)))
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	said, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "and it is me\n", string(said))
	c.Close()
	_, err = k.Listen(t.Context(), agent.ListenOptions{Port: there.Port})
	require.Error(t, err, "it is taken")
	require.NoError(t, k.Unlisten(t.Context(), there))
	_, err = net.Dial("tcp", addr)
	require.Error(t, err)

	require.NoError(t, k.Close(t.Context()))
	require.Empty(t, l.temporary())
	require.NoDirExists(t, l.base)
}

// TestInspectPlace: an agent that is there answers by its own program.
func TestInspectPlace(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	a := l.start(conn)
	place := a.Place()
	before := files(t, filepath.Dir(l.base))
	k := l.inspect(conn, agent.InspectOptions{Place: &place})
	require.Equal(t, before, files(t, filepath.Dir(l.base)))
	facts, err := k.Facts(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.base, facts.Dir)
	require.NoError(t, k.Close(t.Context()))
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
}

// TestInspectUnfit: directories that will not do, and why; the next one is tried.
func TestInspectUnfit(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	open := filepath.Join(filepath.Dir(l.base), "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777)) // without the umask
	file := filepath.Join(filepath.Dir(l.base), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	k := l.inspect(l.dial(), agent.InspectOptions{BaseDirs: []string{open + "/base", l.base}})
	facts, err := k.Facts(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.base, facts.Dir)
	require.Len(t, facts.Unfit, 1)
	require.ErrorContains(t, facts.Unfit[0], "everybody may replace what is in "+open)
	require.NoError(t, k.Close(t.Context()))

	k = l.inspect(l.dial(), agent.InspectOptions{BaseDirs: []string{open + "/base"}})
	facts, err = k.Facts(t.Context())
	require.NoError(t, err)
	require.Empty(t, facts.Dir)
	require.Len(t, facts.Unfit, 1)
	_, err = k.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = k.Listen(t.Context(), agent.ListenOptions{})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NoError(t, k.Close(t.Context()))
	require.Empty(t, l.temporary())
	left, err := filepath.Glob(open + "/.roundsman*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestInspectRelative: a base directory that is no absolute path is refused, with a
// program and without.
func TestInspectRelative(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	opts := agent.InspectOptions{Target: "db1", BaseDirs: []string{"relative"}}
	plain, err := (&agentless.Installer{}).Inspect(t.Context(), conn, opts)
	require.NoError(t, err)
	for _, k := range []agent.Inspector{l.inspect(conn, opts), plain} {
		facts, err := k.Facts(t.Context())
		require.NoError(t, err)
		require.Empty(t, facts.Dir)
		require.Len(t, facts.Unfit, 1)
		require.ErrorContains(t, facts.Unfit[0], "no absolute path")
		require.NoError(t, k.Close(t.Context()))
	}
}

// TestInspectOthers: nothing is executed where another user could put his own program.
func TestInspectOthers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("not run: only root can give directories away")
	}
	for name, give := range map[string]func(dir string) error{
		"user 1000":  func(dir string) error { return os.Chown(dir, 1000, 0) },
		"group 1000": func(dir string) error { return errors.Join(os.Chown(dir, 0, 1000), os.Chmod(dir, 0o775)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, sshtest.Config{})
			theirs := filepath.Join(filepath.Dir(l.base), "theirs")
			require.NoError(t, os.Mkdir(theirs, 0o755))
			require.NoError(t, give(theirs))
			k := l.inspect(l.dial(), agent.InspectOptions{BaseDirs: []string{theirs + "/base"}})
			facts, err := k.Facts(t.Context())
			require.NoError(t, err)
			require.Empty(t, facts.Dir)
			require.ErrorContains(t, facts.Unfit[0], name+" may replace what is in "+theirs)
			l.base = theirs + "/base"
			_, err = installer().Start(t.Context(), l.dial(), l.opts())
			require.ErrorIs(t, err, agent.ErrNoDir)
			require.ErrorContains(t, err, name+" may replace what is in "+theirs)
		})
	}
}

// TestInspectLineLost: the file goes with the connection.
func TestInspectLineLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	k := l.inspect(conn, agent.InspectOptions{})
	require.Len(t, l.temporary(), 1)
	require.NoError(t, conn.Close(t.Context()))
	require.Eventually(t, func() bool { return len(l.temporary()) == 0 }, time.Minute, 10*time.Millisecond)
	_, err := k.Facts(t.Context())
	require.Error(t, err)
}

// TestInspectOld: what a shell that was killed left goes after an hour, and what
// another manager is using stays.
func TestInspectOld(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	old, young := filepath.Join(filepath.Dir(l.base), ".roundsman-check.old"), filepath.Join(filepath.Dir(l.base), ".roundsman-check.new")
	for _, name := range []string{old, young} {
		require.NoError(t, os.Mkdir(name, 0o700))
	}
	ago := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(old, ago, ago))
	k := l.inspect(l.dial(), agent.InspectOptions{})
	require.NoDirExists(t, old)
	require.DirExists(t, young)
	require.NoError(t, k.Close(t.Context()))
	require.Equal(t, []string{young}, l.temporary())
}

// TestInspectHolder: a job of another manager is seen, one of this manager is no
// obstacle; with a program and without.
func TestInspectHolder(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	a := l.start(conn)
	place := a.Place()
	job := agent.Job{ID: strings.Repeat("a", 32), Component: "thing", Version: "1.0", Argv: []string{"sleep", "60"}, Profile: agent.ProfileZeroOK}
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := a.Status(t.Context(), job.ID, 0)
		return err == nil && s.State == agent.Running
	}, time.Minute, 20*time.Millisecond)
	for name, inspect := range map[string]func(agent.InspectOptions) (agent.Inspector, error){
		"program": func(o agent.InspectOptions) (agent.Inspector, error) {
			return installer().Inspect(t.Context(), conn, o)
		},
		"commands": func(o agent.InspectOptions) (agent.Inspector, error) {
			return (&agentless.Installer{}).Inspect(t.Context(), conn, o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := inspect(agent.InspectOptions{Target: "db1", BaseDirs: []string{l.base}})
			require.NoError(t, err)
			facts, err := k.Facts(t.Context())
			require.NoError(t, err)
			require.Len(t, facts.Holders, 1)
			require.Equal(t, "thing", facts.Holders[0].Component)
			require.NoError(t, k.Close(t.Context()))
			k, err = inspect(agent.InspectOptions{Target: "db1", BaseDirs: []string{l.base}, Place: &place})
			require.NoError(t, err)
			facts, err = k.Facts(t.Context())
			require.NoError(t, err)
			require.Empty(t, facts.Holders, "it is our own")
			require.Equal(t, l.base, facts.Dir)
			require.Less(t, facts.Skew.Abs(), time.Minute)
			require.NoError(t, k.Close(t.Context()))
		})
	}
	_, err = a.Cancel(t.Context(), job.ID)
	require.NoError(t, err)
	finish(t, a, job.ID)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
}
