package sum_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// lookAt is Preflight of a lab's first target.
func lookAt(t *testing.T, s *sum.Session, l *lab, opts sum.PreflightOptions) []sum.Finding {
	t.Helper()
	if opts.DialContext == nil {
		opts.DialContext = nobody
	}
	list, err := sum.Preflight(t.Context(), l.nodes(s)[0], opts)
	require.NoError(t, err)
	return list
}

// back returns the findings about ports of the manager.
func back(list []sum.Finding) []sum.Finding {
	var out []sum.Finding
	for _, f := range list {
		if f.Direction == sum.ToManager && f.Port != 0 {
			out = append(out, f)
		}
	}
	return out
}

// takenPort is a port that somebody else listens on.
func takenPort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// TestPreflightFallback: where a port is taken and the manager has others, that does not
// block: the one that serves is named. It blocks where none is left.
func TestPreflightFallback(t *testing.T) {
	t.Parallel()
	busy, also, free := takenPort(t), takenPort(t), freePort(t)
	for name, tt := range map[string]struct {
		policy portalloc.Policy
		serves func(uint16) bool
		taken  []uint16
	}{
		"another":   {portalloc.Policy{Prefer: []uint16{busy, free}}, func(p uint16) bool { return p == free }, []uint16{busy}},
		"a range":   {portalloc.Policy{Prefer: []uint16{busy, also}, First: 20480, Last: 29999, Random: true}, func(p uint16) bool { return p >= 20480 && p <= 29999 }, []uint16{busy, also}},
		"the first": {portalloc.Policy{Prefer: []uint16{free, busy}}, func(p uint16) bool { return p == free }, nil},
		"none":      {portalloc.Policy{Prefer: []uint16{busy, also}}, nil, []uint16{busy}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, pull)
			walled(t, l)
			config := l.config
			l.config = func(c *sum.Config) { config(c); c.HTTPRole = portalloc.HTTP }
			l.ports = map[portalloc.Role]portalloc.Policy{portalloc.HTTP: tt.policy}
			s := l.open()
			list := lookAt(t, s, l, sum.PreflightOptions{})
			var taken []uint16
			for _, f := range found(list, sum.FindTaken) {
				taken = append(taken, f.Port)
			}
			require.Equal(t, tt.taken, taken, "%v", list)
			if tt.serves == nil {
				require.Len(t, sum.Blocking(list), 1, "%v", list)
				require.Contains(t, sum.Blocking(list)[0].Advice, fmt.Sprintf("free one of the ports %d, %d", busy, also))
				require.Len(t, back(list), 1)
				l.clean(s)
				return
			}
			require.Empty(t, sum.Blocking(list), "%v", list)
			last := back(list)[len(back(list))-1]
			require.Equal(t, sum.FindUntried, last.Code)
			require.True(t, tt.serves(last.Port), "%v", last)
			require.Contains(t, last.Text, "another of the ports "+fmt.Sprint(tt.policy.Prefer[0]))
			for _, f := range found(list, sum.FindTaken) {
				require.Contains(t, f.Advice, fmt.Sprintf("port %d serves in its place", last.Port))
			}
			require.Equal(t, sum.Updated, deploy(t, l.nodes(s)[0], l.component("7.0", 1000)).Kind)
			l.clean(s)
		})
	}
}

// TestPreflightRange: a role that has a range only is looked at as well, once.
func TestPreflightRange(t *testing.T) {
	t.Parallel()
	l := newLab(t, pull) // with such a role
	walled(t, l)
	s := l.open()
	list := back(lookAt(t, s, l, sum.PreflightOptions{}))
	require.Len(t, list, 1)
	require.Equal(t, sum.FindUntried, list[0].Code)
	require.True(t, list[0].Port >= sum.TestPorts.First && list[0].Port <= sum.TestPorts.Last, "%v", list[0])
	require.Contains(t, list[0].Text, fmt.Sprintf("another of the ports %d-%d", sum.TestPorts.First, sum.TestPorts.Last))
	l.clean(s)
}

