// Package depot is the manager's server for targets: it gives out payload files
// and directory trees, and takes in status posts and logs, over HTTP and HTTPS.
//
//	d := depot.New(depot.Options{})
//	go d.Serve(lease)            // a listener of package portalloc, on 63001
//	go d.ServeTLS(other, config) // on 63002, with a certificate of NewCertificate
//	offer, err := d.Offer(depot.File{File: f, Key: key, Allow: prefixes})
//	url := "http://" + hostport + offer.Path
//	err = offer.Await(ctx, 2*time.Minute) // has the target come at all?
//	...
//	fetched, err := offer.Release(ctx)
//
// [Depot.Offer] offers one file, [Depot.OfferTree] a directory tree such as a
// VMware depot, [Depot.Receive] opens an inbox for posts. Each has a path of its
// own that cannot be guessed and a list of addresses that may use it; everybody
// else, and every other path, gets the same 404.
//
// Files are served with Content-Length, ETag and Range (RFC 9110), to HTTP/1.0
// clients too, and by sendfile where HTTPS does not prevent it. Each offer counts
// the bytes that went out, so that a driver can tell a target that never came
// from one that is slow, and [Offer.Await] says early, and with what is known
// about the reason, that nothing has come. Inboxes limit size and rate, and pass
// posts on as streams.
//
// # Clients that are slow, idle or many
//
// A client has ten seconds for a TLS handshake and for the head of a request,
// Options.Stall for each piece of a file and for its silence between requests, and
// half a minute for each 64 KiB of a post. Connections are limited for each
// address and in all, those of addresses that are allowed nothing much more
// narrowly and apart from the others. When a limit is reached the connection makes
// room that has been idle for longest.
//
// When the process has no more file descriptors, the depot closes idle connections,
// accepts no more, and waits until there are some. A request whose file cannot be
// opened within ten seconds for want of them gets the status 503 with Retry-After.
//
// # What HTTP protects
//
// Plain HTTP is what devices that fetch understand. It protects neither secrecy
// nor content: a payload carries its own signature, and the device checks that.
// What may be fetched is no secret, and the path keeps others from reading it off
// the port. What comes into an inbox was sent by whoever knew its path and had an
// address that is allowed; over HTTP that is anybody on the way.
package depot
