package portalloc_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/roundsman-go/roundsman/portalloc"
)

// A manager opens its two configured ports and finds out that a third is off.
func Example() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{
		Policies: map[portalloc.Role]portalloc.Policy{
			portalloc.Port:    {First: 31801, Last: 31999},
			portalloc.SSLPort: {First: 31801, Last: 31999},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)

	local := portalloc.Options{Loopback: true}
	payloads, err := ports.Listen(ctx, portalloc.Port, local)
	if err != nil {
		log.Fatal(err) // names the ports, who has them, and what to do
	}
	secure, err := ports.Listen(ctx, portalloc.SSLPort, local)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(payloads.Role(), "and", secure.Role(), "differ:", payloads.Port() != secure.Port())

	_, err = ports.Listen(ctx, portalloc.FTP, local)
	fmt.Println("FTP is off:", errors.Is(err, portalloc.ErrDisabled))

	// Output:
	// port and ssl_port differ: true
	// FTP is off: true
}

// The documented ports, and how to change one.
func ExampleDefaultPolicies() {
	policies := portalloc.DefaultPolicies(portalloc.Classic)
	policies[portalloc.Port] = portalloc.Fixed(80)
	for r := portalloc.LocalIPC; r <= portalloc.Dynamic; r++ {
		fmt.Printf("%-17s %s\n", r, policies[r])
	}
	// Output:
	// local-ipc         60000-60007 and up
	// manager-to-target 60000-60007 and up
	// target-to-manager 61000-61007 and up
	// agent             62286 and up
	// http              80, then 63000-63005 in random order
	// port              80
	// ssl_port          63002
	// ftp_port          no port
	// dynamic           1025-65535 in random order
}
