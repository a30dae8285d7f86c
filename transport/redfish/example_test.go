package redfish_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

// The firmware of a management processor is updated by a push, and read back.
func Example() {
	srv, err := redfishtest.NewServer(redfishtest.Config{Profile: redfishtest.ILO5})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	ctx := context.Background()
	conn, err := (&redfish.Transport{}).Dial(ctx, transport.Endpoint{
		Address:     srv.Addr(),
		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
		Trust:       transport.Trust{SPKI: [][sha256.Size]byte{srv.SPKI()}},
		Options:     redfish.Options{PollInterval: 1e6}, // real ones take minutes
	})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	image := srv.Firmware("1").Image("ilo5_278.bin", "2.78", 1<<20)
	res, err := transport.Update(ctx, conn, transport.Payload{Name: "iLO 5", Version: "2.78", Files: []transport.File{image}},
		transport.UpdateOptions{Devices: []string{"iLO 5 @ System Board"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Verdict, srv.Firmware("1").Version)
	// Output: applied 2.78
}
