package redfishtest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

func Example() {
	srv, err := redfishtest.NewServer(redfishtest.Config{Profile: redfishtest.ILO5})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	// An image for the iLO itself, and where it can be fetched.
	image := srv.Firmware("1").Image("ilo5_301.bin", "3.01", 1<<20)
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := image.Open(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	}))
	defer files.Close()

	// What goes wrong: the iLO is busy when it is asked for the first time.
	busy := srv.Inject(redfishtest.Fault{Kind: redfishtest.Busy, Times: 1})

	// A driver would be given srv.Addr, srv.User, srv.Password and srv.SPKI.
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	for range 2 {
		req, err := http.NewRequest("POST", srv.URL()+"/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate/",
			strings.NewReader(`{"ImageURI":"`+files.URL+`/ilo5_301.bin"}`))
		if err != nil {
			log.Fatal(err)
		}
		req.SetBasicAuth(srv.User(), srv.Password())
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := srv.Idle(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(busy.Hits(), srv.Resets(), srv.Firmware("1").Version)
	// Output:
	// 400 Bad Request
	// 202 Accepted
	// 1 1 3.01
}

// Several servers in a program that is no test: at addresses that stay, with what they
// are to be updated to on disk.
func Example_program() {
	dir, err := os.MkdirTemp("", "payloads")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, cfg := range []redfishtest.Config{
		{Profile: redfishtest.ILO5, Addr: "127.0.0.1:0", User: "admin", Password: "password"}, // 0: any port
		{Profile: redfishtest.RMC, Addr: "[::1]:0", User: "admin", Password: "password"},
	} {
		srv, err := redfishtest.NewServer(cfg)
		if err != nil {
			log.Fatal(err)
		}
		defer srv.Close()
		manager := srv.Inventory()[0]
		payload, err := redfishtest.Save(manager.Image(string(cfg.Profile)+".bin", "9.10", 1<<20), dir)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(manager.Name, manager.Version, filepath.Base(payload))
	}
	// Output:
	// iLO 5 2.72 Sep 04 2022 ilo5.bin
	// RMC Firmware 3.0.494 rmc.bin
}
