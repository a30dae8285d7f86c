// Package depot is the manager's server for targets that fetch what is put on
// them: it gives out payload files over HTTP.
//
// Every offer has a path of its own that cannot be guessed and a list of
// addresses that may ask for it; everybody else, and every other path, gets the
// same 404. Files are served with Content-Length, ETag and Range (RFC 9110), to
// HTTP/1.0 clients too, and each offer counts the bytes that went out, so that a
// driver can tell a target that never came from one that is slow.
//
//	d := depot.New(depot.Options{})
//	go d.Serve(lease) // a listener of package portalloc
//	offer, err := d.Offer(depot.File{File: f, Key: key, Allow: prefixes})
//	url := "http://" + hostport + offer.Path
//	...
//	fetched, err := offer.Release(ctx)
//
// Plain HTTP is what devices that fetch understand. It protects neither secrecy
// nor content: a payload carries its own signature, and the device checks that.
// What may be fetched is no secret, and the path keeps others from reading it
// off the port.
package depot
