package depot_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

func Example() {
	ctx := context.Background()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a lease of package portalloc, as a rule
	if err != nil {
		log.Fatal(err)
	}
	d := depot.New(depot.Options{})
	served := make(chan error)
	go func() { served <- d.Serve(ln) }()

	offer, err := d.Offer(depot.File{
		File:  transport.BytesFile("ilo5_278.bin", []byte("firmware image")),
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})
	if err != nil {
		log.Fatal(err)
	}

	// What the target does, having been given the URL.
	res, err := http.Get("http://" + ln.Addr().String() + offer.Path)
	if err != nil {
		log.Fatal(err)
	}
	image, _ := io.ReadAll(res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	fmt.Printf("%s: %s\n", res.Status, image)

	fetched, err := offer.Release(ctx)
	fmt.Println(fetched, err)
	fmt.Println(d.Close(ctx), <-served)
	// Output:
	// 200 OK: firmware image
	// 14 <nil>
	// <nil> <nil>
}
