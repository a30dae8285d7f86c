package install_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/internal/winlab"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

// wineHost is a Windows server as far as Linux has one: files and pipes are Samba's, services
// and processes Wine's, and the agent is the one for Windows.
type wineHost struct {
	*realtest.WineServices
	t       *testing.T
	wine    *realtest.Wine
	smb     *smbtest.Server
	program string // the agent's
}

func newWineHost(t *testing.T) *wineHost {
	t.Helper()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	w := realtest.NewWine(t)
	h := &wineHost{WineServices: w.Services(t), t: t, wine: w, program: filepath.Join(w.Dir, agent.WindowsBinaryName)}
	require.NoError(t, winlab.Build(t.Context(), h.program, "github.com/roundsman-go/roundsman/examples/agent"))
	var err error
	h.smb, err = smbtest.NewServer(smbtest.Config{Windows: w.Admin(), Services: &smbtest.Services{Backend: h}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.smb.Close()) })
	require.NoError(t, os.Mkdir(filepath.Join(w.C(), "rm"), 0o700))
	return h
}

// CreateService is that of Wine. An agent's pipe is named as its service is.
func (h *wineHost) CreateService(name, display, command string, startType uint32) (uint64, error) {
	handle, err := h.WineServices.CreateService(name, display, command, startType)
	if err == nil {
		// Of an earlier service of that name it is there already.
		_, _ = h.smb.Forward(name, func(ctx context.Context) (net.Conn, error) { return h.DialPipe(ctx, name) })
	}
	return handle, err
}

func (h *wineHost) base(elem ...string) string {
	return filepath.Join(append([]string{h.wine.Admin(), "roundsman"}, elem...)...)
}

// ids are the agents that have a program or a service there.
func (h *wineHost) ids() map[string]bool {
	h.t.Helper()
	out := map[string]bool{}
	names, err := h.Names(agent.ServicePrefix)
	require.NoError(h.t, err)
	for _, name := range names {
		out[name[strings.LastIndex(name, "-")+1:]] = true
	}
	programs, err := filepath.Glob(h.base("*", "*.exe"))
	require.NoError(h.t, err)
	for _, p := range programs {
		out[filepath.Base(filepath.Dir(p))] = true
	}
	return out
}

// kill ends the process of a service as nothing can prevent.
func (h *wineHost) kill(service string) {
	h.t.Helper()
	handle, err := h.OpenService(service)
	require.NoError(h.t, err)
	defer func() { require.NoError(h.t, h.CloseService(handle)) }()
	st, err := h.QueryService(handle)
	require.NoError(h.t, err)
	require.NoError(h.t, h.Kill(st[7]))
	require.Eventually(h.t, func() bool {
		st, err := h.QueryService(handle)
		return err == nil && st[1] == 1 // SERVICE_STOPPED
	}, time.Minute, 20*time.Millisecond)
}

