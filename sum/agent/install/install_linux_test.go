package install_test

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

func TestWholeLife(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]sshtest.Config{
		"forwarding":           {},
		"forwarding forbidden": {NoStreamLocal: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, cfg)
			conn := l.dial()
			opts := l.opts()
			var places []agent.Place
			opts.Opened = func(_ context.Context, p agent.Place) error {
				if len(places) == 0 {
					require.NoDirExists(t, l.base, "the place is told before the first change")
				}
				places = append(places, p)
				return nil
			}
			a, err := installer().Start(t.Context(), conn, opts)
			require.NoError(t, err)
			defer a.Close(t.Context())
			require.Len(t, places, 2)
			require.Equal(t, l.place(), places[0])
			require.Equal(t, a.Place(), places[1])
			require.NotEmpty(t, a.Place().Addr)
			require.Equal(t, cfg.NoStreamLocal, strings.Contains(strings.Join(l.srv.Commands(), "\n"), "connect"))

			fi, err := os.Stat(l.dir())
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
			fi, err = os.Stat(filepath.Join(l.dir(), agent.BinaryName))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
			require.NoFileExists(t, filepath.Join(l.dir(), agent.BootstrapName), "the keys are gone once they were read")

			inv, err := a.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{{Name: "probed", Argv: []string{"/bin/echo", "7.1"}}}})
			require.NoError(t, err)
			require.Equal(t, "linux", inv.Identity.OS)
			require.Contains(t, inv.Software, transport.Software{Name: "probed", Version: "7.1", Source: agent.ProbeSource})

			counter := filepath.Join(t.TempDir(), "runs")
			job := script(t, a, "echo run >> "+counter+"; echo installed; pwd")
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			s, log := finish(t, a, job.ID)
			require.Equal(t, agent.Done, s.State)
			require.Equal(t, transport.VerdictApplied, s.Result.Verdict)
			require.Contains(t, log, "installed\n"+l.dir())

			left, err := a.Remove(t.Context())
			require.NoError(t, err)
			want := []string{l.dir() + "/agent.log", l.dir() + "/jobs/" + job.ID + ".json", l.dir() + "/jobs/" + job.ID + ".log"}
			require.Equal(t, want, sorted(left))
			l.requireClean()
			require.NoFileExists(t, a.Place().Addr)

			// Another manager with the same ID finds what became of the job.
			a = l.start(l.dial())
			s, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			require.Equal(t, agent.Done, s.State)
			runs, err := os.ReadFile(counter)
			require.NoError(t, err)
			require.Equal(t, "run\n", string(runs), "never twice under one ID")
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
			for _, cmd := range l.srv.Commands() {
				require.NotContains(t, cmd, "PRIVATE KEY")
			}
		})
	}
}

func TestSecondStartSendsNoBinary(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	first := l.start(l.dial())
	conn := l.dial()
	second := l.start(conn)
	require.Zero(t, conn.count("put "+agent.BinaryName))
	_, err := second.Jobs(t.Context())
	require.NoError(t, err)
	_, err = first.Jobs(t.Context())
	require.Error(t, err, "the older agent had to go")
	_, err = second.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

func TestChoosesTheDirectory(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.MkdirAll(filepath.Join(open, l.id), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(open, l.id), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(open, l.id, "foreign"), nil, 0o600))
	closed := filepath.Join(t.TempDir(), "closed")
	noexec := filepath.Join(t.TempDir(), "noexec")

	conn := l.dial()
	conn.hook = func(op string) error {
		if strings.HasPrefix(op, "mkdir "+closed) {
			return &transport.Error{Op: "mkdir", Kind: os.ErrPermission}
		}
		return nil
	}
	target := &noexecConn{Forward: transport.Forward{Conn: conn}, dir: noexec}
	opts := l.opts()
	opts.BaseDirs = []string{file, open, closed, noexec}
	_, err := installer().Start(t.Context(), target, opts)
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.ErrorIs(t, err, os.ErrPermission)
	for _, dir := range opts.BaseDirs {
		require.Contains(t, err.Error(), filepath.Join(dir, l.id), "each directory is named")
	}
	require.Contains(t, err.Error(), "mounted noexec")
	require.NoDirExists(t, closed)
	require.NoDirExists(t, noexec)
	require.Equal(t, []string{l.id + "/foreign"}, files(t, open), "what is not ours stays as it is")

	opts.BaseDirs = append(opts.BaseDirs, l.base)
	a, err := installer().Start(t.Context(), target, opts)
	require.NoError(t, err)
	require.Equal(t, l.dir(), a.Place().Dir)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.NoDirExists(t, noexec)
	l.requireClean()

	opts.BaseDirs = []string{}
	_, err = installer().Start(t.Context(), target, opts)
	require.ErrorIs(t, err, agent.ErrNoDir)
}

