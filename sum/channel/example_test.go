package channel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// ops is an agent that knows its name and no jobs. A real one implements the
// other methods of [channel.Handler] too.
type ops struct{ channel.Handler }

func (ops) Inventory(context.Context, *channel.InventoryRequest) (*channel.InventoryResponse, error) {
	return &channel.InventoryResponse{HostName: "web-01", AgentTime: time.Now()}, nil
}

func (ops) Status(context.Context, *channel.StatusRequest) (*channel.JobStatus, error) {
	return nil, &channel.Fault{Code: channel.CodeNotFound, Message: "no such job"}
}

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// The manager mints an identity for one node. The agent's half travels over
	// a confidential connection, and is read there.
	manager, agent, err := channel.NewIdentity("web-01")
	if err != nil {
		fmt.Println(err)
		return
	}
	bootstrap, err := agent.MarshalBootstrap()
	if err != nil {
		fmt.Println(err)
		return
	}
	if agent, err = channel.ParseAgentBootstrap(bootstrap); err != nil {
		fmt.Println(err)
		return
	}

	// The agent serves.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &channel.Server{Credentials: agent, Handler: ops{}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()

	// The manager calls.
	client := &channel.Client{
		Credentials: manager,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		},
	}
	inv, err := client.Inventory(ctx, nil)
	fmt.Println(inv.HostName, err)
	_, err = client.Status(ctx, &channel.StatusRequest{JobID: channel.NewJobID()})
	fmt.Println(errors.Is(err, channel.ErrNotFound))

	fmt.Println(client.Close(ctx), server.Close(ctx))
	fmt.Println(errors.Is(<-served, channel.ErrClosed))
	// Output:
	// web-01 <nil>
	// true
	// <nil> <nil>
	// true
}