// running are the processes whose programs are in a directory of an agent.
func (h *wineHost) running(id string) (pids []uint32) {
	h.t.Helper()
	all, err := h.Processes()
	require.NoError(h.t, err)
	for _, p := range all {
		if strings.Contains(strings.ToLower(p.Program), `\roundsman\`+id+`\`) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// age makes the directory of an agent as old as if nobody had been there for hours.
func (h *wineHost) age(id string) {
	h.t.Helper()
	at := time.Now().Add(-2 * time.Hour)
	require.NoError(h.t, filepath.WalkDir(h.base(id), func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(file, ".exe") { // the lab keeps what runs from being changed
			_ = exec.Command("chattr", "-i", file).Run()
		}
		return os.Chtimes(file, at, at)
	}))
}

// wineManager is a manager of its own: its journal is in a directory.
type wineManager struct {
	journal, program, addr, user, password string
}

func (h *wineHost) manager() wineManager {
	return wineManager{h.t.TempDir(), h.program, h.smb.Addr(), h.smb.User(), h.smb.Password()}
}

// Open implements install.Source.
func (m wineManager) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	if goos != "windows" || goarch != "amd64" {
		return transport.File{}, &agent.Error{Op: "binary", Kind: agent.ErrNoBinary}
	}
	return transport.DiskFile(ctx, agent.BinaryName, m.program)
}

// node opens a session, and its node.
func (m wineManager) node(log *slog.Logger) (*sum.Session, *sum.Node, error) {
	s, err := sum.Open(context.Background(), sum.Config{
		Resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
			return &smb.Transport{}, transport.Endpoint{
				Address: t.Address, Credentials: transport.Credentials{User: t.User, Password: transport.NewSecret(m.password)},
				Options: smb.Options{ShareRoot: `C:\Windows`},
			}, nil
		},
		Journal: filepath.Join(m.journal, "journal"), Installer: &install.Installer{Source: m, Logger: log},
	})
	if err != nil {
		return nil, nil, err
	}
	n, err := s.Node(sum.Target{Kind: sum.Windows, User: m.user, Address: m.addr})
	return s, n, err
}

// wineComponent installs nothing, until there is a file.
func wineComponent() *component.Component {
	return &component.Component{
		Name: "thing", Version: "2.0", Scheme: version.Numeric, Kinds: []string{"windows"}, Match: component.Match{Probe: "thing"},
		ProbeArgv: []string{"cmd.exe", "/c", `type C:\rm\version`}, Profile: agent.ProfileZeroOK,
		Payload: transport.Payload{Name: "thing", Version: "2.0", Files: []transport.File{transport.BytesFile("thing.txt", []byte("x"))}},
		Install: []string{"cmd.exe", "/c", `echo run>C:\rm\runs& for /l %i in (0,0,1) do (if exist C:\rm\gate (echo 2.0>C:\rm\version& exit 0) else ping -n 2 127.0.0.1 >nul)`},
	}
}

const wineVariable = "INSTALL_TEST_WINE"

// TestWineManagerProcess is no test of its own: it is the manager that others kill. It says
// when its agent is there, and then deploys.
func TestWineManagerProcess(t *testing.T) {
	at := strings.Split(os.Getenv(wineVariable), " ")
	if len(at) != 5 {
		t.Skip("this is for copies of the test program")
	}
	m, c, ctx := wineManager{at[0], at[1], at[2], at[3], at[4]}, wineComponent(), context.Background()
	_, n, err := m.node(nil)
	require.NoError(t, err)
	inv, err := sum.Inventory(ctx, n, c)
	require.NoError(t, err)
	fmt.Println("\nagent is there")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	require.NoError(t, err)
	plan := sum.MakePlan(n.Target(), inv, []*component.Component{c}, sum.PlanOptions{})
	_, err = sum.Deploy(ctx, n, plan, []*component.Component{c}, sum.DeployOptions{})
	require.NoError(t, err)
}

// TestKilledManagersWine: what a manager and its agent left that were both killed, and whose
// journal is lost, goes when another manager deploys and the lease is over. As long as it is
// in force, or its job runs, nothing of it is touched.
func TestKilledManagersWine(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it makes a prefix of Wine")
	}
	t.Parallel()
	h := newWineHost(t)
	// killed starts a manager, which deploys or not, and kills it and its agent.
	killed := func(deploys bool) (id string) {
		m, before := h.manager(), h.ids()
		cmd := exec.Command(os.Args[0], "-test.run=^TestWineManagerProcess$", "-test.v")
		cmd.Env = append(os.Environ(), wineVariable+"="+strings.Join([]string{m.journal, m.program, m.addr, m.user, m.password}, " "))
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		var said []string
		there := false
		for sc := bufio.NewScanner(out); !there && sc.Scan(); {
			said = append(said, sc.Text())
			there = sc.Text() == "agent is there"
		}
		require.True(t, there, "%s", strings.Join(said, "\n"))
		if deploys {
			_, err = in.Write([]byte("go\n"))
			require.NoError(t, err)
			require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(h.wine.C(), "rm", "runs")); return err == nil }, 2*time.Minute, 20*time.Millisecond)
		}
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.NoError(t, os.RemoveAll(filepath.Join(m.journal, "journal")))
		for other := range h.ids() {
			if !before[other] {
				id = other
			}
		}
		require.NotEmpty(t, id)
		h.kill(agent.ServiceName(id))
		return id
	}
	// comes is another manager, which works there and goes.
	comes := func() (log string) {
		t.Helper()
		var said buffer
		s, n, err := h.manager().node(slog.New(slog.NewTextHandler(&said, nil)))
		require.NoError(t, err)
		_, err = sum.Inventory(t.Context(), n, wineComponent())
		require.NoError(t, errors.Join(err, s.Close(context.Background())))
		return said.String()
	}
	gone := func(id string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(h.ids()) == 0 }, time.Minute, 50*time.Millisecond, "%v", h.ids())
		for _, name := range files(t, h.base(id)) {
			require.True(t, name == agent.LogName || strings.HasPrefix(name, "jobs/") && (strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".log")), "left behind: %s", name)
		}
	}

	idle := killed(false)
	before := files(t, h.base(idle))
	require.Contains(t, before, agent.WindowsBinaryName)
	require.NotContains(t, comes(), idle)
	require.Equal(t, map[string]bool{idle: true}, h.ids(), "its lease is in force")
	require.Equal(t, before, files(t, h.base(idle)))
	h.age(idle)
	require.Regexp(t, `msg="removed what dead agents of other managers had left".*`+idle, comes())
	gone(idle)

	busy := killed(true)
	require.NotEmpty(t, h.running(busy), "its job runs")
	before = files(t, h.base(busy))
	h.age(busy)
	comes()
	require.Equal(t, map[string]bool{busy: true}, h.ids())
	require.Equal(t, before, files(t, h.base(busy)))
	require.NoError(t, os.WriteFile(filepath.Join(h.wine.C(), "rm", "gate"), nil, 0o600))
	require.Eventually(t, func() bool {
		data, _ := os.ReadFile(filepath.Join(h.wine.C(), "rm", "version"))
		return string(data) == "2.0\r\n"
	}, time.Minute, 20*time.Millisecond, "the job was left alone")
	records, err := filepath.Glob(h.base(busy, "jobs", "*.json"))
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Eventually(t, func() bool {
		data, _ := os.ReadFile(records[0])
		return strings.Contains(string(data), `"state": "Done"`)
	}, time.Minute, 20*time.Millisecond, "its shim records the end")
	for _, pid := range h.running(busy) { // or that would clean up
		require.NoError(t, h.Kill(pid))
	}
	require.Eventually(t, func() bool { return len(h.running(busy)) == 0 }, time.Minute, 20*time.Millisecond)
	h.age(busy)
	comes()
	gone(busy)
	require.FileExists(t, records[0])
}
