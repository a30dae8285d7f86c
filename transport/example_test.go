package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// A file is put on a server and a command is run there. Callers never
// type-assert: what a connection cannot do matches errors.ErrUnsupported.
func Example() {
	ctx := context.Background()
	fake, server := transporttest.NewShellServer() // or a driver, such as &ssh.Transport{}
	defer fake.Close()
	server.OnRun(transporttest.Argv("sha256sum", "*"), transporttest.Answer("ok\n", "", 0))

	conn, err := fake.Dial(ctx, server.Endpoint())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	res, err := transport.Put(ctx, conn, "/var/tmp/fw.bin", transport.BytesFile("fw.bin", []byte("firmware")), transport.PutOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sent", res.Sent, "kept", res.Kept)

	var out bytes.Buffer
	exit, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"sha256sum", res.Info.Native}, Stdout: &out})
	fmt.Printf("exit %d, %q, %v\n", exit.Code, out.String(), err)

	_, err = transport.ReadInventory(ctx, conn)
	fmt.Println("inventory:", errors.Is(err, errors.ErrUnsupported))
	// Output:
	// sent 8 kept 0
	// exit 0, "ok\n", <nil>
	// inventory: true
}

// Decorators add up. Each keeps the capabilities of what it wraps.
func ExampleRetry() {
	ctx := context.Background()
	fake, device := transporttest.NewPushDevice()
	defer fake.Close()
	device.Inject(transporttest.Fault{Op: "dial", Times: 2, Err: transport.ErrUnreachable})

	tr := transport.Retry(fake, transport.RetryOptions{
		Base:    1, // nanosecond; the default is half a second
		OnRetry: func(op string, try int, err error) { fmt.Println(op, "try", try) },
	})
	tr = transport.Limit(tr, transport.LimitOptions{Dials: 16, Calls: 1})

	conn, err := tr.Dial(ctx, device.Endpoint())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Caps())
	// Output:
	// dial try 2
	// dial try 3
	// inventory+update+undo+reboot
}

// counted counts the commands that are run.
type counted struct {
	transport.Forward
	runs atomic.Int64
}

func (c *counted) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	c.runs.Add(1)
	return c.Forward.Run(ctx, cmd)
}

// A decorator of one's own embeds Forward and overrides what it changes.
func ExampleForward() {
	ctx := context.Background()
	fake, server := transporttest.NewShellServer()
	defer fake.Close()
	server.OnRun(transporttest.Argv("true"), transporttest.Answer("", "", 0))
	conn, err := fake.Dial(ctx, server.Endpoint())
	if err != nil {
		log.Fatal(err)
	}
	c := &counted{Forward: transport.Forward{Conn: conn}}
	defer c.Close(ctx)
	for range 3 {
		if _, err := transport.Run(ctx, c, transport.Command{Argv: []string{"true"}}); err != nil {
			log.Fatal(err)
		}
	}
	_, err = transport.Stat(ctx, c, "/etc")
	fmt.Println(c.runs.Load(), err)
	// Output: 3 <nil>
}
