package sum_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// A pipeline of one's own: two management processors, of which one pushes its
// firmware and one fetches it from the manager, get a new version.
func Example() {
	ctx := context.Background()
	fake := transporttest.New() // a real pipeline has drivers here
	at := map[string]*transporttest.Target{"ilo1": fake.AddPushDevice("ilo1"), "ilo2": fake.AddPullDevice("ilo2")}
	journal, _ := os.MkdirTemp("", "journal-")
	defer os.RemoveAll(journal)

	s, err := sum.Open(ctx, sum.Config{
		Journal: journal,
		Ports:   map[portalloc.Role]portalloc.Policy{portalloc.Port: {First: 30001, Last: 31000}},
		Resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
			return transport.Retry(fake, transport.RetryOptions{}), at[t.Address].Endpoint(), nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	firmware := []*component.Component{{
		Name: "ilo-firmware", Version: "3.0", Scheme: version.Numeric,
		Match:   component.Match{Device: &component.DeviceMatch{Class: transport.ClassBMC, Part: component.Firmware}},
		Payload: transport.Payload{Name: "ilo", Version: "3.0", Files: []transport.File{transport.BytesFile("ilo.bin", []byte("image"))}},
	}}
	var nodes []*sum.Node
	for _, name := range []string{"ilo1", "ilo2"} {
		n, err := s.Node(sum.Target{Kind: sum.ILO, Address: name})
		if err != nil {
			log.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	update := func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
		inv, err := sum.Inventory(ctx, n)
		if err != nil {
			return nil, err
		}
		plan := sum.MakePlan(n.Target(), inv, firmware, sum.PlanOptions{})
		return sum.Deploy(ctx, n, plan, firmware, sum.DeployOptions{})
	}
	for r := range sum.Each(ctx, nodes, sum.EachOptions{}, update) {
		for _, o := range r.Value {
			fmt.Println(o.Target.Address, o.Kind, o.Subjects[0].Name, o.From(), "->", o.To())
		}
	}
	fmt.Println(s.Close(ctx), fake.Close())
	// Unordered output:
	// ilo1 Updated bmc 2.10 -> 3.0
	// ilo2 Updated bmc 2.10 -> 3.0
	// <nil> <nil>
}
