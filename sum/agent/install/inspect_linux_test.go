package install_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/sum/agent/install"
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

// temporary are the directories that an Inspector has on the target.
func (l *lab) temporary() []string {
	l.t.Helper()
	out, err := filepath.Glob(filepath.Join(filepath.Dir(l.base), ".roundsman-check.*"))
	require.NoError(l.t, err)
	return out
}

// listing returns the names of everything below a directory.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err == nil && name != dir {
			out = append(out, name)
		}
		return err
	}))
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

// hooked is a connection that runs other commands than it is told.
type hooked struct {
	transport.Forward
	run func(*transport.Command)
}

func (c *hooked) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	c.run(&cmd)
	return c.Forward.Run(ctx, cmd)
}

// mounted has a command see some directories mounted with an option.
func mounted(dirs map[string]string) func(*transport.Command) {
	return func(cmd *transport.Command) {
		for dir, option := range dirs {
			cmd.Argv = append([]string{"sh", "-ec", `mount --bind "$1" "$1"; mount -o "remount,bind,$2" "$1"; shift 2; exec "$@"`, "sh", dir, option}, cmd.Argv...)
		}
		cmd.Argv = append([]string{"unshare", "--mount"}, cmd.Argv...)
	}
}

// TestInspectTriesEach: what is in the way of each of the directories that would be
// preferred, whether the agent is a program there or this process; and nothing is left.
func TestInspectTriesEach(t *testing.T) {
	t.Parallel()
	realtest.NeedRoot(t)
	realtest.Need(t, "unshare")
	for name, in := range map[string]*install.Installer{"program": installer(), "this process": {InProcess: true}} {
		t.Run(name, func(t *testing.T) {
			l := ownHost(t)
			dir := filepath.Dir(l.base)
			for sub, perm := range map[string]fs.FileMode{"noexec": 0o700, "ro": 0o700, "open": 0o777} {
				require.NoError(t, os.Mkdir(filepath.Join(dir, sub), perm))
				require.NoError(t, os.Chmod(filepath.Join(dir, sub), perm)) // without the umask
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
			conn := &hooked{transport.Forward{Conn: l.localConn()}, mounted(map[string]string{dir + "/noexec": "noexec", dir + "/ro": "ro"})}
			bad := []string{dir + "/open/base", dir + "/ro/base", dir + "/noexec/base", dir + "/file/base"}
			before := listing(t, dir)
			for _, bases := range [][]string{append(bad, l.base), bad} {
				k, err := in.Inspect(t.Context(), conn, agent.InspectOptions{Target: "db1", BaseDirs: bases})
				require.NoError(t, err)
				if in.InProcess {
					require.Equal(t, before, listing(t, dir), "it needs nothing for longer")
				}
				facts, err := k.Facts(t.Context())
				require.NoError(t, err)
				require.Len(t, facts.Unfit, 4, "%v", facts.Unfit)
				require.ErrorContains(t, facts.Unfit[0], "everybody may replace what is in "+dir+"/open")
				require.ErrorIs(t, facts.Unfit[1], syscall.EROFS)
				require.ErrorContains(t, facts.Unfit[1], dir+"/ro/base: read-only file system mounted at")
				require.ErrorIs(t, facts.Unfit[2], agent.ErrNoExec)
				require.ErrorContains(t, facts.Unfit[2], dir+"/noexec is mounted noexec")
				require.ErrorContains(t, facts.Unfit[3], dir+"/file is not a directory")
				if len(bases) > len(bad) {
					require.Equal(t, l.base, facts.Dir)
					require.Positive(t, facts.Free)
				} else {
					require.Empty(t, facts.Dir)
					require.EqualValues(t, -1, facts.Free)
				}
				require.NoError(t, k.Close(t.Context()))
				require.Equal(t, before, listing(t, dir))
			}
		})
	}
}

// TestInspectRoom: where there is too little room for the program it is not sent, and
// what df says of a file system without a disk is nothing.
func TestInspectRoom(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]*install.Installer{"program": installer(), "this process": {InProcess: true}} {
		t.Run(name, func(t *testing.T) {
			l := ownHost(t)
			bin := t.TempDir()
			conn := &hooked{Forward: transport.Forward{Conn: l.localConn()}, run: func(cmd *transport.Command) {
				cmd.Argv = append([]string{"env", "PATH=" + bin + ":" + os.Getenv("PATH")}, cmd.Argv...)
			}}
			for said, room := range map[string]bool{"/dev/a 900 893 7 99% /": false, "/dev/a 9000000 1 8999999 1% /": true, "proc 0 0 0 0% /": true, "proc 0 0 0 - /": true} {
				require.NoError(t, os.WriteFile(bin+"/df", []byte("#!/bin/sh\necho '"+said+"'\n"), 0o700))
				k, err := in.Inspect(t.Context(), conn, agent.InspectOptions{Target: "db1", BaseDirs: []string{l.base}})
				require.NoError(t, err)
				facts, err := k.Facts(t.Context())
				require.NoError(t, err)
				require.NoError(t, k.Close(t.Context()))
				if room {
					require.Equal(t, l.base, facts.Dir, said)
					continue
				}
				require.Empty(t, facts.Dir)
				require.Len(t, facts.Unfit, 1)
				require.ErrorIs(t, facts.Unfit[0], transport.ErrNoSpace)
				require.ErrorContains(t, facts.Unfit[0], "0 MiB are free")
			}
		})
	}
}

// TestInspectPlaceInProcess: where an agent of this process is already, that is the
// directory.
func TestInspectPlaceInProcess(t *testing.T) {
	t.Parallel()
	l := ownHost(t)
	place := l.place()
	k, err := (&install.Installer{InProcess: true}).Inspect(t.Context(), l.localConn(), agent.InspectOptions{Target: "db1", Place: &place})
	require.NoError(t, err)
	facts, err := k.Facts(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.base, facts.Dir)
	require.NoError(t, k.Close(t.Context()))
	require.Empty(t, listing(t, filepath.Dir(l.base)))
}

// waits is read until its context ends.
type waits struct{ context.Context }

func (w waits) Read([]byte) (int, error) {
	<-w.Done()
	return 0, w.Err()
}

// TestInspectCancelled: the file and its directory go where a manager does not want to
// know any more.
func TestInspectCancelled(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	conn := &hooked{transport.Forward{Conn: l.dial()}, func(cmd *transport.Command) {
		if cmd.Stdin != nil { // it gets no more than the first of its input
			cmd.Stdin = io.MultiReader(io.LimitReader(cmd.Stdin, 100_000), waits{ctx})
		}
	}}
	go func() {
		_, err := installer().Inspect(ctx, conn, agent.InspectOptions{Target: "db1", BaseDirs: []string{l.base}})
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(l.temporary()) == 1 }, patience, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return len(l.temporary()) == 0 }, patience, 10*time.Millisecond)
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
	realtest.NeedRoot(t) // to give directories away
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
	job := agent.Job{ID: strings.Repeat("a", 32), Component: "thing", Version: "1.0", Argv: []string{"sleep", "600"}, Profile: agent.ProfileZeroOK}
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
			require.Len(t, facts.Holders, 1)
			require.Equal(t, place.ID, facts.Holders[0].Agent, "whose it is can be told")
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