// TestPreflightPort80: who fetches from port 80 and no other is not helped by the rest
// of the role's ports. An OA fetches only where that is in use.
func TestPreflightPort80(t *testing.T) {
	const addr = "127.0.0.77" // others use port 80 elsewhere
	ln, err := net.Listen("tcp", addr+":80")
	if err == nil {
		defer ln.Close()
	}
	for name, tt := range map[string]struct {
		kind sum.Kind
		use  []sum.PortOption
		want bool
	}{
		"OA":                      {kind: sum.OA},
		"OA that fetches":         {kind: sum.OA, use: []sum.PortOption{sum.UseOAFetch}, want: true},
		"Integrity":               {kind: sum.Integrity, want: true},
		"iLO, which takes others": {kind: sum.ILO},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, pull)
			l.targets[0].Kind = tt.kind
			l.ports = nil
			walled(t, l)
			config := l.config
			l.config = func(c *sum.Config) {
				config(c)
				c.Listen, c.HTTPRole = []netip.Addr{netip.MustParseAddr(addr)}, portalloc.HTTP
			}
			s := l.open()
			blocks := sum.Blocking(lookAt(t, s, l, sum.PreflightOptions{Use: tt.use}))
			if !tt.want {
				require.Empty(t, blocks)
				l.clean(s)
				return
			}
			require.Len(t, blocks, 1)
			require.EqualValues(t, 80, blocks[0].Port)
			require.Equal(t, sum.ToManager, blocks[0].Direction)
			if err == nil {
				require.Equal(t, sum.FindTaken, blocks[0].Code)
			}
			l.clean(s)
		})
	}
}

// TestPreflightOfOthers: ports of other programs on the manager are named, and nothing
// listens there.
func TestPreflightOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	l.ports = nil
	l.config = func(c *sum.Config) { c.Generation, c.Classic.Stay = sum.Classic, true }
	s := l.open()
	list := lookAt(t, s, l, sum.PreflightOptions{Use: []sum.PortOption{sum.UseSUM70}})
	said := 0
	for _, f := range back(list) {
		if f.Port == 63001 || f.Port == 63002 {
			said++
			require.Equal(t, sum.FindUntried, f.Code)
			require.Contains(t, f.Text, "SUM 7.0 to 7.2")
		}
	}
	require.Equal(t, 2, said, "%v", list)
	require.NoError(t, s.Close(t.Context()))
}

// TestPreflightBehindVCenter: what a host behind a vCenter has is tried there, or by
// nobody.
func TestPreflightBehindVCenter(t *testing.T) {
	for object, tt := range map[string]struct {
		dialled string
		err     error
		code    sum.FindingCode
	}{
		"host-17":      {code: sum.FindUntried},
		"192.0.2.17":   {dialled: "192.0.2.17:5989", err: syscall.ECONNREFUSED, code: sum.FindRefused},
		"2001:db8::17": {dialled: "[2001:db8::17]:5989", err: syscall.ECONNREFUSED, code: sum.FindRefused},
		"esx1.example": {dialled: "esx1.example:5989", err: syscall.ECONNREFUSED, code: sum.FindRefused},
		"esx2.example": {dialled: "esx2.example:5989", err: &net.DNSError{Name: "esx2.example", IsNotFound: true}, code: sum.FindUntried},
	} {
		t.Run(object, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "hosts behind one login")
			walled(t, l)
			l.targets[0].Object = object
			s := l.open()
			var mu sync.Mutex
			var dialled []string
			list := lookAt(t, s, l, sum.PreflightOptions{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, addr)
				return nil, tt.err
			}})
			require.Equal(t, tt.dialled, strings.Join(dialled, " "))
			cim := 0
			for _, f := range list {
				if f.Port == 5989 {
					cim++
					require.Equal(t, tt.code, f.Code, "%v", f)
				}
			}
			require.Equal(t, 1, cim, "%v", list)
			require.Empty(t, sum.Blocking(list))
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// TestPreflightOrElse: what a closed way is about can be done without it: a device has a
// web page of its own, and on a server this program can run.
func TestPreflightOrElse(t *testing.T) {
	const here = "run this program on the server itself"
	for name, tt := range map[string]struct {
		kind    sum.Kind
		address string
		failure error
		want    string // "": nothing of that
	}{
		"OA":                       {sum.OA, "oa1", syscall.ECONNREFUSED, "updates it: https://oa1/"},
		"OA at a port of SSH":      {sum.OA, "oa1:2222", transport.ErrTimeout, "updates it: https://oa1/"},
		"VC":                       {sum.VC, "2001:db8::5", syscall.EHOSTUNREACH, "updates it: https://[2001:db8::5]/"},
		"iLO":                      {sum.ILO, "ilo1", transport.ErrTimeout, "updates it: https://ilo1/"},
		"iLO at a port":            {sum.ILO, "ilo1:8443", transport.ErrTimeout, "updates it: https://ilo1:8443/"},
		"iLO at a port, by IPv6":   {sum.ILO, "[2001:db8::5]:8443", transport.ErrTimeout, "updates it: https://[2001:db8::5]:8443/"},
		"iLO without a driver":     {sum.ILO, "ilo1", errors.ErrUnsupported, "updates it: https://ilo1/"},
		"iLO that refuses a login": {sum.ILO, "ilo1", transport.ErrAuth, ""},
		"switch":                   {sum.SASSwitch, "sas1", transport.ErrTimeout, ""},
		"Linux":                    {sum.Linux, "db1", transport.ErrTimeout, here},
		"Windows without a driver": {sum.Windows, "win1", errors.ErrUnsupported, here},
		"another Linux":            {sum.Linux, "db1", transport.ErrTrust, ""},
		"a new Linux":              {sum.Linux, "db1", errors.Join(transport.ErrTrust, transport.ErrUnknownIdentity), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, pull)
			walled(t, l)
			l.targets[0].Kind, l.targets[0].Address = tt.kind, tt.address
			l.decorate = func(transport.Transport) transport.Transport {
				return dialFunc(func(context.Context, transport.Endpoint) (transport.Conn, error) {
					return nil, &transport.Error{Op: "dial", Err: tt.failure}
				})
			}
			s := l.open()
			blocks := sum.Blocking(lookAt(t, s, l, sum.PreflightOptions{}))
			require.NotEmpty(t, blocks)
			for _, f := range blocks {
				if tt.want != "" {
					require.Contains(t, f.Advice, tt.want)
					continue
				}
				require.NotContains(t, f.Advice, "https://")
				require.NotContains(t, f.Advice, here)
			}
			require.NoError(t, s.Close(t.Context()))
		})
	}

	// Of its way back, too.
	l := newLab(t, pull)
	walled(t, l)
	l.ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(takenPort(t))}
	s := l.open()
	blocks := sum.Blocking(lookAt(t, s, l, sum.PreflightOptions{}))
	require.Len(t, blocks, 1)
	require.Equal(t, sum.FindTaken, blocks[0].Code)
	require.Contains(t, blocks[0].Advice, "its own web page updates it: https://")
	l.clean(s)
}

