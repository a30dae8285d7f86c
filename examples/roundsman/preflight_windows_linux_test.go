package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

// TestPreflightWindows looks at a Windows server over SMB: nothing is put there, and what
// only a program there could see is said to be untried.
func TestPreflightWindows(t *testing.T) {
	t.Parallel()
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	srv, err := smbtest.NewServer(smbtest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	require.NoError(t, srv.Services().Add(smbtest.Service{Name: "LanmanServer", State: smbtest.Running}))
	pe := make([]byte, 256) // what the processor of a server is known by
	copy(pe, "MZ")
	pe[60] = 128
	copy(pe[128:], "PE\x00\x00\x64\x86")
	require.NoError(t, os.MkdirAll(filepath.Join(srv.Admin(), "System32"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(srv.Admin(), "System32", "kernel32.dll"), pe, 0o600))
	b := newBench(t)
	source := &peSource{known: true}
	a := &app{installer: &install.Installer{Source: source}, resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
		return &smb.Transport{}, transport.Endpoint{Address: t.Address, Options: smb.Options{ShareRoot: `C:\Windows`},
			Credentials: transport.Credentials{User: t.User, Password: transport.NewSecret(srv.Password())}}, nil
	}}
	args := []string{"preflight", "--probe", "--journal", t.TempDir(), "windows://LAB;" + srv.User() + "@" + srv.Addr()}
	status := a.run(t.Context(), args, strings.NewReader(""), &b.out, &b.errs, nil)
	require.Equal(t, 0, status, "%s%s", b.out.String(), b.errs.String())
	require.Contains(t, b.out.String(), "lets the manager in")
	require.Contains(t, b.out.String(), "no other manager works there")
	require.Contains(t, b.out.String(), "cannot be seen without a program there")
	require.Len(t, srv.Services().List(), 1)

	source.known = false
	b.out.Reset()
	a.status = 0
	require.NotEqual(t, 0, a.run(t.Context(), args, strings.NewReader(""), &b.out, &b.errs, nil), "without an agent nothing can be done")
	require.Contains(t, b.out.String(), "blocks no-binary: there is no agent for windows/amd64")
	require.Contains(t, b.out.String(), "examples/agentpack")
	require.NotContains(t, b.out.String(), "--agentless")
	source.known = true

	srv.Services().SetFaults(smbtest.Faults{CreateDenied: true})
	b.out.Reset()
	a.status = 0
	require.NotEqual(t, 0, a.run(t.Context(), args, strings.NewReader(""), &b.out, &b.errs, nil))
	require.Contains(t, b.out.String(), "LocalAccountTokenFilterPolicy")
	require.Contains(t, b.out.String(), "blocks no-elevation")
}

// peSource has an agent for every system, or for none.
type peSource struct{ known bool }

func (s *peSource) Open(context.Context, string, string) (transport.File, error) {
	if !s.known {
		return transport.File{}, &agent.Error{Op: "binary", Kind: agent.ErrNoBinary}
	}
	return transport.BytesFile(agent.BinaryName, []byte("MZ")), nil
}
