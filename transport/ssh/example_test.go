package ssh_test

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
)

// A file is copied to a server and looked at there.
func Example() {
	srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: "secret"})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	ctx := context.Background()
	conn, err := (&ssh.Transport{}).Dial(ctx, transport.Endpoint{
		Address:     srv.Addr(),
		Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("secret")},
		Trust:       transport.Trust{HostKeys: []string{srv.AuthorizedHostKey()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Caps())

	name := srv.Home() + "/it's new.bin"
	res, err := transport.Put(ctx, conn, name, transport.BytesFile("fw.bin", []byte("firmware")), transport.PutOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Sent, "bytes sent")

	var out bytes.Buffer
	exit, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"cat", name}, Stdout: &out})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out.String(), exit.Code)
	// Output:
	// files+run+tunnel-unix+tunnel-tcp
	// 8 bytes sent
	// firmware 0
}

// The target is reached by way of a jump host.
func ExampleThrough() {
	ctx := context.Background()
	hop := func() (*sshtest.Server, transport.Endpoint) {
		srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: "secret"})
		if err != nil {
			log.Fatal(err)
		}
		return srv, transport.Endpoint{
			Address:     srv.Addr(),
			Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("secret")},
			Trust:       transport.Trust{HostKeys: []string{srv.AuthorizedHostKey()}},
		}
	}
	jumpServer, jumpEndpoint := hop()
	defer jumpServer.Close()
	server, endpoint := hop()
	defer server.Close()

	jump, err := (&ssh.Transport{}).Dial(ctx, jumpEndpoint)
	if err != nil {
		log.Fatal(err)
	}
	defer jump.Close(ctx)
	conn, err := (&ssh.Transport{DialContext: ssh.Through(jump)}).Dial(ctx, endpoint)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Path().Local.IsValid(), conn.Path().SeenAs)
	// Output: false 127.0.0.1
}
