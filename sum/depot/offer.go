package depot

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// File is what to offer, and to whom.
type File struct {
	transport.File
	// Key makes the path: within one depot the same key and file name give the
	// same path. Empty means a new path.
	Key string
	// Token, from NewToken, is the part of the path that cannot be guessed, for an
	// offer that must be found again where an earlier process had it; it then
	// stands for Key.
	Token string
	// Allow lists who may fetch it; zones do not count, and an IPv4 address is the
	// same as the IPv6 address that it is mapped to. Empty allows nobody.
	Allow []netip.Prefix
}

// Offer is a file on offer. It is safe for concurrent use.
type Offer struct {
	// Path is the path of the URL, percent-encoded; it ends in the file's name.
	Path string

	d         *Depot
	path      string // unescaped
	file      transport.File
	allow     []netip.Prefix
	sent      atomic.Int64
	requested chan struct{} // closed at the first request
	once      sync.Once

	mu  sync.Mutex
	err error // of the payload, at the last request that ended
}

// tokenBytes is how much of a path is secret.
const tokenBytes = 18

// NewToken returns a token that cannot be guessed; see File.
func NewToken() string {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func validToken(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == tokenBytes
}

// Offer puts a file on offer until it is released. While a file of that name is
// on offer under that key it fails with ErrKeyInUse.
func (d *Depot) Offer(f File) (*Offer, error) {
	fail := func(err error) (*Offer, error) { return nil, &Error{Op: "offer", File: f.Name, Err: err} }
	if err := f.Check(); err != nil {
		return fail(err)
	}
	allow, err := plainPrefixes(f.Allow)
	if err != nil {
		return fail(err)
	}
	token := f.Token
	switch {
	case token == "" && f.Key == "":
		token = NewToken()
	case token == "":
		mac := hmac.New(sha256.New, d.secret[:])
		_, _ = io.WriteString(mac, f.Key)
		token = base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:tokenBytes])
	case !validToken(token):
		return fail(fmt.Errorf("%w: the token is not one of NewToken", transport.ErrInvalid))
	}
	dir := "/p/" + token + "/"
	name := path.Base(f.Name)
	o := &Offer{Path: dir + url.PathEscape(name), d: d, path: dir + name, file: f.File, allow: allow, requested: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fail(ErrClosed)
	}
	if _, ok := d.offers[o.path]; ok {
		return fail(ErrKeyInUse)
	}
	d.offers[o.path] = o
	return o, nil
}

// plainPrefixes returns prefixes in the form in which clients are compared with
// them: IPv4 is never mapped to IPv6.
func plainPrefixes(in []netip.Prefix) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		if !p.IsValid() {
			// It would match nobody, and the target would be refused without a reason.
			return nil, fmt.Errorf("%w: %v in Allow", transport.ErrInvalid, p)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p)
	}
	return out, nil
}

func (o *Offer) allows(from netip.Addr) bool {
	return slices.ContainsFunc(o.allow, func(p netip.Prefix) bool { return p.Contains(from) })
}

// Sent returns the bytes of the file that went out so far, repeated ones
// included. It is never less than what arrived; what is on the way counts.
func (o *Offer) Sent() int64 { return o.sent.Load() }

// Requested is closed when the first GET or HEAD from an allowed address has come.
func (o *Offer) Requested() <-chan struct{} { return o.requested }

// Release withdraws the offer and returns the bytes that went out, as Sent does.
// Transfers that are under way go on: the target may still need them. The error
// says why the payload could not be read, if that is how the last request for it
// ended. Release may be called more than once; it does not block.
func (o *Offer) Release(context.Context) (int64, error) {
	o.d.mu.Lock()
	if o.d.offers[o.path] == o {
		delete(o.d.offers, o.path)
	}
	o.d.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Sent(), o.err
}

// ended keeps how a request for the payload ended.
func (o *Offer) ended(err error) {
	if err != nil {
		err = &Error{Op: "read", File: o.file.Name, Err: err}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}
