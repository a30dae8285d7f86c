package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

// A winHost is as much of a Windows server as can be had here: files and pipes are those
// of Samba, which demands signatures; the service control manager, the processes and the
// pipes behind those of Samba are Wine's, whose C:\Windows is ADMIN$. A program that runs
// cannot be deleted, as on Windows, neither over SMB nor on the host.
type winHost struct {
	*realtest.WineServices
	wine *realtest.Wine
	smb  *smbtest.Server
}

// newWinHost makes one, which takes about 10 seconds.
func newWinHost(t *testing.T) *winHost {
	t.Helper()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	w := realtest.NewWine(t)
	h := &winHost{wine: w, WineServices: w.Services(t)}
	h.ownDisk(t)
	var err error
	h.smb, err = smbtest.NewServer(smbtest.Config{Windows: w.Admin(), Services: &smbtest.Services{Backend: h}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.smb.Close()) })
	return h
}

// CreateService is that of the host. An agent's pipe is named as its service is.
func (h *winHost) CreateService(name, display, command string, startType uint32) (uint64, error) {
	handle, err := h.WineServices.CreateService(name, display, command, startType)
	if err == nil && !strings.HasPrefix(name, "roundsman-remove-") {
		// Of an earlier service of that name it is there already.
		_, _ = h.smb.Forward(name, func(ctx context.Context) (net.Conn, error) { return h.DialPipe(ctx, name) })
	}
	return handle, err
}

// endpoint is how it is reached.
func (h *winHost) endpoint() transport.Endpoint {
	return transport.Endpoint{
		Address: h.smb.Addr(), Credentials: transport.Credentials{User: h.smb.User(), Password: transport.NewSecret(h.smb.Password())},
		Options: smb.Options{ShareRoot: `C:\Windows`},
	}
}

