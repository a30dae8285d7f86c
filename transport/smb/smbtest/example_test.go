package smbtest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

func Example() {
	services := &smbtest.Services{Run: func(name string, argv []string) (stop func(), err error) {
		fmt.Println(name, "starts", argv)
		return func() { fmt.Println(name, "stops") }, nil
	}}
	srv, err := smbtest.NewServer(smbtest.Config{Services: services})
	if errors.Is(err, errors.ErrUnsupported) {
		return // not on Linux, not as root, or without Samba
	}
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	// A driver would now be given srv.Addr, srv.User and srv.Password, put a
	// program on ADMIN$ and make a service of it:
	_ = os.WriteFile(srv.Path(`C:\Windows\agent.exe`), nil, 0o755)
	_ = services.Add(smbtest.Service{Name: "agent", Command: `"C:\Windows\agent.exe" serve`})
	// What could go wrong when it starts it:
	services.SetFaults(smbtest.Faults{StartError: smbtest.ErrStartTimeout})
	// What another program may do to the file:
	release, err := srv.Hold("ADMIN$", "agent.exe")
	if err != nil {
		log.Fatal(err)
	}
	release()
}

// A pipeline is tried against a server as it would be run against Windows: a program is
// brought there, run as a service, and nothing of it stays.
func Example_pipeline() {
	srv, err := smbtest.NewServer(smbtest.Config{})
	if errors.Is(err, errors.ErrUnsupported) {
		return // not on Linux, not as root, or without Samba
	}
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	err = update(context.Background(), transport.Endpoint{Address: srv.Addr(), Options: smb.Options{ShareRoot: `C:\Windows`},
		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())}})
	left, _ := os.ReadDir(srv.Admin())
	if err != nil || len(left)+len(srv.Services().List()) > 0 {
		log.Fatal(err, left)
	}
}

// update is the pipeline.
func update(ctx context.Context, ep transport.Endpoint) error {
	conn, err := (&smb.Transport{}).Dial(ctx, ep)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	setup := transport.BytesFile("setup.exe", []byte("MZ"))
	res, err := transport.Put(ctx, conn, "setup.exe", setup, transport.PutOptions{})
	if err != nil {
		return err
	}
	defer transport.Remove(ctx, conn, "setup.exe")
	cfg := transport.ServiceConfig{Name: "setup", Argv: []string{res.Info.Native, "/quiet"}}
	if err := transport.CreateService(ctx, conn, cfg); err != nil {
		return err
	}
	return errors.Join(transport.StartService(ctx, conn, cfg.Name), transport.StopService(ctx, conn, cfg.Name),
		transport.DeleteService(ctx, conn, cfg.Name))
}
