package smbtest_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

// backend is a Backend with one service.
type backend struct {
	smbtest.Backend // nil: the methods that are not used
	mu              sync.Mutex
	there           bool
	runs, lingers   bool
	open            int
	args            []string
}

func (b *backend) CreateService(name, display, command string, startType uint32) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.there {
		return 0, smbtest.ErrServiceExists
	}
	b.there = true
	b.open++
	return 1, nil
}

// code is an error of somebody else's.
type code uint32

func (c code) Error() string { return "a code" }
func (c code) Win32() uint32 { return uint32(c) }

func (b *backend) OpenService(name string) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.there {
		return 0, code(smbtest.ErrNoService)
	}
	b.open++
	return 1, nil
}

func (b *backend) CloseService(uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	return nil
}

func (b *backend) StartService(_ uint64, args []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs, b.args = true, args
	return nil
}

func (b *backend) StopService(uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs = false
	return nil
}

func (b *backend) DeleteService(uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.there = false
	return nil
}

func (b *backend) QueryService(uint64) (st [9]uint32, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st[0], st[1], st[3], st[4] = 0x10, uint32(smbtest.Stopped), uint32(smbtest.ErrSpecific), 7
	if b.runs {
		st[1], st[7] = uint32(smbtest.Running), 42
	}
	return st, nil
}

func (b *backend) Use(program string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runs || b.lingers
}

func (b *backend) linger(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lingers = on
}

func dial(t *testing.T, s *smbtest.Server) transport.Conn {
	t.Helper()
	conn, err := (&smb.Transport{}).Dial(t.Context(), transport.Endpoint{
		Address: s.Addr(), Credentials: transport.Credentials{User: s.User(), Password: transport.NewSecret(s.Password())},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TestBackend: services are those of another manager, and their programs cannot be
// removed as long as they run.
func TestBackend(t *testing.T) {
	windows := t.TempDir()
	b := new(backend)
	services := &smbtest.Services{Backend: b}
	s := newServer(t, smbtest.Config{Services: services, Windows: windows})
	require.Equal(t, windows, s.Admin())
	require.Equal(t, filepath.Join(windows, "x"), s.Path(`C:\Windows\x`))
	conn := dial(t, s)
	_, err := transport.Put(t.Context(), conn, "agent.exe", transport.BytesFile("agent.exe", []byte("program")), transport.PutOptions{})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(windows, "agent.exe"))

	cfg := transport.ServiceConfig{Name: "Agent", Argv: []string{`C:\Windows\agent.exe`, "serve"}}
	require.NoError(t, transport.CreateService(t.Context(), conn, cfg))
	require.ErrorIs(t, transport.CreateService(t.Context(), conn, cfg), fs.ErrExist)
	services.SetFaults(smbtest.Faults{StartError: smbtest.ErrStartTimeout})
	require.Error(t, transport.StartService(t.Context(), conn, "agent"))
	services.SetFaults(smbtest.Faults{})
	require.NoError(t, transport.StartService(t.Context(), conn, "agent", "a", "b c"))
	require.Equal(t, []string{"a", "b c"}, b.args)
	st, err := transport.QueryService(t.Context(), conn, "agent")
	require.NoError(t, err)
	require.Equal(t, transport.ServiceStatus{State: transport.ServiceRunning, PID: 42}, st)
	pinned := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // it is tried again and again
		defer cancel()
		require.Error(t, transport.Remove(ctx, conn, "agent.exe"), "its program runs")
		require.FileExists(t, filepath.Join(windows, "agent.exe"))
	}
	pinned()

	b.linger(true) // a process that it started
	require.NoError(t, transport.StopService(t.Context(), conn, "agent"))
	st, err = transport.QueryService(t.Context(), conn, "agent")
	require.NoError(t, err)
	require.Equal(t, transport.Code{Space: "service", Value: "7"}, st.Exit)
	pinned() // by what it started
	b.linger(false)
	eventually(t, func() bool { return transport.Remove(t.Context(), conn, "agent.exe") == nil }, "the program cannot be removed")

	require.NoError(t, transport.DeleteService(t.Context(), conn, "agent"))
	_, err = transport.QueryService(t.Context(), conn, "agent")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Zero(t, b.open, "handles")
	require.Zero(t, services.Handles())
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, s.Close())
	require.DirExists(t, windows)
}

// TestForward: a pipe whose server is elsewhere is there as long as that is.
func TestForward(t *testing.T) {
	s := newServer(t, smbtest.Config{})
	conn := dial(t, s)
	_, none := transport.Dial(t.Context(), conn, "pipe", "agent")
	require.ErrorIs(t, none, fs.ErrNotExist)

	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	require.NoError(t, err)
	down := errors.New("down")
	var up sync.Map
	c, err := s.Forward("Agent", func(ctx context.Context) (net.Conn, error) {
		if _, ok := up.Load("up"); !ok {
			return nil, down
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", ln.Addr().String())
	})
	require.NoError(t, err)
	_, err = transport.Dial(t.Context(), conn, "pipe", "agent")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, transport.CodeOf(none), transport.CodeOf(err), "as if there were none")

	up.Store("up", true)
	near, err := transport.Dial(t.Context(), conn, "pipe", `\\.\pipe\agent`)
	require.NoError(t, err)
	far, err := ln.Accept()
	require.NoError(t, err)
	go func() { _, _ = io.WriteString(near, "hello") }()
	got := make([]byte, 5)
	_, err = io.ReadFull(far, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	_, err = io.WriteString(far, "world")
	require.NoError(t, err)
	_, err = io.ReadFull(near, got)
	require.NoError(t, err)
	require.Equal(t, "world", string(got))
	// Whoever hangs up, the other learns it.
	require.NoError(t, far.Close())
	_, err = near.Read(got)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, near.Close())
	near, err = transport.Dial(t.Context(), conn, "pipe", "agent")
	require.NoError(t, err)
	far, err = ln.Accept()
	require.NoError(t, err)
	require.NoError(t, near.Close())
	_, err = far.Read(got)
	require.ErrorIs(t, err, io.EOF)

	up.Delete("up")
	_, err = transport.Dial(t.Context(), conn, "pipe", "agent")
	require.ErrorIs(t, err, fs.ErrNotExist, "nobody serves it any more")

	require.NoError(t, c.Close())
	_, err = transport.Dial(t.Context(), conn, "pipe", "agent")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
