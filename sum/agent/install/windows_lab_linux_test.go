package install_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// winLab is a Windows server as far as Linux has one: a real Samba, and a model of the
// service control manager whose services are a real agent, that of Linux. What is sent
// there is a program in name only. The named pipe leads to the agent's Unix socket.
type winLab struct {
	t   *testing.T
	srv *smbtest.Server
	scm *smbtest.Services
	id  string
	// program is the agent that runs; "" runs nothing: a service that is started runs
	// until it is stopped.
	program string
	// act, without a program, is what a service does that is started.
	act func(name string) error
	wg  sync.WaitGroup
}

func newWinLab(t *testing.T, real bool) *winLab {
	t.Helper()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	l := &winLab{t: t, scm: &smbtest.Services{}, id: "m1-win1"}
	if real {
		f, err := built.Open(t.Context(), runtime.GOOS, runtime.GOARCH)
		require.NoError(t, err)
		src, err := f.Open(t.Context())
		require.NoError(t, err)
		defer src.Close()
		data, err := io.ReadAll(src)
		require.NoError(t, err)
		l.program = filepath.Join(t.TempDir(), agent.BinaryName)
		require.NoError(t, os.WriteFile(l.program, data, 0o700))
		l.scm.Run = l.run
	} else {
		l.scm.Run = func(name string, _ []string) (func(), error) {
			if l.act == nil {
				return nil, nil
			}
			return nil, l.act(name)
		}
	}
	srv, err := smbtest.NewServer(smbtest.Config{Services: l.scm})
	require.NoError(t, err)
	l.srv = srv
	t.Cleanup(func() {
		for _, pid := range l.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		require.NoError(t, srv.Close())
		l.wg.Wait()
	})
	// What the architecture is read from.
	require.NoError(t, os.MkdirAll(filepath.Join(srv.Admin(), "System32"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(srv.Admin(), "System32", "kernel32.dll"), portable(0x8664), 0o600))
	return l
}

// portable is the beginning of a program of Windows.
func portable(machine uint16) []byte {
	pe := make([]byte, 256)
	copy(pe, "MZ")
	pe[60] = 128
	copy(pe[128:], []byte{'P', 'E', 0, 0, byte(machine), byte(machine >> 8)})
	return pe
}

// winSource is what the installer sends.
type winSource struct{ machine uint16 }

func (s winSource) Open(_ context.Context, goos, goarch string) (transport.File, error) {
	if goos != "windows" || goarch != "amd64" {
		return transport.File{}, &agent.Error{Op: "binary", Kind: agent.ErrNoBinary}
	}
	return transport.BytesFile(agent.BinaryName, portable(s.machine)), nil
}

func winInstaller() *install.Installer { return &install.Installer{Source: winSource{0x8664}} }

// run is what the service control manager does as a service starts.
func (l *winLab) run(name string, argv []string) (stop func(), err error) {
	if _, err := os.Stat(l.srv.Path(argv[0])); err != nil {
		return nil, err
	}
	if len(argv) != 6 || argv[2] != "-dir" || argv[4] != "-service" || argv[5] != name {
		return nil, smbtest.ErrInvalidParameter
	}
	dir := l.srv.Path(argv[3])
	log, err := os.OpenFile(filepath.Join(dir, agent.LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(l.program, argv[1], "-dir", dir)
	cmd.Stderr = log
	pipe, err := l.pipe(dir, argv[1])
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		pipe()
		return nil, err
	}
	ended := make(chan struct{})
	l.wg.Go(func() {
		defer close(ended)
		_ = cmd.Wait()
		pipe()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			l.scm.Exit(name, smbtest.ErrSpecific, uint32(code))
		} else {
			l.scm.Exit(name, 0, 0)
		}
	})
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}, nil
}

// pipe serves the pipe of an agent.
func (l *winLab) pipe(dir, command string) (shut func(), err error) {
	if command != "serve" {
		return func() {}, nil
	}
	ln, err := l.srv.Listen(agent.PipeName(filepath.Base(dir)))
	if err != nil {
		return nil, err
	}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() {
				defer c.Close()
				var ready agent.Ready
				data, err := os.ReadFile(filepath.Join(dir, agent.ReadyName))
				if err != nil || json.Unmarshal(data, &ready) != nil {
					return
				}
				there, err := net.Dial("unix", ready.Addr)
				if err != nil {
					return
				}
				defer there.Close()
				l.wg.Go(func() {
					_, _ = io.Copy(there, c)
					_ = there.Close()
				})
				_, _ = io.Copy(c, there)
			})
		}
	})
	return func() { _ = ln.Close() }, nil
}

// winTap is a tap that sees services and pipes as well.
type winTap struct{ *tap }

var _ interface {
	transport.Services
	transport.Tunneler
} = winTap{}