// noexecConn behaves as if dir were a mount with the option noexec.
type noexecConn struct {
	transport.Forward
	dir string
}

func (c *noexecConn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	if strings.HasPrefix(cmd.Argv[0], c.dir) {
		_, err := io.WriteString(cmd.Stderr, "sh: Permission denied\n")
		return transport.Exit{Code: 126}, err
	}
	if cmd.Argv[0] == "cat" {
		_, err := fmt.Fprintf(cmd.Stdout, "/dev/a / ext4 rw 0 0\n/dev/b %s ext4 rw,noexec 0 0\n", c.dir)
		return transport.Exit{}, err
	}
	return c.Forward.Run(ctx, cmd)
}

func TestHomeDirectory(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	l.base = filepath.Join(l.srv.Home(), "agents")
	opts := l.opts()
	opts.BaseDirs = []string{"~/agents"}
	a, err := installer().Start(t.Context(), l.dial(), opts)
	require.NoError(t, err)
	require.Equal(t, l.dir(), a.Place().Dir)
	found, err := install.Find(t.Context(), l.dial(), opts.BaseDirs)
	require.NoError(t, err)
	require.Equal(t, []agent.Place{l.place()}, found)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

func TestWrongProcessorIsRefusedBeforeTheCopy(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	h := make([]byte, 64)
	copy(h, elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2MSB)
	h[19] = byte(elf.EM_S390)
	in := &install.Installer{Source: fixed{transport.BytesFile("agent", h)}}
	_, err := in.Start(t.Context(), conn, l.opts())
	if runtime.GOARCH == "s390x" {
		t.Skip("not run: this machine is the wrong one")
	}
	require.ErrorIs(t, err, agent.ErrNoBinary)
	require.Zero(t, conn.count("put")+conn.count("mkdir"))
	l.requireNothing()
}

type fixed struct{ f transport.File }

func (f fixed) Open(context.Context, string, string) (transport.File, error) { return f.f, nil }

func TestNeedsFilesAndCommands(t *testing.T) {
	l := newLab(t, sshtest.Config{SFTPOnly: true})
	_, err := installer().Start(t.Context(), l.dial(), l.opts())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	for _, o := range []agent.StartOptions{
		{ID: "x"}, {Target: "db1"}, {Target: "db1", ID: "../x"},
		{Target: "db1", ID: "x", Place: &agent.Place{ID: "x", Dir: "/etc"}},
	} {
		_, err := installer().Start(t.Context(), l.dial(), o)
		require.ErrorIs(t, err, transport.ErrInvalid)
	}
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	conn.hook = func(op string) error {
		if op == "run version" {
			require.NoError(t, os.Remove(filepath.Join(l.dir(), agent.BinaryName)))
		}
		return nil
	}
	opts := l.opts()
	opts.BaseDirs = append(opts.BaseDirs, filepath.Join(t.TempDir(), "other"))
	_, err := installer().Start(t.Context(), conn, opts)
	require.ErrorIs(t, err, agent.ErrQuarantined)
	require.Equal(t, 1, conn.count("put "+agent.BinaryName), "another directory would end the same way")
	l.requireNothing()

	// Nor is it an agent that clears its directory, where one was killed: its lock stays.
	require.NoError(t, os.MkdirAll(l.dir(), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(l.dir(), "lock"), nil, 0o600))
	_, err = installer().Start(t.Context(), conn, opts)
	require.ErrorIs(t, err, agent.ErrQuarantined)
}

// An agent whose lease ends in the middle of a Start may delete what that has put
// there. That is no virus scanner: the Start begins again.
func TestStartWhileAnAgentClears(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"run version", "put " + agent.BootstrapName, "run start"} {
		t.Run(at, func(t *testing.T) {
			l := newLab(t, sshtest.Config{})
			a := l.start(l.dial())
			_, err := a.Stop(t.Context(), false) // which leaves everything
			require.NoError(t, err)
			conn := l.dial()
			var once sync.Once
			cleared := make(chan struct{})
			conn.hook = func(op string) error {
				if op == at {
					once.Do(func() { // as clear does it, which takes its time
						for _, name := range []string{"blobs", agent.BootstrapName, "lease", agent.ReadyName, agent.BinaryName} {
							require.NoError(t, os.RemoveAll(filepath.Join(l.dir(), name)))
						}
						go func() {
							defer close(cleared)
							time.Sleep(200 * time.Millisecond)
							_ = os.Remove(filepath.Join(l.dir(), "lock"))
						}()
					})
				}
				return nil
			}
			b, err := installer().Start(t.Context(), conn, l.opts())
			require.NoError(t, err)
			<-cleared
			_, err = b.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
		})
	}
}

