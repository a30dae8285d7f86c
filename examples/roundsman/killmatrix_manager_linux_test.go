package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
)

// matrixVariable holds a matrixConfig, and makes a copy of the test program one
// of the managers of TestKillMatrix.
const matrixVariable = "ROUNDSMAN_KILLMATRIX_MANAGER"

// matrixConfig is what TestKillMatrix tells a manager.
type matrixConfig struct {
	Args       []string // of the command line
	Agent      string   // file of the agent's program
	Component  string
	Target     string
	Identity   string
	KnownHosts string
	Windows    *windowsLogin // in place of these two, for a target of TestWindows
	Journal    string
	Lease      time.Duration
	Redial     time.Duration
	// Stop is the step before which the manager waits to be told to go on.
	Stop string
}

// The descriptors of a manager, beside the standard ones.
const (
	stepsFD = 3 // it writes the steps here
	goOnFD  = 4 // and is told here to go on; the end of file ends it
)

// TestMatrixProcess is no test of its own: it is the managers of TestKillMatrix.
func TestMatrixProcess(t *testing.T) {
	text := os.Getenv(matrixVariable)
	if text == "" {
		t.Skip("this is for copies of the test program")
	}
	var cfg matrixConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	os.Exit(matrixManager(cfg))
}

// matrixManager is a manager. Without arguments it is what "roundsman deploy"
// does, in a session whose patience is the test's, and which goes step by step.
func matrixManager(cfg matrixConfig) int {
	s := newStepper(cfg.Stop)
	in := &install.Installer{Source: fileSource(cfg.Agent)}
	ctx := context.Background()
	if len(cfg.Args) > 0 {
		a := &app{resolve: cfg.resolve(nil), installer: in}
		return a.run(ctx, append(cfg.Args, "--json", "--journal", cfg.Journal), os.Stdin, os.Stdout, os.Stderr, os.Environ())
	}
	w := &work{command: "deploy", flags: &sessionFlags{}, rep: newReporter(os.Stdout, true, false, nil), stderr: os.Stderr,
		log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	var err error
	if w.session, err = sum.Open(ctx, sum.Config{
		Resolve: cfg.resolve(s), Installer: steppedInstaller{in, s},
		Journal: cfg.Journal, Lease: cfg.Lease, Redial: cfg.Redial, Logger: w.log,
	}); err != nil {
		panic(err)
	}
	comps, err := components(ctx, []string{cfg.Component})
	if err != nil {
		panic(err)
	}
	target, err := sum.ParseTarget(cfg.Target)
	if err != nil {
		panic(err)
	}
	nodes, err := w.nodes([]sum.Target{target})
	if err != nil {
		panic(err)
	}
	w.deploy(ctx, nodes, func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
		return w.deployOne(ctx, n, comps, sum.PlanOptions{})
	})
	w.close(ctx)
	return w.tally.status(false, false)
}

// resolve is how targets are reached: step by step, where s is not nil.
func (cfg matrixConfig) resolve(s *stepper) sum.Resolve {
	var tr transport.Transport
	var ep transport.Endpoint
	if cfg.Windows != nil {
		tr, ep = cfg.Windows.endpoint()
	} else {
		key, err := os.ReadFile(cfg.Identity)
		if err != nil {
			panic(err)
		}
		signer, err := ssh.ParseKey(key, transport.Secret{})
		if err != nil {
			panic(err)
		}
		// A line that is cut has to be found out before the test's time is over.
		tr, ep = &ssh.Transport{}, transport.Endpoint{
			Trust:   transport.Trust{KnownHosts: []string{cfg.KnownHosts}},
			Options: ssh.Options{Signers: []xssh.Signer{signer}, KeepAlive: time.Second, ConnectTimeout: 20 * time.Second},
		}
	}
	if s != nil {
		tr = steppedTransport{tr, s}
	}
	return func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
		ep := ep
		if ep.Address == "" {
			ep.Address, ep.Credentials = t.Address, transport.Credentials{User: t.User}
		}
		return tr, ep, nil
	}
}

// fileSource is a Source that has one binary.
type fileSource string

func (s fileSource) Open(ctx context.Context, _, _ string) (transport.File, error) {
	return transport.DiskFile(ctx, agent.BinaryName, string(s))
}

// answer is what the name of a step ends with that is between the coming of an
// answer and its being read.
const answer = " answered"

// stepper tells the test of each step before it is made, and stops before one.
type stepper struct {
	stop     string
	goOn     chan struct{} // closed when the stop is over
	withheld atomic.Bool   // answers of the agent do not come through

	mu    sync.Mutex
	out   *os.File
	count map[string]int
}

func newStepper(stop string) *stepper {
	s := &stepper{stop: stop, goOn: make(chan struct{}), out: os.NewFile(stepsFD, "steps"), count: map[string]int{}}
	in := bufio.NewReader(os.NewFile(goOnFD, "go on"))
	go func() { // for the life of the process
		if _, err := in.ReadString('\n'); err == nil {
			s.withheld.Store(false)
			close(s.goOn)
			_, _ = in.ReadString('\n')
		}
		os.Exit(99) // the test has ended
	}()
	return s
}

