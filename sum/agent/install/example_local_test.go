//go:build linux || darwin

package install_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
)

// A program is itself the agent of the host that it runs on.
func ExampleInstaller_inProcess() {
	ctx := context.Background()
	base, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(base)

	conn, err := (&local.Transport{}).Dial(ctx, transport.Endpoint{})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	in := &install.Installer{InProcess: true}
	a, err := in.Start(ctx, conn, agent.StartOptions{Target: "this host", ID: "example", BaseDirs: []string{base}})
	if err != nil {
		log.Fatal(err)
	}
	inv, err := a.Inventory(ctx, agent.InventoryRequest{Probes: []agent.Probe{{Name: "tool", Argv: []string{"/bin/echo", "1.2.3"}}}})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range inv.Software {
		if s.Source == agent.ProbeSource {
			fmt.Println(s.Name, s.Version)
		}
	}
	if _, err := a.Remove(ctx); err != nil { // what stays are the logs of jobs, if any ran
		log.Fatal(err)
	}
	// Output:
	// tool 1.2.3
}