// Another manager's agent may take away a program that a killed manager had left, where no
// agent had begun, at the moment when its manager comes back. That is no virus scanner
// either; what takes away a program that was sent is one.
func TestStartWhileAnotherClears(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]string{"all of it": "", "the program": agent.BinaryName} {
		for _, at := range []string{"run version", "run start"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				l := newLab(t, sshtest.Config{})
				a := l.start(l.dial())
				_, err := a.Stop(t.Context(), false) // which leaves everything
				require.NoError(t, err)
				for _, f := range []string{"lock", "lease", agent.ReadyName} { // of an agent
					_ = os.Remove(filepath.Join(l.dir(), f))
				}
				conn := l.dial()
				var once sync.Once
				conn.hook = func(op string) error {
					if op == at {
						once.Do(func() { require.NoError(t, os.RemoveAll(filepath.Join(l.dir(), gone))) })
					}
					return nil
				}
				b, err := installer().Start(t.Context(), conn, l.opts())
				require.NoError(t, err)
				require.Equal(t, 1, conn.count("put "+agent.BinaryName))
				_, err = b.Remove(t.Context())
				require.NoError(t, err)
				l.requireClean()
			})
		}
	}
}

func TestStartFails(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	conn := l.dial()
	conn.hook = func(op string) error {
		if op == "run start" { // an agent without its identity cannot start
			require.NoError(t, os.WriteFile(filepath.Join(l.dir(), agent.BootstrapName), []byte("{}"), 0o600))
		}
		return nil
	}
	_, err := installer().Start(t.Context(), conn, l.opts())
	require.ErrorIs(t, err, agent.ErrStart)
	l.requireClean()
}

func TestOpenedStopsTheStart(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	full := errors.New("journal is full")
	for refused := 1; refused <= 2; refused++ {
		opts := l.opts()
		calls := 0
		opts.Opened = func(context.Context, agent.Place) error {
			if calls++; calls == refused {
				return full
			}
			return nil
		}
		conn := l.dial()
		_, err := installer().Start(t.Context(), conn, opts)
		require.ErrorIs(t, err, full)
		require.Equal(t, refused, calls)
		if refused == 1 {
			require.Zero(t, conn.count("mkdir"), "nothing was changed")
			l.requireNothing()
		}
		l.requireClean()
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"mkdir", "put " + agent.BinaryName, "run version", "put " + agent.BootstrapName, "run start", "get " + agent.ReadyName} {
		t.Run(at, func(t *testing.T) {
			l := newLab(t, sshtest.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			conn := l.dial()
			conn.hook = func(op string) error {
				if strings.HasPrefix(op, at) {
					cancel()
				}
				return nil
			}
			_, err := installer().Start(ctx, conn, l.opts())
			require.ErrorIs(t, err, context.Canceled)
			l.requireClean()
		})
	}
}

func TestClassicPort(t *testing.T) {
	l := newLab(t, sshtest.Config{NoStreamLocal: true})
	in := &install.Installer{Source: &built} // not the common one, which it changes
	in.Network, in.Listen = "tcp", "127.0.0.1"
	a, err := in.Start(t.Context(), l.dial(), l.opts())
	require.NoError(t, err)
	defer a.Close(t.Context())
	_, err = a.Jobs(t.Context())
	require.NoError(t, err)
	require.NotContains(t, strings.Join(l.srv.Commands(), "\n"), "connect")
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

// TestSelfIsAnAgent copies this test program, whose TestMain calls RunAgent.
func TestSelfIsAnAgent(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	in := &install.Installer{Source: install.RunAgent()}
	a, err := in.Start(t.Context(), l.dial(), l.opts())
	require.NoError(t, err)
	defer a.Close(t.Context())
	job := script(t, a, "echo from the test program")
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	_, log := finish(t, a, job.ID)
	require.Equal(t, "from the test program\n", log)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}
