package sum_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// found returns the findings with a code.
func found(list []sum.Finding, code sum.FindingCode) []sum.Finding {
	var out []sum.Finding
	for _, f := range list {
		if f.Code == code {
			out = append(out, f)
		}
	}
	return out
}

// nobody is reached by who dials with it.
func nobody(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }

// TestPreflightFacts: what a target is like becomes findings; what blocks stops a
// deployment before its first change, unless that is told not to look.
func TestPreflightFacts(t *testing.T) {
	fit := agent.Facts{OS: "linux", Arch: "amd64", Dir: "/var/lib/roundsman", Free: 1 << 30, Within: time.Second}
	with := func(edit func(*agent.Facts)) agent.Facts {
		f := fit
		edit(&f)
		return f
	}
	for name, tt := range map[string]struct {
		facts  agent.Facts
		code   sum.FindingCode // "": none
		want   sum.Severity
		stops  bool // a deployment
		advice string
		text   string
		other  bool // the component is no package
	}{
		"fit":                          {facts: fit},
		"almost full":                  {facts: with(func(f *agent.Facts) { f.Free = 1 << 10 }), code: sum.FindSpace, want: sum.Blocks, stops: true},
		"almost full, and sent before": {facts: with(func(f *agent.Facts) { f.Free, f.Staged = 1<<10, 1<<30 })},
		"room unknown":                 {facts: with(func(f *agent.Facts) { f.Free = -1 })},
		"full": {facts: with(func(f *agent.Facts) {
			f.Dir, f.Unfit = "", []error{fmt.Errorf("/var/lib/roundsman: %w", transport.ErrNoSpace)}
		}), code: sum.FindSpace, want: sum.Blocks, stops: true, text: ", and 33 MiB are needed"},
		"read-only": {facts: with(func(f *agent.Facts) {
			f.Dir, f.Unfit = "", []error{fmt.Errorf("/var/lib/roundsman: %w", syscall.EROFS)}
		}), code: sum.FindDirectory, want: sum.Blocks, stops: true, advice: "mount it writable"},
		"noexec": {facts: with(func(f *agent.Facts) {
			f.Dir, f.Unfit = "", []error{fmt.Errorf("/var/lib/roundsman: %w", agent.ErrNoExec)}
		}), code: sum.FindNoExec, want: sum.Blocks, stops: true, advice: "without an agent"},
		"noexec, elsewhere": {facts: with(func(f *agent.Facts) {
			f.Dir, f.Unfit = "/opt/roundsman", []error{fmt.Errorf("/var/lib/roundsman: %w", agent.ErrNoExec)}
		}), code: sum.FindNoExec, want: sum.Notice},
		"policy": {facts: with(func(f *agent.Facts) {
			f.Dir, f.Unfit = "", []error{&agent.Error{Op: "check", Kind: agent.ErrPolicy, Hint: "trust it"}}
		}), code: sum.FindPolicy, want: sum.Blocks, stops: true},
		"another directory": {facts: with(func(f *agent.Facts) { f.Dir, f.Unfit = "", []error{errors.New("everybody may replace it")} }),
			code: sum.FindDirectory, want: sum.Blocks, stops: true},
		"not root":             {facts: with(func(f *agent.Facts) { f.UID = 1000 }), code: sum.FindNotRoot, want: sum.Blocks, stops: true, text: "the package thing needs root"},
		"not root, no package": {facts: with(func(f *agent.Facts) { f.UID = 1000 }), code: sum.FindNotRoot, want: sum.Notice, other: true, text: "such as packages"},
		"clock ahead":          {facts: with(func(f *agent.Facts) { f.Skew = 87600 * time.Hour }), code: sum.FindClock, want: sum.Notice},
		"clock behind":         {facts: with(func(f *agent.Facts) { f.Skew = -87600 * time.Hour }), code: sum.FindClock, want: sum.Notice},
		"clock not seen":       {facts: with(func(f *agent.Facts) { f.Within, f.Free = -1, -1 }), code: sum.FindUntried, want: sum.Notice, text: "how much room it has"},
		"not known":            {facts: with(func(f *agent.Facts) { f.HoldersErr = errors.New("not readable") }), code: sum.FindUntried, want: sum.Notice},
		"restart":              {facts: with(func(f *agent.Facts) { f.Holders = []agent.HostHolder{{Agent: "x", Restart: time.Now()}} }), code: sum.FindBusy, want: sum.Blocks, advice: "after the restart", text: "a restart of the host"},
		"another manager":      {facts: with(func(f *agent.Facts) { f.Holders = []agent.HostHolder{{Agent: "x", Component: "bios"}} }), code: sum.FindBusy, want: sum.Blocks},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, server)
			s := l.open()
			n := l.nodes(s)[0]
			c := l.component("7.0", 100_000)
			if tt.other {
				c.Profile = agent.ProfileZeroOK
			}
			p := plan(t, n, c, sum.PlanOptions{})
			l.agents.Host(n.Target().Name).SetFacts(tt.facts)
			list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{Components: one(c), DialContext: nobody})
			require.NoError(t, err)
			for _, f := range list {
				if f.Severity != sum.Passed {
					require.Equal(t, tt.code, f.Code, "%v", f)
					require.Equal(t, tt.want, f.Severity, "%v", f)
				}
			}
			if tt.code != "" {
				require.Len(t, found(list, tt.code), 1)
				require.Contains(t, found(list, tt.code)[0].Advice, tt.advice)
				require.Contains(t, found(list, tt.code)[0].Text, tt.text)
			}
			require.Equal(t, tt.want == sum.Blocks, len(sum.Blocking(list)) > 0)

			out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
			if tt.stops {
				require.ErrorIs(t, err, sum.ErrPreflight)
				require.ErrorContains(t, err, string(tt.code))
				var pe *sum.PreflightError
				require.ErrorAs(t, err, &pe)
				require.Len(t, pe.Findings, 1)
				require.Empty(t, out)
				require.Zero(t, l.applied(n.Target().Name))
				out, err = sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{NoPreflight: true})
			}
			require.NoError(t, err)
			require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
			l.clean(s)
		})
	}
}

