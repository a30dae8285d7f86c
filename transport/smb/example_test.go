package smb_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
)

// A program is copied to the Windows directory of a server and run as a service.
func Example() {
	ctx := context.Background()
	conn, err := (&smb.Transport{}).Dial(ctx, transport.Endpoint{
		Address:     "db1.lab.example",
		Credentials: transport.Credentials{User: "ops", Domain: "LAB", Password: transport.NewSecret("from a vault")},
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer conn.Close(ctx)
	setup, err := transport.DiskFile(ctx, "setup.exe", "/srv/payloads/setup.exe")
	if err != nil {
		log.Print(err)
		return
	}
	dir := "roundsman-" + rand.Text() // in the Windows directory administrators alone write
	if err := transport.Mkdir(ctx, conn, dir, 0o700); err != nil {
		log.Print(err)
		return
	}
	defer transport.RemoveAll(ctx, conn, dir)
	res, err := transport.Put(ctx, conn, dir+"/setup.exe", setup, transport.PutOptions{})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(res.Info.Native) // such as C:\Windows\roundsman-…\setup.exe
	cfg := transport.ServiceConfig{Name: "roundsman-setup", Argv: []string{res.Info.Native, "serve"}}
	if err := transport.CreateService(ctx, conn, cfg); err != nil {
		log.Print(err)
		return
	}
	defer transport.DeleteService(ctx, conn, cfg.Name)
	if err := transport.StartService(ctx, conn, cfg.Name); err != nil {
		log.Print(err)
	}
}
