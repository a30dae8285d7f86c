package portalloc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"

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

// An OA pulls from port 80 and from no other: without that port, nothing may be
// changed.
func ExampleOptions_noFallback() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)
	web, err := ports.Listen(ctx, portalloc.HTTP, portalloc.Options{NoFallback: true})
	if err != nil {
		// portalloc: listen for role http on 80: port is taken: 80 taken by
		// nginx (pid 812) (stop what has the port: the target asks for this
		// port and no other)
		log.Print(err)
		return
	}
	fmt.Println("payloads are at", web.Addr())
}

// The two listeners of a classic manager. The ports of the example are not the
// documented ones, which Classic has by itself.
func ExampleAllocator_ListenPair() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{
		Generation: portalloc.Classic,
		Policies: map[portalloc.Role]portalloc.Policy{
			portalloc.LocalIPC:        {First: 31801, Last: 31808, Overflow: true},
			portalloc.TargetToManager: {First: 31901, Last: 31908, Overflow: true},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)
	oneNIC, err := portalloc.OneNIC()
	if err != nil {
		log.Fatal(err)
	}
	local, remote, err := ports.ListenPair(ctx, portalloc.PairOptions{OneNIC: oneNIC})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(local.Role(), "and", remote.Role())
	if oneNIC {
		fmt.Println(remote.Port() > local.Port() && local.Port() >= 31901) // both of the second range
	} else {
		fmt.Println(local.Port() < 31901 && remote.Port() >= 31901)
	}
	// Output:
	// local-ipc and target-to-manager
	// true
}

// A classic manager dials its targets from ports that a firewall can know. Here
// the range has a random start.
func ExampleAllocator_Dialer() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{
		Generation: portalloc.Classic,
		Policies: map[portalloc.Role]portalloc.Policy{
			portalloc.ManagerToTarget: {First: 31801, Last: 31999, RandomStart: true},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer target.Close()

	dialer, err := ports.Dialer(portalloc.DialOptions{})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := dialer.DialContext(ctx, "tcp", target.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // gives the port back
	from := conn.(*portalloc.Conn).SourcePort()
	fmt.Println("from the range:", from >= 31801 && from <= 31999)
	// Output: from the range: true
}

// A parent listens, and a child serves: the port is held throughout. The child
// finds its first file as descriptor 3.
func ExampleLease_Files() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)
	lease, err := ports.Listen(ctx, portalloc.SSLPort, portalloc.Options{})
	if err != nil {
		log.Fatal(err)
	}
	files, err := lease.Files()
	if err != nil {
		log.Fatal(err) // errors.ErrUnsupported on Windows
	}
	child := exec.Command("/usr/libexec/roundsman-web")
	child.ExtraFiles = files
	err = child.Start()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		log.Fatal(err)
	}
	lease.Close() // the child has the port now
}

// What the child of the example of Lease.Files does.
func ExampleAllocator_Adopt() {
	ctx := context.Background()
	ports, err := portalloc.New(portalloc.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer ports.Close(ctx)
	file := os.NewFile(3, "listener")
	lease, err := ports.Adopt(ctx, portalloc.SSLPort, file)
	file.Close()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on port", lease.Port())
}