func (h *winHost) dial(t *testing.T) transport.Conn {
	t.Helper()
	conn, err := (&smb.Transport{}).Dial(t.Context(), h.endpoint())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// path is the path on this host of a file of C:\.
func (h *winHost) path(elem ...string) string {
	return filepath.Join(append([]string{h.wine.C()}, elem...)...)
}

// Where agents are, below the Windows directory, and what of them stays there.
var (
	winLog = regexp.MustCompile(`^[0-9a-f]{16}/(agent\.log|jobs/[0-9a-f]{32}\.(json|log))$`)
	winDir = regexp.MustCompile(`^[0-9a-f]{16}(/jobs)?$`)
)

// look returns what is on the host because of us: files and directories that are no
// logs, and services, processes, handles and sessions.
func (h *winHost) look(t *testing.T) (left, running []string) {
	t.Helper()
	base := h.path("windows", "roundsman")
	_ = filepath.WalkDir(base, func(file string, e os.DirEntry, err error) error {
		name, _ := filepath.Rel(base, file)
		switch {
		case err != nil, name == ".", name == diskFile:
		case e.IsDir():
			if entries, err := os.ReadDir(file); !winDir.MatchString(name) || err == nil && len(entries) == 0 {
				left = append(left, name)
			}
		case !winLog.MatchString(name):
			left = append(left, name)
		}
		return nil
	})
	for _, dir := range []string{".", "ProgramData", "windows/temp", "users/*/Temp", "users/*/AppData/Local", "users/*/AppData/Local/Temp"} {
		files, err := filepath.Glob(h.path(dir, "*roundsman*"))
		require.NoError(t, err)
		left = append(left, files...)
	}
	names, err := h.Names("roundsman-")
	require.NoError(t, err)
	for _, name := range names {
		left = append(left, "service "+name)
	}
	processes, err := h.Processes()
	require.NoError(t, err)
	for _, p := range processes {
		if ours(p) {
			running = append(running, "process "+p.Program)
		}
	}
	if n := h.smb.Services().Handles(); n > 0 {
		running = append(running, "handles of services")
	}
	if h.smb.Connections() > 0 {
		running = append(running, "connections")
	}
	return left, running
}

// ours reports whether a process is of an agent's directory.
func ours(p realtest.WineProcess) bool {
	return strings.Contains(strings.ToLower(p.Program), `\windows\roundsman\`)
}

// requireClean: nothing is left of ours but logs, or will soon be.
func (h *winHost) requireClean(t *testing.T, after string) {
	t.Helper()
	var left, running []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left, running = h.look(t); len(left)+len(running) == 0 {
			return
		}
	}
	require.Fail(t, "something is left", "after %s: %q %q\nagent.log:\n%s", after, left[:min(len(left), 20)], running, h.agentLogs())
}

func (h *winHost) agentLogs() string {
	var b strings.Builder
	files, _ := filepath.Glob(h.path("windows", "roundsman", "*", agent.LogName))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		b.Write(data)
	}
	return b.String()
}

// testService: the host itself, with a service that is not the agent.
func (h *winHost) testService(t *testing.T) {
	program := filepath.Join(t.TempDir(), "echo.exe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/roundsman-go/roundsman/internal/winlab/winehelper")
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	f, err := transport.DiskFile(t.Context(), "echo.exe", program)
	require.NoError(t, err)

	conn := h.dial(t)
	ctx := t.Context()
	const dir, name = "/roundsman/lab", "roundsman-agent-lab"
	require.NoError(t, transport.Mkdir(ctx, conn, dir, 0o700))
	put, err := transport.Put(ctx, conn, dir+"/echo.exe", f, transport.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, `C:\Windows\roundsman\lab\echo.exe`, put.Info.Native)
	require.NoError(t, transport.CreateService(ctx, conn, transport.ServiceConfig{Name: name, Argv: []string{put.Info.Native, "service", name}}))
	_, err = transport.Dial(ctx, conn, "pipe", name)
	require.ErrorIs(t, err, os.ErrNotExist, "nobody serves it")

	for _, power := range []bool{true, false} {
		require.NoError(t, transport.StartService(ctx, conn, name))
		st, err := transport.QueryService(ctx, conn, name)
		require.NoError(t, err)
		require.Equal(t, transport.ServiceRunning, st.State)
		require.NotZero(t, st.PID)
		pipe, err := transport.Dial(ctx, conn, "pipe", `\\.\pipe\`+name)
		require.NoError(t, err)
		_, err = io.WriteString(pipe, "hello")
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(pipe, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.Error(t, os.Remove(h.path("windows", "roundsman", "lab", "echo.exe")), "it runs")
		if power {
			require.NoError(t, transport.StopService(ctx, conn, name))
			st, err = transport.QueryService(ctx, conn, name)
			require.NoError(t, err)
			require.Equal(t, transport.Code{Space: "service", Value: "7"}, st.Exit)
		} else {
			require.NoError(t, h.Down())
			_, err = transport.QueryService(ctx, conn, name)
			require.Error(t, err)
			require.NoError(t, h.Up())
			st, err = transport.QueryService(ctx, conn, name)
			require.NoError(t, err)
			require.Equal(t, transport.ServiceStopped, st.State)
		}
		_, err = pipe.Read(got)
		require.Error(t, err)
		require.NoError(t, pipe.Close())
		_, err = transport.Dial(ctx, conn, "pipe", name)
		require.ErrorIs(t, err, os.ErrNotExist, "nobody serves it any more")
	}
	left, _ := h.look(t)
	require.Contains(t, left, "service "+name)
	require.Contains(t, left, "lab/echo.exe")
	require.Contains(t, left, "lab")
	require.NoError(t, transport.DeleteService(ctx, conn, name))
	_, err = transport.QueryService(ctx, conn, name)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, transport.RemoveAll(ctx, conn, dir))
	require.NoError(t, conn.Close(ctx))
	h.requireClean(t, "the service")
}