// TestPreflightDial: why the manager could not log in.
func TestPreflightDial(t *testing.T) {
	l := newLab(t, server)
	var failure error
	l.decorate = func(transport.Transport) transport.Transport {
		return dialFunc(func(context.Context, transport.Endpoint) (transport.Conn, error) { return nil, failure })
	}
	s := l.open()
	n := l.nodes(s)[0]
	for kind, code := range map[error]sum.FindingCode{
		fmt.Errorf("%w: %w", transport.ErrTrust, transport.ErrUnknownIdentity): sum.FindUnknown,
		transport.ErrTrust: sum.FindIdentity, transport.ErrAuth: sum.FindLogin, transport.ErrElevation: sum.FindRights,
		transport.ErrProtocol: sum.FindService, &net.DNSError{Name: "shell.example", IsNotFound: true}: sum.FindNoName,
		&net.DNSError{Name: "shell.example", IsTemporary: true}: sum.FindFailed, transport.ErrTimeout: sum.FindFiltered,
		syscall.ECONNREFUSED: sum.FindRefused, syscall.EHOSTUNREACH: sum.FindNoRoute, errors.New("something"): sum.FindFailed,
	} {
		failure = &transport.Error{Op: "dial", Err: kind}
		list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
		require.NoError(t, err)
		require.Len(t, list, 1, "%v", list)
		require.Equal(t, code, list[0].Code, "%v", list[0])
		require.Equal(t, sum.Blocks, list[0].Severity)
		require.Equal(t, sum.ToTarget, list[0].Direction)
		require.EqualValues(t, 22, list[0].Port)
		require.ErrorIs(t, list[0].Err, kind)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sum.Preflight(ctx, n, sum.PreflightOptions{})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close(t.Context()))
	_, err = sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
	require.ErrorIs(t, err, sum.ErrClosed)
}

// TestPreflightNoDriver: where this program has no driver, the ports of the table are
// tried all the same.
func TestPreflightNoDriver(t *testing.T) {
	l := newLab(t, push)
	l.config = func(c *sum.Config) {
		c.Resolve = func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
			return nil, transport.Endpoint{}, &transport.Error{Op: "resolve", Kind: errors.ErrUnsupported}
		}
	}
	s := l.open()
	list, err := sum.Preflight(t.Context(), l.nodes(s)[0], sum.PreflightOptions{DialContext: nobody})
	require.NoError(t, err)
	require.Len(t, found(list, sum.FindUnsupported), 1)
	refused := found(list, sum.FindRefused)
	require.Len(t, refused, 3, "%v", list)
	require.Equal(t, sum.Blocks, refused[0].Severity)
	require.NoError(t, s.Close(t.Context()))
}

type dialFunc func(context.Context, transport.Endpoint) (transport.Conn, error)