// TestPreflightFilters: a filter of the manager that no opening overrides is named, once
// for all ports, where nobody has seen that it lets the target through.
func TestPreflightFilters(t *testing.T) {
	state := firewall.State{FrontEnds: []firewall.FrontEnd{firewall.NFT}, Blocks: []firewall.Block{
		{Where: "chain inet guard pre", Why: "hook prerouting comes before the input chains"},
		{Where: "chain netdev guard ingress", Why: "hook ingress comes before the input chains"},
	}}
	named := func(list []sum.Finding) (out []string) {
		for _, f := range found(list, sum.FindFirewall) {
			require.Equal(t, sum.Notice, f.Severity)
			require.Equal(t, sum.ToManager, f.Direction)
			require.NotEmpty(t, f.Advice)
			for _, b := range state.Blocks {
				if strings.Contains(f.Text, b.Where) && strings.Contains(f.Text, b.Why) {
					out = append(out, b.Where)
				}
			}
		}
		return out
	}
	want := []string{"chain inet guard pre", "chain netdev guard ingress"}

	l := newLab(t, pull)
	l.targets[0].Kind = sum.SuperdomeX // with two ports
	walled(t, l).SetState(state)
	l.ports[portalloc.SSLPort] = portalloc.Fixed(freePort(t))
	s := l.open()
	list := lookAt(t, s, l, sum.PreflightOptions{})
	require.Len(t, back(list), 2)
	require.Equal(t, want, named(list))
	l.clean(s)

	for how, want := range map[string][]string{agent.ReachedPeer: nil, agent.ReachedNothing: want} {
		l := newClassicLab(t)
		l.opts.OpenRule = nil
		walled(t, l.lab).SetState(state)
		s := l.open()
		l.lab.agents.Host(l.targets[0].Name).SetReached(func(addr netip.AddrPort) agent.Reached {
			if how == agent.ReachedNothing {
				return agent.Reached{How: how}
			}
			c, err := net.Dial("tcp", addr.String())
			require.NoError(t, err)
			defer c.Close()
			buf := make([]byte, 64)
			k, err := c.Read(buf)
			require.NoError(t, err)
			return agent.Reached{How: how, Greeting: string(buf[:k-1])}
		})
		require.Equal(t, want, named(lookAt(t, s, l.lab, sum.PreflightOptions{})), how)
		require.NoError(t, s.Close(t.Context()))
	}
}

// TestPreflightSample: of the ports to which a conversation may move one is tried, another
// each time, and whatever is in its way nobody is told to open that one.
func TestPreflightSample(t *testing.T) {
	l := newClassicLab(t)
	s := l.open()
	n := l.nodes(s)[0]
	list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
	require.NoError(t, err)
	samples := 0
	for _, f := range list {
		if f.Direction != sum.ToTarget || f.Severity == sum.Passed {
			continue
		}
		require.Equal(t, f.Sample, strings.Contains(f.Text, "a sample of the ports 1025 to 65535"), "%v", f)
		if f.Sample {
			samples++
			require.Equal(t, sum.Notice, f.Severity, "%v", f)
			require.Contains(t, f.Advice, "nothing has to be done")
		}
	}
	require.NotZero(t, samples, "%v", list)
	require.NoError(t, s.Close(t.Context()))
}
