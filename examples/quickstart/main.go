// Command quickstart runs the whole life of an update on a lab of its own, on loopback:
// Linux targets that are SSH servers in this process, which needs no root, and, where
// Samba and Wine are installed and it may start them (Debian: apt-get install samba
// wine64; as root), a Windows server. Their commands really run, and the agents that the
// SDK copies to them really start. One target is cut off in the middle of a transfer and
// resumes.
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
	began := time.Now()
	agents := install.First(source, &install.GoBuild{}) // for Windows, the go command builds one
	heading("Lab: servers, and the ports of them that must be open")
	lab, err := newLab(ctx, linuxServers(dir), windowsServer(dir, agents))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	session, err := sum.Open(ctx, sum.Config{
		Resolve:   lab.resolve,
		Journal:   journal,
		Installer: inHomes{&install.Installer{Source: agents}},
		Lease:     time.Minute,
		Redial:    time.Minute,
	})
	if err != nil {
		return err
	}
	var nodes []*sum.Node
	for _, m := range lab.machines {
		n, err := session.Node(m.target)
		if err != nil {
			return errors.Join(err, session.Close(ctx))
		}
		nodes = append(nodes, n)
	}
	// Whatever happens, the session gives back what it opened.
	results, err := pipeline(ctx, lab, nodes)
	err = errors.Join(err, session.Close(ctx))

	heading("Cleaned up: what is left on the targets")
	err = errors.Join(err, lab.leftovers())
	if err != nil {
		return err
	}
	if err := lab.check(results); err != nil {
		return err
	}
	heading(fmt.Sprintf("Everything as it should be, after %.0f s", time.Since(began).Seconds()))
	return nil
}

// pipeline is inventory, plan and deployment of a component on every node, and a second
// plan, which finds nothing to do.
func pipeline(ctx context.Context, lab *lab, nodes []*sum.Node) (map[string]sum.Outcome, error) {
	heading("Inventory: an agent is copied, started and asked")
	plans, err := plan(ctx, lab, nodes, func(t sum.Target, inv *transport.Inventory) {
		fmt.Printf("  %-6s %s, kernel %s, %d devices, %d packages\n",
			t.Name, inv.Identity.Version, inv.Identity.Kernel, len(inv.Devices), len(inv.Software))
	})
	if err != nil {
		return nil, err
	}

	heading("Plan")
	show(nodes, plans)

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
	show(nodes, plans)
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

func show(nodes []*sum.Node, plans map[string]sum.TargetPlan) {
	for _, n := range nodes {
		for _, it := range plans[n.Target().Name].Items {
			fmt.Printf("  %-6s %s %s %s: %s\n", n.Target().Name, it.Action, it.Component, it.Version, it.Reason)
		}
	}
}
