package sum_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// lab is a fleet of fakes: one target of a personality, or two where it has parts.
type lab struct {
	t        *testing.T
	fake     *transporttest.Fake
	agents   *agenttest.Installer
	targets  []sum.Target
	at       map[string]*transporttest.Target // by Target.Name
	decorate func(transport.Transport) transport.Transport
	journal  string
	logs     *syncBuffer
	patience time.Duration // Config.FetchPatience
	ports    map[portalloc.Role]portalloc.Policy
	way      func(sum.Target, transport.Path) transport.Path
	config   func(*sum.Config) // changes the rest of it
}

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const (
	server = "a server with a shell"
	push   = "a device by push"
	pull   = "a device by pull"
)

var personalities = []string{server, "a server with services only", push, pull, "hosts behind one login", "an enclosure with bays"}

func newLab(t *testing.T, personality string) *lab {
	t.Helper()
	l := &lab{t: t, agents: &agenttest.Installer{}, at: map[string]*transporttest.Target{}, journal: t.TempDir(), logs: &syncBuffer{},
		ports: map[portalloc.Role]portalloc.Policy{portalloc.Port: sum.TestPorts}}
	add := func(kind sum.Kind, at *transporttest.Target, parent string) {
		name := fmt.Sprintf("%s-%d", kind, len(l.targets))
		l.targets = append(l.targets, sum.Target{Name: name, Kind: kind, Address: at.Address(), Object: at.Object(), Parent: parent})
		l.at[name] = at
	}
	var at *transporttest.Target
	switch personality {
	case server:
		l.fake, at = transporttest.NewShellServer()
		add(sum.Linux, at, "")
	case "a server with services only":
		l.fake, at = transporttest.NewServiceServer()
		add(sum.Windows, at, "")
	case push:
		l.fake, at = transporttest.NewPushDevice()
		add(sum.ILO, at, "")
	case pull:
		l.fake, at = transporttest.NewPullDevice()
		add(sum.ILO, at, "")
	case "hosts behind one login":
		var hosts []*transporttest.Target
		l.fake, _, hosts = transporttest.NewHostGroup(2)
		for _, h := range hosts {
			add(sum.VMware, h, "vcenter")
		}
	case "an enclosure with bays":
		var bays []*transporttest.Target
		l.fake, at, bays = transporttest.NewEnclosure()
		add(sum.OA, at, "")
		for _, b := range bays {
			add(sum.ILO, b, "oa-0")
		}
	}
	for name, at := range l.at {
		if l.target(name).Kind.IsServer() {
			h := l.agents.Host(name)
			h.SetIdentity(at.Identity())
			h.SetSoftware(transport.Software{Name: "thing", Version: "1.0", Source: "dpkg"})
		}
	}
	t.Cleanup(func() { require.NoError(t, l.fake.Close(), "the fake was used in a way that nothing foresaw") })
	return l
}

func (l *lab) target(name string) sum.Target {
	i := slices.IndexFunc(l.targets, func(t sum.Target) bool { return t.Name == name })
	return l.targets[i]
}

func (l *lab) resolve(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	tr := transport.Transport(l.fake)
	if l.decorate != nil {
		tr = l.decorate(tr)
	}
	return tr, l.at[t.Name].Endpoint(), nil
}

