package transporttest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// A test of what happens when the line is cut in the middle of a transfer.
func Example() {
	ctx := context.Background()
	fake, server := transporttest.NewShellServer()
	server.Inject(transporttest.Fault{Op: "put", After: 60_000, Do: transporttest.Cut})
	file := transport.BytesFile("fw.bin", make([]byte, 100_000))

	for range 2 {
		conn, err := fake.Dial(ctx, server.Endpoint())
		if err != nil {
			fmt.Println(err)
			return
		}
		res, err := transport.Put(ctx, conn, "/var/tmp/fw.bin", file, transport.PutOptions{})
		fmt.Printf("sent %d, kept %d, connection lost: %t\n", res.Sent, res.Kept, errors.Is(err, transport.ErrConnLost))
		conn.Close(ctx)
	}
	fmt.Println(server.Files())
	fmt.Println("violations:", fake.Close())
	// Output:
	// sent 60000, kept 0, connection lost: true
	// sent 40000, kept 60000, connection lost: false
	// [/var/tmp/fw.bin]
	// violations: <nil>
}

// The suite over a decorator, or over a driver with a Harness of its own.
func ExampleConformance() {
	fake, device := transporttest.NewPushDevice()
	defer fake.Close()
	h := device.Harness()
	h.Transport = transport.Limit(h.Transport, transport.LimitOptions{Conns: 4})
	fmt.Println(transporttest.Conformance(context.Background(), h))
	// Output: <nil>
}
