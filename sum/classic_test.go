package sum_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// classicLab is a lab whose agents call the manager, as those of real installers do.
type classicLab struct {
	*lab
	opts sum.ClassicOptions

	mu     sync.Mutex
	agents []*caller
	rules  map[uint16][]netip.Prefix // that are open now
	opened []uint16                  // ever
}

// caller is the side of an agent that calls.
type caller struct {
	agent.Agent
	creds   *channel.AgentCredentials
	addrs   []string
	release func()
}

func (c *caller) Close(ctx context.Context) error {
	c.release()
	return c.Agent.Close(ctx)
}

func (c *caller) Remove(ctx context.Context) ([]string, error) {
	defer c.release()
	return c.Agent.Remove(ctx)
}

// client is for the first contact, or for another port.
func (c *caller) client(t *testing.T, port uint32) *channel.CallbackClient {
	addr := c.addrs[0]
	if port != 0 {
		host, _, _ := net.SplitHostPort(addr)
		addr = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	cl := &channel.CallbackClient{Credentials: c.creds, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}}
	t.Cleanup(func() { require.NoError(t, cl.Close(context.Background())) })
	return cl
}

func newClassicLab(t *testing.T) *classicLab {
	l := &classicLab{lab: newLab(t, server), rules: map[uint16][]netip.Prefix{}}
	l.ports = map[portalloc.Role]portalloc.Policy{portalloc.TargetToManager: sum.TestPorts}
	l.opts.OpenRule = func(_ context.Context, port uint16, from []netip.Prefix) (func(context.Context) error, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.rules[port], l.opened = from, append(l.opened, port)
		return func(context.Context) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.rules, port)
			return nil
		}, nil
	}
	l.way = func(_ sum.Target, p transport.Path) transport.Path {
		p.SeenAs = netip.MustParseAddr("127.0.0.1")
		p.CallbackFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		return p
	}
	return l
}

// Start implements agent.Installer.
func (l *classicLab) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	m, a, err := channel.NewIdentity(opts.Target)
	if err != nil {
		return nil, err
	}
	addrs, release, err := opts.Classic.Callback(ctx, m)
	if err != nil {
		return nil, err
	}
	if release == nil {
		release = func() {}
	}
	opts.Classic = nil // what the fake would do of it is done here
	ag, err := l.lab.agents.Start(ctx, conn, opts)
	if err != nil {
		release()
		return nil, err
	}
	c := &caller{ag, a, addrs, sync.OnceFunc(release)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agents = append(l.agents, c)
	return c, nil
}

// Sweep implements agent.Installer.
func (l *classicLab) Sweep(ctx context.Context, conn transport.Conn, p agent.Place) ([]string, error) {
	return l.lab.agents.Sweep(ctx, conn, p)
}

