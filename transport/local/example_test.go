//go:build unix

package local_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
)

// A file is put in its place on this host and read by a program.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	conn, err := (&local.Transport{}).Dial(ctx, transport.Endpoint{})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Caps())

	name := dir + "/it's new.bin"
	res, err := transport.Put(ctx, conn, name, transport.BytesFile("fw.bin", []byte("firmware")), transport.PutOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Sent, "bytes")

	var out bytes.Buffer
	exit, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"cat", name}, Stdout: &out})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, exit status %d\n", &out, exit.Code)
	// Output:
	// files+run+tunnel-unix+tunnel-tcp
	// 8 bytes
	// firmware, exit status 0
}
