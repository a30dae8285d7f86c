package redfishtest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
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
