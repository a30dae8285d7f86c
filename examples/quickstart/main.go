// Command quickstart runs the whole life of an update on a lab of its own, on loopback:
//
//   - Linux servers, by SSH, which need no root. Their commands really run, and the agents
//     that the SDK copies to them really start. One is cut off in the middle of a transfer,
//     and resumes.
//   - An iLO, by Redfish, to which its firmware is pushed, and a Superdome Flex, which
//     fetches it from the manager. They are simulated.
//   - A Windows server, by SMB, where Samba and Wine are installed and it may start them
//     (Debian: apt-get install samba wine64; as root).
//
// What a computer cannot have is left out, and it says why.
//
//	go run ./examples/quickstart [--journal DIR]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

// errInterrupted is the end by SIGINT or SIGTERM.
var errInterrupted = errors.New("interrupted")

// lease is how long an agent outlives a manager that was killed.
const lease = time.Minute

func main() {
	self := install.RunAgent() // the copies on the targets are agents
	journal := flag.String("journal", "", "directory of the journal (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // the next one ends the program at once
		heading("Interrupted: what was started is being ended")
	})
	err := run(ctx, self, *journal)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	if errors.Is(err, sum.ErrPending) {
		fmt.Fprintln(os.Stderr, "quickstart: a real device would go on with what it has begun, and the next run with the same journal would prove it; these end with the lab")
	}
	if errors.Is(err, errInterrupted) {
		os.Exit(130) // as shells say it
	}
	os.Exit(1)
}

func run(ctx context.Context, source install.Source, journal string) (err error) {
	began := time.Now()
	scratch, err := newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scratch.remove()) }()
	dir := scratch.dir
	// The go command, which builds what is for Windows, leaves its files where it is stopped.
	if err := os.Setenv("GOTMPDIR", dir); err != nil {
		return err
	}
	defer os.Unsetenv("GOTMPDIR")
	if journal == "" {
		journal = filepath.Join(dir, "journal")
	}
	agents := install.First(source, &install.GoBuild{}) // for Windows, the go command builds one

	heading("Lab: servers and management processors, and the ports of them that must be open")
	lab, err := newLab(ctx, linuxServers(dir), windowsServer(dir, agents), iLO(dir), superdomeFlex(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()

	session, err := sum.Open(ctx, sum.Config{
		Resolve:   lab.resolve,
		Journal:   journal,
		Installer: inHomes{&install.Installer{Source: agents}},
		Lease:     lease,
		Redial:    time.Minute,
		// Where the Superdome Flex fetches its firmware: on loopback, and on another port
		// where something else here has the usual one.
		Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: map[portalloc.Role]portalloc.Policy{
			portalloc.Port:    {Prefer: []uint16{63001}, First: 20000, Last: 29999, Random: true},
			portalloc.SSLPort: {Prefer: []uint16{63002}, First: 20000, Last: 29999, Random: true},
		},
	})
	if err != nil {
		return err
	}
	// Whatever happens, the session gives back what it opened.
	results, err := update(ctx, session, lab)
	if err != nil && ctx.Err() != nil {
		err = errInterrupted // which all that went on has said
	}
	err = errors.Join(err, session.Close(ctx))

	heading("Cleaned up: what is left on the targets")
	err = errors.Join(err, lab.leftovers(context.WithoutCancel(ctx)))
	if err != nil {
		return err
	}
	if err := lab.check(results); err != nil {
		return err
	}
	heading(fmt.Sprintf("Everything as it should be, after %.0f s", time.Since(began).Seconds()))
	return nil
}

// update is inventory, plan and deployment of a component on every machine, and a second
// plan, which finds nothing to do.
func update(ctx context.Context, session *sum.Session, lab *lab) (map[string]sum.Outcome, error) {
	var nodes []*sum.Node
	for _, m := range lab.machines {
		n, err := session.Node(m.target)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}

	heading("Inventory: of servers an agent is asked, which is copied and started")
	plans, err := plan(ctx, lab, nodes, showInventory)
	if err != nil {
		return nil, err
	}

	heading("Plan")
	showPlans(nodes, plans)

	heading("Deploy")
	progress := &progress{}
	deploy := func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
		return sum.Deploy(ctx, n, plans[n.Target().Name], lab.components(n.Target()), sum.DeployOptions{
			Events: func(e sum.Event) {
				lab.interfere(e)
				progress.event(e)
			},
		})
	}
	results := map[string]sum.Outcome{}
	for r := range sum.Each(ctx, nodes, sum.EachOptions{}, deploy) {
		if r.Err != nil {
			return nil, r.Err
		}
		for _, o := range r.Value {
			results[r.Node.Target().Name] = o
		}
	}

	heading("Outcomes: each proven by a second inventory")
	for _, n := range nodes {
		o := results[n.Target().Name]
		fmt.Printf("  %-6s %-10s %q -> %q  %s\n", n.Target().Name, o.Kind, o.From(), o.To(), o.Code)
	}

	heading("A second plan: nothing is to be done")
	if plans, err = plan(ctx, lab, nodes, nil); err != nil {
		return nil, err
	}
	showPlans(nodes, plans)
	for name, p := range plans {
		if p.Installs() > 0 {
			return nil, fmt.Errorf("%s: the second plan installs again", name)
		}
	}
	return results, nil
}

// plan takes the inventory of every node, and compares it with the components.
func plan(ctx context.Context, lab *lab, nodes []*sum.Node, seen func(sum.Target, *transport.Inventory)) (map[string]sum.TargetPlan, error) {
	inventory := func(ctx context.Context, n *sum.Node) (*transport.Inventory, error) {
		return sum.Inventory(ctx, n, lab.components(n.Target())...)
	}
	plans := map[string]sum.TargetPlan{}
	for r := range sum.Each(ctx, nodes, sum.EachOptions{}, inventory) {
		if r.Err != nil {
			return nil, r.Err
		}
		t := r.Node.Target()
		if seen != nil {
			seen(t, r.Value)
		}
		plans[t.Name] = sum.MakePlan(t, r.Value, lab.components(t), sum.PlanOptions{})
	}
	return plans, nil
}
