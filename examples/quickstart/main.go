// Command quickstart runs the whole life of an update on a lab of its own:
// Linux targets that are SSH servers in this process, on loopback, without root.
// Their commands really run, and the agents that the SDK copies to them really
// start. One target is cut off in the middle of a transfer and resumes.
//
//	go run ./examples/quickstart [--journal DIR]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

func main() {
	self := install.RunAgent() // the copies on the targets are agents
	journal := flag.String("journal", "", "directory of the journal (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, self, *journal); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, source install.Source, journal string) (err error) {
	if runtime.GOOS == "windows" {
		return errors.New("the lab needs a POSIX shell: run it on Linux or macOS")
	}
	dir, err := os.MkdirTemp("", "roundsman-quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if journal == "" {
		journal = filepath.Join(dir, "journal")
	}
	lab, err := newLab(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	comp, err := lab.component(ctx)
	if err != nil {
		return err
	}

	heading("Ports: what must be open for a Linux server")
	for _, p := range sum.PortsFor(sum.Linux, sum.PhaseDeploy, sum.Current) {
		fmt.Printf("  %s %s/%s  %s  %s\n", p.Direction, p.Ports(), p.Protocol, p.Need, p.Purpose)
	}
	fmt.Println("  nothing else: the agent is reached through the SSH connection")

	session, err := sum.Open(ctx, sum.Config{
		Resolve:   lab.resolve,
		Journal:   journal,
		Installer: &install.Installer{Source: source},
		BaseDirs:  []string{"~/.cache/roundsman"},
		Lease:     time.Minute,
		Redial:    time.Minute,
	})
	if err != nil {
		return err
	}
	var nodes []*sum.Node
	for _, t := range lab.targets() {
		n, err := session.Node(t)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	// Whatever happens, the session gives back what it opened.
	results, err := pipeline(ctx, lab, nodes, comp)
	err = errors.Join(err, session.Close(ctx))

	heading("Cleaned up: what is left on the targets")
	err = errors.Join(err, lab.leftovers())
	if err != nil {
		return err
	}
	return check(results)
}

// pipeline is inventory, plan and deployment of one component on every node.
func pipeline(ctx context.Context, lab *lab, nodes []*sum.Node, comp *component.Component) (map[string]sum.Outcome, error) {
	heading("Inventory: an agent is copied, started and asked")
	plans := map[string]sum.TargetPlan{}
	inventory := func(ctx context.Context, n *sum.Node) (*transport.Inventory, error) {
		return sum.Inventory(ctx, n, comp)
	}
	for r := range sum.Each(ctx, nodes, sum.EachOptions{}, inventory) {
		name := r.Node.Target().Name
		if r.Err != nil {
			return nil, r.Err
		}
		inv := r.Value
		fmt.Printf("  %-6s %s, kernel %s, %d devices, %d packages\n",
			name, inv.Identity.Version, inv.Identity.Kernel, len(inv.Devices), len(inv.Software))
		plans[name] = sum.MakePlan(r.Node.Target(), inv, []*component.Component{comp}, sum.PlanOptions{})
	}

	heading("Plan")
	for _, n := range nodes {
		for _, it := range plans[n.Target().Name].Items {
			fmt.Printf("  %-6s %s %s %s: %s\n", n.Target().Name, it.Action, it.Component, it.Version, it.Reason)
		}
	}

	heading("Deploy")
	show := &progress{}
	deploy := func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
		return sum.Deploy(ctx, n, plans[n.Target().Name], []*component.Component{comp}, sum.DeployOptions{
			Events: func(e sum.Event) {
				lab.interfere(e)
				show.event(e)
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
	return results, nil
}

// check makes the program fail where an outcome is not what the lab was built for.
func check(results map[string]sum.Outcome) error {
	for name, want := range map[string]sum.OutcomeKind{"fresh": sum.Updated, "old": sum.Updated, "new": sum.NotNeeded} {
		if got := results[name]; got.Kind != want {
			return fmt.Errorf("%s: outcome %s, want %s: %s", name, got.Kind, want, got.Text)
		}
	}
	heading("Everything as it should be")
	return nil
}