func (c winTap) CreateService(ctx context.Context, cfg transport.ServiceConfig) error {
	return none(c.tap, "create "+cfg.Name, func() error { return c.Forward.CreateService(ctx, cfg) })
}

func (c winTap) StartService(ctx context.Context, name string, args ...string) error {
	return none(c.tap, "start "+name, func() error { return c.Forward.StartService(ctx, name, args...) })
}

func (c winTap) QueryService(ctx context.Context, name string) (transport.ServiceStatus, error) {
	return tapped(c.tap, "query "+name, func() (transport.ServiceStatus, error) { return c.Forward.QueryService(ctx, name) })
}

func (c winTap) StopService(ctx context.Context, name string) error {
	return none(c.tap, "stop "+name, func() error { return c.Forward.StopService(ctx, name) })
}

func (c winTap) DeleteService(ctx context.Context, name string) error {
	return none(c.tap, "delete "+name, func() error { return c.Forward.DeleteService(ctx, name) })
}

func (c winTap) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return tapped(c.tap, "dial "+addr, func() (net.Conn, error) { return c.Forward.DialContext(ctx, network, addr) })
}

// Get says "pipe" where the agent of Linux says "unix".
func (c winTap) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	if filepath.Base(name) != agent.ReadyName {
		return c.tap.Get(ctx, name, w, opts)
	}
	var buf bytes.Buffer
	if n, err := c.tap.Get(ctx, name, &buf, opts); err != nil {
		return n, err
	}
	n, err := w.Write(bytes.Replace(buf.Bytes(), []byte(`"network": "unix"`), []byte(`"network": "pipe"`), 1))
	return int64(n), err
}

func none(c *tap, op string, f func() error) error {
	_, err := tapped(c, op, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (l *winLab) dial() winTap {
	l.t.Helper()
	conn, err := (&smb.Transport{}).Dial(l.t.Context(), transport.Endpoint{
		Address:     l.srv.Addr(),
		Credentials: transport.Credentials{User: l.srv.Domain() + ";" + l.srv.User(), Password: transport.NewSecret(l.srv.Password())},
		Options:     smb.Options{ShareRoot: `C:\Windows`, StopTimeout: 5 * time.Second},
	})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return winTap{&tap{Forward: transport.Forward{Conn: conn}}}
}

func (l *winLab) opts() agent.StartOptions { return agent.StartOptions{Target: "win1", ID: l.id} }

func (l *winLab) place() agent.Place { return agent.Place{ID: l.id, Dir: "/roundsman/" + l.id} }

// dir is the agent's directory on this host.
func (l *winLab) dir(elem ...string) string {
	return filepath.Join(append([]string{l.srv.Admin(), "roundsman", l.id}, elem...)...)
}

func (l *winLab) start(conn transport.Conn) agent.Agent {
	l.t.Helper()
	a, err := winInstaller().Start(l.t.Context(), conn, l.opts())
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

// write makes files in the agent's directory.
func (l *winLab) write(names ...string) {
	l.t.Helper()
	for _, name := range names {
		require.NoError(l.t, os.MkdirAll(filepath.Dir(l.dir(name)), 0o700))
		require.NoError(l.t, os.WriteFile(l.dir(name), []byte("x"), 0o600))
	}
}

// add registers a service that somebody left.
func (l *winLab) add(name string, state smbtest.State) {
	l.t.Helper()
	require.NoError(l.t, l.scm.Add(smbtest.Service{Name: name, State: state}))
}

// say writes to the agent's log.
func (l *winLab) say(text string) {
	f, err := os.OpenFile(l.dir(agent.LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, _ = f.WriteString(text + "\n")
		_ = f.Close()
	}
}

// exit ends the agent's service with a code of its own.
func (l *winLab) exit(code uint32) {
	reason := smbtest.ErrSpecific
	if code == 0 {
		reason = 0
	}
	l.scm.Exit(agent.ServiceName(l.id), reason, code)
}

func (l *winLab) processes() []int {
	return (&lab{base: filepath.Join(l.srv.Admin(), "roundsman")}).processes()
}

// requireClean asserts that no service, no process and nothing but logs is left.
func (l *winLab) requireClean() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.processes()) == 0 }, 20*time.Second, 20*time.Millisecond, "processes are left")
	for _, svc := range l.scm.List() {
		require.False(l.t, strings.HasPrefix(svc.Name, agent.ServicePrefix), "the service %s is left, %s", svc.Name, svc.State)
	}
	for _, name := range files(l.t, l.dir()) {
		require.True(l.t, name == agent.LogName || strings.HasPrefix(name, "jobs/") && (strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".log")), "left behind: %s", name)
	}
}

// requireNothing asserts that not even the base directory is left.
func (l *winLab) requireNothing() {
	l.t.Helper()
	l.requireClean()
	require.NoDirExists(l.t, filepath.Join(l.srv.Admin(), "roundsman"))
}

var errInjected = errors.New("injected")
