package smbtest_test

import (
	"context"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hirochachacha/go-smb2"
	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// patience is how long anything may take that must come about.
const patience = time.Minute

func newServer(t testing.TB, cfg smbtest.Config) *smbtest.Server {
	t.Helper()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	s, err := smbtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// login is a session of go-smb2, without the shim that a server needs that demands
// signing.
func login(t testing.TB, s *smbtest.Server) *smb2.Session {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(c)
	require.NoError(t, err)
	return session
}

// pipe is an open of a named pipe.
type pipe struct {
	*smb2.File
	net.Conn // nil: the methods that go-msrpc does not use
}

func openPipe(t testing.TB, session *smb2.Session, name string) *pipe {
	t.Helper()
	ipc, err := session.Mount("IPC$")
	require.NoError(t, err)
	f, err := ipc.OpenFile(name, 2, 0o666)
	require.NoError(t, err)
	runtime.SetFinalizer(f, nil) // it would write to a connection that may be gone, and wait for ever
	return &pipe{File: f}
}

func (p *pipe) Read(b []byte) (int, error)       { return p.ReadAt(b, 0) }
func (p *pipe) Write(b []byte) (int, error)      { return p.WriteAt(b, 0) }
func (p *pipe) Close() error                     { return p.File.Close() }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

func (p *pipe) DialContext(context.Context, string, string) (net.Conn, error) { return p, nil }

// control is a client of the service control manager.
func control(t testing.TB, session *smb2.Session) svcctl.SvcctlClient {
	t.Helper()
	p := openPipe(t, session, "svcctl")
	t.Cleanup(func() { _ = p.Close() })
	cc, err := dcerpc.Dial(t.Context(), "127.0.0.1", dcerpc.WithEndpoint("ncacn_ip_tcp:[9]"), dcerpc.WithDialer(p))
	require.NoError(t, err)
	c, err := svcctl.NewSvcctlClient(t.Context(), cc, dcerpc.WithInsecure())
	require.NoError(t, err)
	return c
}

// client runs smbclient with a command on a share, and returns what it says.
func client(t testing.TB, s *smbtest.Server, share, command string, args ...string) (string, error) {
	t.Helper()
	program := realtest.Need(t, "smbclient")
	host, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Neither the machine's configuration nor that of whoever runs the test.
	args = append([]string{"-s", "/dev/null", "-U", s.User() + "%" + s.Password(), "-p", port, "-c", command, "//localhost/" + share, "-I", host}, args...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(cmd.Environ(), "HOME="+cmd.Dir)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// eventually polls until f holds.
func eventually(t testing.TB, f func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}
