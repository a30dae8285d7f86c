package smbtest_test

import (
	"errors"
	"fmt"
	"log"
	"os"

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