// open starts a session as a manager would.
func (l *lab) open() *sum.Session {
	l.t.Helper()
	cfg := sum.Config{
		Resolve: l.resolve, Journal: l.journal, Installer: l.agents, FetchPatience: l.patience,
		Ports: l.ports, Way: l.way,
		Logger: slog.New(slog.NewTextHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if l.config != nil {
		l.config(&cfg)
	}
	s, err := sum.Open(l.t.Context(), cfg)
	require.NoError(l.t, err)
	return s
}

func (l *lab) nodes(s *sum.Session) []*sum.Node {
	l.t.Helper()
	var out []*sum.Node
	for _, target := range l.targets {
		n, err := s.Node(target)
		require.NoError(l.t, err)
		out = append(out, n)
	}
	return out
}

// component is version v of what runs on targets of the lab.
func (l *lab) component(v string, size int) *component.Component {
	content := []byte(strings.Repeat("firmware "+v+"\n", 1+size/16))
	c := &component.Component{
		Name: "thing", Version: v, Scheme: version.Numeric,
		Payload: transport.Payload{Name: "thing", Version: v, Files: []transport.File{transport.BytesFile("thing.bin", content)}},
		Install: []string{"./thing.bin"}, Profile: agent.ProfileDeb,
	}
	if l.targets[0].Kind.IsServer() {
		c.Match.Package = &component.PackageMatch{Source: "dpkg", Name: "thing"}
	} else {
		c.Match.Device = &component.DeviceMatch{Part: component.Firmware}
	}
	return c
}

// plan is inventory and plan of one node.
func plan(t *testing.T, n *sum.Node, c *component.Component, opts sum.PlanOptions) sum.TargetPlan {
	t.Helper()
	inv, err := sum.Inventory(t.Context(), n, c)
	require.NoError(t, err)
	return sum.MakePlan(n.Target(), inv, []*component.Component{c}, opts)
}

// deploy is inventory, plan and deployment of one component on one node.
func deploy(t *testing.T, n *sum.Node, c *component.Component) sum.Outcome {
	t.Helper()
	out, err := sum.Deploy(t.Context(), n, plan(t, n, c, sum.PlanOptions{}), []*component.Component{c}, sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, out, 1)
	return out[0]
}

// applied is how often a target was changed.
func (l *lab) applied(name string) int {
	if l.target(name).Kind.IsServer() {
		return l.agents.Host(name).Runs("thing")
	}
	return len(l.at[name].Applied())
}

// clean closes the session and checks that nothing is left anywhere.
func (l *lab) clean(s *sum.Session) {
	l.t.Helper()
	require.NoError(l.t, s.Close(context.Background()))
	require.NoError(l.t, l.agents.Check())
	require.Zero(l.t, l.fake.OpenConns(), "connections are left open")
	next := l.open()
	require.Empty(l.t, next.Pending(), "the journal says that something is left")
	require.NoError(l.t, next.Close(context.Background()))
}

// work is a deployment under way whose program runs, or whose device writes,
// until it is told to end.
type work struct {
	hold   chan struct{}
	cancel context.CancelFunc
	done   chan struct{} // closed when Deploy has returned
	out    []sum.Outcome
	err    error
}

// begin deploys a plan of one component and returns when its program runs, or
// when the device writes; flash says how that ends.
func (l *lab) begin(n *sum.Node, p sum.TargetPlan, c *component.Component, flash transporttest.Flash) *work {
	l.t.Helper()
	w := &work{hold: make(chan struct{}), done: make(chan struct{})}
	begun := make(chan struct{})
	if target := n.Target(); target.Kind.IsServer() {
		l.agents.Host(target.Name).OnInstallFunc(c.Name, func(agent.Job) agenttest.Job {
			close(begun) // a second job of the component would be a mistake
			return agenttest.Job{Log: []string{"begun\n"}, Hold: w.hold}
		})
	} else {
		flash.Hold, flash.Begun = w.hold, begun
		l.at[target.Name].NextFlash(flash)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	w.cancel = cancel
	go func() {
		defer close(w.done)
		w.out, w.err = sum.Deploy(ctx, n, p, []*component.Component{c}, sum.DeployOptions{})
	}()
	select {
	case <-begun:
	case <-w.done:
		require.FailNow(l.t, "the deployment ended before it began", "%+v %v", w.out, w.err)
	}
	return w
}

// end lets the target end its work and returns what Deploy does.
func (w *work) end() ([]sum.Outcome, error) {
	close(w.hold)
	<-w.done
	return w.out, w.err
}

// stop ends the context of Deploy and returns what that does. The target goes on.
func (w *work) stop() ([]sum.Outcome, error) {
	w.cancel()
	<-w.done
	return w.out, w.err
}

// die kills the manager in the middle of the work. The target ends it alone.
func (w *work) die(s *sum.Session) {
	s.Abandon()
	w.cancel()
	_, _ = w.end()
}

// one puts a component into a list.
func one(c *component.Component) []*component.Component { return []*component.Component{c} }