func (f dialFunc) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	return f(ctx, ep)
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// TestPreflightDevice: of a device only the manager's side of the way back can be
// looked at: who has its port, and whether the firewall can be opened; and where else
// the device can be updated.
func TestPreflightDevice(t *testing.T) {
	t.Parallel()
	l := newLab(t, pull)
	host := walled(t, l)
	port := freePort(t)
	l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(port)}
	s := l.open()
	n := l.nodes(s)[0]
	about := func() sum.Finding {
		t.Helper()
		list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
		require.NoError(t, err)
		for _, f := range list {
			if f.Direction == sum.ToManager {
				require.Equal(t, port, f.Port)
				return f
			}
		}
		require.Fail(t, "nothing of the way back", "%v", list)
		return sum.Finding{}
	}
	f := about()
	require.Equal(t, sum.FindUntried, f.Code)
	require.Contains(t, f.Advice, "https://")
	require.False(t, host.Reachable("tcp", port, home), "the rule was for a moment")

	host.Fail("Apply", firewall.ErrPermission)
	f = about()
	require.Equal(t, sum.FindFirewall, f.Code)
	require.Equal(t, sum.Blocks, f.Severity)

	ln, err := net.Listen("tcp", fmt.Sprint(":", port))
	require.NoError(t, err)
	f = about()
	require.Equal(t, sum.FindTaken, f.Code)
	require.Equal(t, sum.Blocks, f.Severity)
	ln.Close()
	l.clean(s)
}

// TestPreflightLinkLocal: under an address that needs a zone neither a device nor an
// agent can be told to find the manager.
func TestPreflightLinkLocal(t *testing.T) {
	for name, lab := range map[string]func(*testing.T) (*lab, func() *sum.Session){
		"device": func(t *testing.T) (*lab, func() *sum.Session) {
			l := newLab(t, pull)
			l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(freePort(t))}
			return l, l.open
		},
		"agent": func(t *testing.T) (*lab, func() *sum.Session) {
			l := newClassicLab(t)
			return l.lab, l.open
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, open := lab(t)
			l.way = func(_ sum.Target, p transport.Path) transport.Path {
				p.SeenAs, p.CallbackFrom = netip.MustParseAddr("fe80::1%eth0"), []netip.Prefix{netip.MustParsePrefix("fe80::/64")}
				return p
			}
			s := open()
			list, err := sum.Preflight(t.Context(), l.nodes(s)[0], sum.PreflightOptions{DialContext: nobody})
			require.NoError(t, err)
			said := 0
			for _, f := range found(list, sum.FindUntried) {
				if f.Direction == sum.ToManager {
					said++
					require.Contains(t, f.Text, "fe80::1%eth0 is link-local")
				}
			}
			require.Equal(t, 1, said, "%v", list)
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// TestPreflightWayBack: the target dials the manager where its agent would.
func TestPreflightWayBack(t *testing.T) {
	for how, code := range map[string]sum.FindingCode{
		agent.ReachedPeer: sum.FindReached, agent.ReachedRefused: sum.FindRefused, agent.ReachedNothing: sum.FindFiltered,
		agent.ReachedNoRoute: sum.FindNoRoute, agent.ReachedForbids: sum.FindFirewall, agent.ReachedFailed: sum.FindFailed, "other": sum.FindService,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			l := newClassicLab(t)
			s := l.open()
			n := l.nodes(s)[0]
			l.lab.agents.Host(n.Target().Name).SetReached(func(addr netip.AddrPort) agent.Reached {
				require.Contains(t, l.openRules(), addr.Port(), "dialled before it is open")
				switch how {
				case agent.ReachedPeer:
					c, err := net.Dial("tcp", addr.String())
					require.NoError(t, err)
					defer c.Close()
					buf := make([]byte, 64)
					k, err := c.Read(buf)
					require.NoError(t, err)
					return agent.Reached{How: how, Greeting: string(buf[:k-1])}
				case "other":
					return agent.Reached{How: agent.ReachedPeer, Greeting: "220 mail.example"}
				}
				return agent.Reached{How: how, Text: "said the system"}
			})
			list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
			require.NoError(t, err)
			back := 0
			for _, f := range list {
				if f.Direction == sum.ToManager {
					back++
					require.Equal(t, code, f.Code, "%v", f)
					require.Contains(t, f.Addr, "127.0.0.1:")
					require.NotEqual(t, sum.Blocks, f.Severity, "jobs are asked for news instead")
				}
			}
			require.Equal(t, 1, back, "%v", list)
			require.Empty(t, l.openRules())
			require.NoError(t, s.Close(context.Background()))
		})
	}
}
