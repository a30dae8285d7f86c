package depot_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// Example offers one file.
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

// A VMware depot: the host gets the URL of index.xml and finds the rest by the
// names in it.
func ExampleDepot_OfferTree() {
	d := depot.New(depot.Options{})
	defer d.Close(context.Background())
	offer, err := d.OfferTree(depot.Tree{
		Name: "depot",
		Files: []transport.File{
			transport.BytesFile("index.xml", []byte("<vendorList/>")),
			transport.BytesFile("vib20/smx/HPE smx.vib", []byte("vib")),
		},
		Token: "VGhpcyBpcyBhIHRlc3QhISEh", // of NewToken, or left out
		Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(offer.FilePath("index.xml"))
	fmt.Println(offer.FilePath("vib20/smx/HPE smx.vib"))
	// Output:
	// /p/VGhpcyBpcyBhIHRlc3QhISEh/depot/index.xml
	// /p/VGhpcyBpcyBhIHRlc3QhISEh/depot/vib20/smx/HPE%20smx.vib
}

func ExampleDepot_Receive() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	d := depot.New(depot.Options{})
	served := make(chan error)
	go func() { served <- d.Serve(ln) }()

	status, err := d.Receive(depot.Inbox{
		Name:     "status of bay 3",
		Allow:    []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		MaxBytes: 64 << 10,
		Handle: func(_ context.Context, p depot.Post) error {
			text, err := io.ReadAll(p.Body) // it is limited
			if err != nil {
				return err
			}
			fmt.Printf("%s %s from %s: %s\n", p.Method, p.Path, p.From, text)
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	// What the target does, having been given the URL.
	res, err := http.Post("http://"+ln.Addr().String()+status.Path+"/progress", "text/plain", strings.NewReader("40 %"))
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	fmt.Println(res.Status)

	status.Release()
	fmt.Println(d.Close(context.Background()), <-served)
	// Output:
	// POST progress from 127.0.0.1: 40 %
	// 204 No Content
	// <nil> <nil>
}