func (l *classicLab) open() *sum.Session {
	l.t.Helper()
	cfg := sum.Config{
		Resolve: l.resolve, Journal: l.journal, Installer: l, FetchPatience: l.patience, Ports: l.ports, Way: l.way,
		Generation: sum.Classic, Classic: l.opts, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
	if l.config != nil {
		l.config(&cfg)
	}
	s, err := sum.Open(l.t.Context(), cfg)
	require.NoError(l.t, err)
	return s
}

// Inspect implements agent.Installer.
func (l *classicLab) Inspect(ctx context.Context, conn transport.Conn, opts agent.InspectOptions) (agent.Inspector, error) {
	return l.lab.agents.Inspect(ctx, conn, opts)
}

// last is the agent that was started last.
func (l *classicLab) last() *caller {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agents[len(l.agents)-1]
}

func (l *classicLab) openRules() []uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []uint16
	for p := range l.rules {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func port(t *testing.T, addr string) uint16 {
	t.Helper()
	ap, err := netip.ParseAddrPort(addr)
	require.NoError(t, err)
	return ap.Port()
}

// TestClassicMoves: the rule of each port is open before the target is told of it,
// for the target alone, and gone with the session.
func TestClassicMoves(t *testing.T) {
	l := newClassicLab(t)
	s := l.open()
	n := l.nodes(s)[0]
	require.Empty(t, l.openRules(), "before any target")
	_, err := sum.Inventory(t.Context(), n)
	require.NoError(t, err)
	a := l.last()
	first := port(t, a.addrs[0])
	require.Equal(t, []uint16{first}, l.openRules())
	require.Equal(t, "127.0.0.1/32", l.rules[first][0].String())

	where, err := a.client(t, 0).Contact(t.Context(), nil)
	require.NoError(t, err)
	require.Greater(t, where.Port, uint32(1024))
	require.NotEqualValues(t, first, where.Port)
	require.ElementsMatch(t, []uint16{first, uint16(where.Port)}, l.openRules(), "named before it is open")
	again, err := a.client(t, where.Port).Contact(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, where.Port, again.Port, "and it stays there")
	_, err = a.client(t, where.Port).Report(t.Context(), &channel.ReportRequest{JobID: channel.NewJobID(), State: channel.StateRunning})
	require.NoError(t, err)

	require.NoError(t, s.Close(context.Background()))
	require.Empty(t, l.openRules(), "rules are left")
	for _, p := range []uint32{uint32(first), where.Port} {
		_, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", p))
		require.Error(t, err, "port %d is left", p)
	}
}

// TestClassicStays: with Stay the target is told of no other port; nor without a
// rule for one.
func TestClassicStays(t *testing.T) {
	for _, stay := range []bool{true, false} {
		l := newClassicLab(t)
		l.opts.Stay = stay
		open, calls := l.opts.OpenRule, 0
		l.opts.OpenRule = func(ctx context.Context, port uint16, from []netip.Prefix) (func(context.Context) error, error) {
			if calls++; calls > 1 {
				return nil, errors.New("no rights")
			}
			return open(ctx, port, from)
		}
		s := l.open()
		_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
		require.NoError(t, err)
		where, err := l.last().client(t, 0).Contact(t.Context(), nil)
		require.NoError(t, err)
		require.Zero(t, where.Port)
		require.NoError(t, s.Close(context.Background()))
		require.Empty(t, l.openRules())
	}
}

// TestClassicWithoutRule: a target that cannot be let in is asked instead.
func TestClassicWithoutRule(t *testing.T) {
	l := newClassicLab(t)
	l.opts.PortPerTarget = true
	l.opts.OpenRule = func(context.Context, uint16, []netip.Prefix) (func(context.Context) error, error) {
		return nil, errors.New("no rights")
	}
	s := l.open()
	require.Equal(t, sum.Updated, deploy(t, l.nodes(s)[0], l.component("2.0", 100)).Kind)
	require.Empty(t, l.last().addrs, "it was told of a port that is closed to it")
	require.NoError(t, s.Close(context.Background()))
}

// TestClassicNews: an event says that the target has not called by the time it
// should have; a report has the job asked for, which nothing else would.
func TestClassicNews(t *testing.T) {
	l := newClassicLab(t)
	l.patience = time.Millisecond
	s := l.open()
	s.PollRarely()
	n, c := l.nodes(s)[0], l.component("2.0", 100)
	p := plan(t, n, c, sum.PlanOptions{})
	hold, begun := make(chan struct{}), make(chan struct{})
	h := l.lab.agents.Host(n.Target().Name)
	h.OnInstallFunc(c.Name, func(agent.Job) agenttest.Job {
		close(begun)
		return agenttest.Job{Log: []string{"begun\n"}, Hold: hold}
	})
	events := make(chan sum.Event, 1000)
	done := make(chan []sum.Outcome, 1)
	go func() {
		out, _ := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{Events: func(e sum.Event) { events <- e }})
		done <- out
	}()
	<-begun
	for e := range events {
		if e.Phase == "callback" {
			require.Contains(t, e.Text, l.last().addrs[0], "which port of the manager")
			break
		}
	}
	close(hold)
	client, id := l.last().client(t, 0), h.JobSpecs()[0].ID
	for {
		// Whenever it is asked for, the fake gets a step further.
		_, err := client.Report(t.Context(), &channel.ReportRequest{JobID: id, State: channel.StateRunning})
		require.NoError(t, err)
		_, err = client.Report(t.Context(), &channel.ReportRequest{JobID: channel.NewJobID(), State: channel.StateRunning})
		require.NoError(t, err, "of a job that nobody watches")
		select {
		case out := <-done:
			require.Equal(t, sum.Updated, out[0].Kind)
			require.NoError(t, s.Close(context.Background()))
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestClassicGivesBack: what an agent had goes with it, not with the session; a rule
// that takes its time does not hold that up.
func TestClassicGivesBack(t *testing.T) {
	for _, each := range []bool{false, true} {
		t.Run(fmt.Sprint("a port for each: ", each), func(t *testing.T) {
			l := newClassicLab(t)
			l.opts.PortPerTarget = each
			s := l.open()
			n := l.nodes(s)[0]
			_, err := sum.Inventory(t.Context(), n)
			require.NoError(t, err)
			a := l.last()
			where, err := a.client(t, 0).Contact(t.Context(), nil)
			require.NoError(t, err)
			require.NotZero(t, where.Port)
			require.NoError(t, a.Close(context.Background()))
			require.Empty(t, l.openRules())
			for _, p := range []uint32{0, where.Port} {
				_, err = a.client(t, p).Contact(t.Context(), nil)
				require.Error(t, err, "it is received still")
			}
			for _, p := range []uint32{uint32(port(t, a.addrs[0])), where.Port} {
				require.Eventually(t, func() bool {
					conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", p))
					if err == nil {
						conn.Close()
					}
					return (err != nil) == each
				}, time.Minute, time.Millisecond, "port %d is for all, or is closed", p)
			}
			require.NoError(t, s.Close(context.Background()))
		})
	}
	t.Run("a slow rule", func(t *testing.T) {
		l := newClassicLab(t)
		open, calls := l.opts.OpenRule, 0
		asked, ended := make(chan struct{}), make(chan struct{})
		l.opts.OpenRule = func(ctx context.Context, port uint16, from []netip.Prefix) (func(context.Context) error, error) {
			if calls++; calls == 2 {
				close(asked)
				<-ctx.Done()
				defer close(ended)
			}
			return open(ctx, port, from) // all the same
		}
		s := l.open()
		_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
		require.NoError(t, err)
		go func() { _, _ = l.last().client(t, 0).Contact(context.Background(), nil) }()
		<-asked
		require.NoError(t, s.Close(context.Background()))
		<-ended
		require.Eventually(t, func() bool { return len(l.openRules()) == 0 }, time.Minute, time.Millisecond, "what came late is left")
	})
}

// TestClassicOnce: a rule that is refused is not asked for at each contact.
func TestClassicOnce(t *testing.T) {
	l := newClassicLab(t)
	open, calls := l.opts.OpenRule, 0
	l.opts.OpenRule = func(ctx context.Context, port uint16, from []netip.Prefix) (func(context.Context) error, error) {
		if calls++; calls > 1 {
			return nil, errors.New("no rights")
		}
		return open(ctx, port, from)
	}
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	client := l.last().client(t, 0)
	for range 20 {
		where, err := client.Contact(t.Context(), nil)
		require.NoError(t, err)
		require.Zero(t, where.Port)
	}
	require.Equal(t, 2, calls)
	require.NoError(t, s.Close(context.Background()))
}

// TestClassicNoWay: where the target's own address is not known, as behind a jump
// host, or a zone would be needed, nothing is offered that cannot be reached.
func TestClassicNoWay(t *testing.T) {
	for name, way := range map[string]func(sum.Target, transport.Path) transport.Path{
		"jump host": nil,
		"link-local": func(_ sum.Target, p transport.Path) transport.Path {
			p.SeenAs = netip.MustParseAddr("fe80::1%eth0")
			p.CallbackFrom = []netip.Prefix{netip.MustParsePrefix("fe80::/64")}
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newClassicLab(t)
			l.way = way
			l.decorate = func(tr transport.Transport) transport.Transport { return throughJump{tr} }
			s := l.open()
			require.Equal(t, sum.Updated, deploy(t, l.nodes(s)[0], l.component("2.0", 100)).Kind)
			require.Empty(t, l.last().addrs)
			require.Empty(t, l.opened)
			require.NoError(t, s.Close(context.Background()))
		})
	}
}

// throughJump makes connections that know the manager as the jump host.
type throughJump struct{ transport.Transport }

func (j throughJump) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	c, err := j.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return jumped{transport.Forward{Conn: c}}, nil
}

type jumped struct{ transport.Forward }

func (jumped) Path() transport.Path { return transport.Path{SeenAs: netip.MustParseAddr("192.0.2.1")} }

// TestClassicOptions: options without the generation are a mistake.
func TestClassicOptions(t *testing.T) {
	l := newLab(t, server)
	for _, cfg := range []sum.Config{{Classic: sum.ClassicOptions{Stay: true}}, {Generation: "old"}, {Generation: sum.Current, Classic: sum.ClassicOptions{PortPerTarget: true}}} {
		cfg.Resolve, cfg.Journal = l.resolve, t.TempDir()
		_, err := sum.Open(t.Context(), cfg)
		require.ErrorIs(t, err, sum.ErrInvalid)
	}
}