// at is called before a step. The second of a name is "name #2".
func (s *stepper) at(name string) {
	s.mu.Lock()
	s.count[name]++
	if n := s.count[name]; n > 1 {
		name = fmt.Sprintf("%s #%d", name, n)
	}
	_, _ = fmt.Fprintln(s.out, name)
	s.withheld.CompareAndSwap(false, s.stop == name+answer)
	s.mu.Unlock()
	if name == s.stop {
		<-s.goOn
	}
}

// came is called when an answer has come.
func (s *stepper) came() (withheld bool) {
	s.mu.Lock()
	if !s.withheld.Load() {
		s.mu.Unlock()
		return false
	}
	_, _ = fmt.Fprintln(s.out, s.stop)
	s.mu.Unlock()
	<-s.goOn
	return true
}

type steppedTransport struct {
	transport.Transport
	s *stepper
}

func (t steppedTransport) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	t.s.at("dial")
	conn, err := t.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return steppedConn{transport.Forward{Conn: conn}, t.s}, nil
}

type steppedConn struct {
	transport.Forward
	s *stepper
}

func (c steppedConn) Identify(ctx context.Context) (transport.Identity, error) {
	c.s.at("identify")
	return c.Forward.Identify(ctx)
}

func (c steppedConn) Close(ctx context.Context) error {
	c.s.at("close")
	return c.Forward.Close(ctx)
}

func (c steppedConn) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	c.s.at("stat")
	return c.Forward.Stat(ctx, name)
}

func (c steppedConn) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	c.s.at("list")
	return c.Forward.List(ctx, dir)
}

func (c steppedConn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	c.s.at("mkdir")
	return c.Forward.Mkdir(ctx, dir, perm)
}

func (c steppedConn) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (transport.PutResult, error) {
	c.s.at("put " + path.Base(name))
	return c.Forward.Put(ctx, name, f, opts)
}

func (c steppedConn) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	c.s.at("get " + path.Base(name))
	return c.Forward.Get(ctx, name, w, opts)
}

func (c steppedConn) Remove(ctx context.Context, name string) error {
	c.s.at("delete")
	return c.Forward.Remove(ctx, name)
}

func (c steppedConn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	what := path.Base(cmd.Argv[0])
	if what == agent.BinaryName {
		what = "agent " + cmd.Argv[1]
	}
	c.s.at("run " + what)
	return c.Forward.Run(ctx, cmd)
}

func (c steppedConn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c.s.at("tunnel")
	conn, err := c.Forward.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &steppedTunnel{conn, c.s}, nil
}

// steppedTunnel is a connection to the agent. An answer that is withheld is lost,
// and the connection with it.
type steppedTunnel struct {
	net.Conn
	s *stepper
}

func (c *steppedTunnel) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.s.came() {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

type steppedInstaller struct {
	*install.Installer
	s *stepper
}

func (in steppedInstaller) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	a, err := in.Installer.Start(ctx, conn, opts)
	if err != nil {
		return nil, err
	}
	return steppedAgent{a, in.s}, nil
}

// steppedAgent is an agent whose calls are steps. Those of the deployment alone:
// heartbeats come when they come.
type steppedAgent struct {
	agent.Agent
	s *stepper
}

func (a steppedAgent) Inventory(ctx context.Context, req agent.InventoryRequest) (*transport.Inventory, error) {
	a.s.at("inventory")
	return a.Agent.Inventory(ctx, req)
}

func (a steppedAgent) Stage(ctx context.Context, f transport.File, progress func(int64)) (transport.PutResult, error) {
	a.s.at("stage")
	return a.Agent.Stage(ctx, f, progress)
}

func (a steppedAgent) Install(ctx context.Context, job agent.Job) (agent.Status, error) {
	a.s.at("install")
	return a.Agent.Install(ctx, job)
}

func (a steppedAgent) Status(ctx context.Context, id string, offset int64) (agent.Status, error) {
	a.s.at("status")
	return a.Agent.Status(ctx, id, offset)
}

func (a steppedAgent) Cancel(ctx context.Context, id string) (agent.Status, error) {
	a.s.at("cancel")
	return a.Agent.Cancel(ctx, id)
}

func (a steppedAgent) Remove(ctx context.Context) ([]string, error) {
	a.s.at("remove")
	return a.Agent.Remove(ctx)
}

// readOnly are the calls that change nothing anywhere. A row of them is one step.
var readOnly = []string{"identify", "stat", "list", "run sh", "run sha256sum", "run agent version", "get ready.json", "query"}

// mergeSteps takes the calls of an undisturbed deployment and returns its steps:
// of a row of calls that only read, or of the same kind, the first.
func mergeSteps(calls []string) []string {
	var out []string
	last := ""
	for _, call := range calls {
		kind, _, _ := strings.Cut(call, " #")
		same := kind == last || slices.Contains(readOnly, kind) && slices.Contains(readOnly, last)
		if last = kind; !same {
			out = append(out, call)
		}
	}
	return out
}
