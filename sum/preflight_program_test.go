package sum_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
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
	path transport.Path
}

func (w windowsWire) Identify(context.Context) (transport.Identity, error) {
	return transport.Identity{Name: "DB2", OS: "windows", Arch: w.arch}, nil
}
func (w windowsWire) Caps() transport.Caps        { return 0 }
func (w windowsWire) Path() transport.Path        { return w.path }
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

// lookAtWindows is the Preflight of a Windows server, whose other ports refuse.
func lookAtWindows(t *testing.T, w windowsWire, in agent.Installer, opts ...sum.PreflightOptions) []sum.Finding {
	t.Helper()
	o := sum.PreflightOptions{}
	if len(opts) > 0 {
		o = opts[0]
	}
	o.DialContext = nobody
	target := sum.Target{Name: "db2", Kind: sum.Windows, User: "LAB;ops", Address: "192.0.2.7"}
	s, err := sum.Open(t.Context(), sum.Config{Journal: t.TempDir(), Installer: in,
		Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
			return w, transport.Endpoint{Address: target.Address}, nil
		}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(t.Context())) }()
	n, err := s.Node(target)
	require.NoError(t, err)
	list, err := sum.Preflight(t.Context(), n, o)
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

// wrapped is an Installer that hides the one that it wraps.
type wrapped struct {
	agent.Installer
	sum.AgentBringer
}

// TestPreflightWrapped: who wraps an Installer can hand on whether it has a program.
func TestPreflightWrapped(t *testing.T) {
	t.Parallel()
	in := &install.Installer{Source: sourceOf("arm64")}
	require.Len(t, found(lookAtWindows(t, windowsWire{arch: "amd64"}, wrapped{in, in}), sum.FindBinary), 1)
	require.Empty(t, found(lookAtWindows(t, windowsWire{arch: "arm64"}, wrapped{in, in}), sum.FindBinary))
}

// TestConnectCode: one cause has one code, whether Preflight meets it or another step.
func TestConnectCode(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, err := range []error{
		sum.ErrNoPassword, transport.ErrTrust, transport.ErrAuth, transport.ErrElevation, transport.ErrInvalid, sum.ErrInvalid, transport.ErrProtocol,
		transport.ErrRejected, errors.ErrUnsupported, &net.DNSError{Name: "db2", IsNotFound: true}, &net.DNSError{Name: "db2", IsTemporary: true},
		dial(syscall.ECONNREFUSED), dial(syscall.EHOSTUNREACH), dial(syscall.EPERM), dial(context.DeadlineExceeded), fs.ErrPermission,
		transport.ErrUnreachable, transport.ErrConnLost, errors.New("x"),
		reset(),
	} {
		err = &transport.Error{Op: "dial", Target: "192.0.2.7", Err: err}
		list := sum.Blocking(lookAtWindows(t, windowsWire{err: err}, &agenttest.Installer{}))
		require.NotEmpty(t, list, "%v", err) // of the kind without a driver also its ports
		require.Equal(t, list[len(list)-1].Code, sum.ConnectCode(err, sum.Windows), "%v", err)
	}
	require.Equal(t, sum.FindUnknown, sum.ConnectCode(fmt.Errorf("%w: %w", transport.ErrTrust, transport.ErrUnknownIdentity), sum.Linux))
	require.Equal(t, sum.FindTimeout, sum.ConnectCode(transport.ErrTimeout, sum.Linux))
	require.Equal(t, sum.FindService, sum.ConnectCode(reset(), sum.Windows), "somebody has taken the connection")
	require.Equal(t, sum.FindRefused, sum.ConnectCode(dial(syscall.ECONNRESET), sum.Windows))
}

// reset is the error of a login at something that takes connections and resets them.
func reset() error {
	return &transport.Error{Op: "dial", Target: "192.0.2.7", Kind: transport.ErrConnLost, Err: &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}}
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
		"no administrator": {dial: fs.ErrPermission, code: sum.FindRights, advice: "administrator"},
		"another server":   {dial: transport.ErrTrust, code: sum.FindIdentity, advice: "another server"},
		"malformed":        {dial: transport.ErrInvalid, code: sum.FindInvalid, advice: "correct"},
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

// TestPreflightByWMI: where the caller says that WMI is used, port 135 has to be open; and an
// inventory by it takes no agent.
func TestPreflightByWMI(t *testing.T) {
	t.Parallel()
	in := &install.Installer{Source: sourceOf("arm64")}
	w := windowsWire{arch: "amd64", path: transport.Path{Remote: netip.MustParseAddrPort("192.0.2.7:445")}}
	wmi := []sum.PortOption{sum.UseWMI}
	is135 := func(f sum.Finding) bool { return f.Port == 135 }
	for _, x := range []struct {
		phase     sum.Phase
		tried     bool
		mayAgents bool
	}{{"", true, true}, {sum.PhaseInventory, true, false}, {sum.PhaseDeploy, false, true}} {
		list := lookAtWindows(t, w, in, sum.PreflightOptions{Phase: x.phase, Use: wmi})
		i := slices.IndexFunc(list, is135)
		require.Equal(t, x.tried, i >= 0, "%v", list)
		if i >= 0 {
			require.Equal(t, sum.Blocks, list[i].Severity)
		}
		require.Equal(t, x.mayAgents, len(found(list, sum.FindBinary)) > 0, "%v", list)
	}
	require.False(t, slices.ContainsFunc(lookAtWindows(t, w, in), is135))
}
