package sum_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

// windowsWire is a connection to a Windows server that says for which processor its
// programs are, or a Dial that fails.
type windowsWire struct {
	arch string
	err  error
}

func (w windowsWire) Identify(context.Context) (transport.Identity, error) {
	return transport.Identity{Name: "DB2", OS: "windows", Arch: w.arch}, nil
}
func (w windowsWire) Caps() transport.Caps        { return 0 }
func (w windowsWire) Path() transport.Path        { return transport.Path{} }
func (w windowsWire) Close(context.Context) error { return nil }
func (w windowsWire) Dial(context.Context, transport.Endpoint) (transport.Conn, error) {
	return w, w.err
}

// sourceOf is a Source of agents for one processor.
type sourceOf string

func (s sourceOf) Open(_ context.Context, goos, goarch string) (transport.File, error) {
	if goos != "windows" || goarch != string(s) {
		return transport.File{}, &agent.Error{Op: "binary", Kind: agent.ErrNoBinary}
	}
	return transport.BytesFile(agent.BinaryName, []byte("MZ")), nil
}

// lookAtWindows is the Preflight of a Windows server.
func lookAtWindows(t *testing.T, w windowsWire, in agent.Installer) []sum.Finding {
	t.Helper()
	target := sum.Target{Name: "db2", Kind: sum.Windows, User: "LAB;ops", Address: "192.0.2.7"}
	s, err := sum.Open(t.Context(), sum.Config{Journal: t.TempDir(), Installer: in,
		Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
			return w, transport.Endpoint{Address: target.Address}, nil
		}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(t.Context())) }()
	n, err := s.Node(target)
	require.NoError(t, err)
	list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
	require.NoError(t, err)
	for _, f := range list {
		for _, word := range []string{"sudo", "keys", "without an agent", "/var/"} {
			require.NotContains(t, f.Advice, word, "%v", f)
		}
	}
	return list
}

// TestPreflightProgram: a Windows server for which there is no agent, or none that can be
// told, is not fit, although nothing is put there to see that.
func TestPreflightProgram(t *testing.T) {
	t.Parallel()
	in := &install.Installer{Source: sourceOf("amd64")}
	require.Empty(t, found(lookAtWindows(t, windowsWire{arch: "amd64"}, in), sum.FindBinary))
	for arch, want := range map[string]string{"arm64": "windows/arm64", "": "for which processor"} {
		list := found(lookAtWindows(t, windowsWire{arch: arch}, in), sum.FindBinary)
		require.Len(t, list, 1)
		require.Equal(t, sum.Blocks, list[0].Severity)
		require.Contains(t, list[0].Text, want)
		require.NotEmpty(t, list[0].Advice)
		require.ErrorIs(t, list[0].Err, agent.ErrNoBinary)
	}
}

// TestPreflightWindowsAdvice: what is found wrong with a Windows server has a code that
// fits, and advice that can be followed there.
func TestPreflightWindowsAdvice(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		dial   error
		unfit  error
		code   sum.FindingCode
		advice string
	}{
		"no password":      {dial: &transport.Error{Kind: sum.ErrNoPassword}, code: sum.FindNoPassword, advice: "nothing was dialled"},
		"wrong password":   {dial: transport.ErrAuth, code: sum.FindLogin, advice: "user, domain and password"},
		"no administrator": {dial: fs.ErrPermission, code: sum.FindFailed, advice: "administrator"},
		"another server":   {dial: transport.ErrTrust, code: sum.FindIdentity, advice: "another server"},
		"malformed":        {dial: transport.ErrInvalid, code: sum.FindFailed, advice: "correct"},
		"no rights":        {unfit: fmt.Errorf("services: %w", fs.ErrPermission), code: sum.FindRights, advice: "administrator"},
		"no services":      {unfit: fmt.Errorf("services: %w", errors.ErrUnsupported), code: sum.FindFailed, advice: "LanmanServer"},
		"bad directory":    {unfit: errors.New("/x is not a directory"), code: sum.FindDirectory, advice: "below the Windows directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &agenttest.Installer{}
			if x.unfit != nil {
				in.Host("db2").SetFacts(agent.Facts{OS: "windows", UID: -1, Free: -1, Within: -1, Unfit: []error{x.unfit}})
			}
			list := sum.Blocking(lookAtWindows(t, windowsWire{arch: "amd64", err: x.dial}, in))
			require.Len(t, list, 1)
			require.Equal(t, x.code, list[0].Code)
			require.Contains(t, strings.ToLower(list[0].Advice), strings.ToLower(x.advice))
		})
	}
}
