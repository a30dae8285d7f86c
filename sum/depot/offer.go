package depot

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
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
	// same as the IPv6 address that it is mapped to. There must be one: whoever
	// means everybody lists 0.0.0.0/0 and ::/0, and nothing but that does.
	Allow []netip.Prefix
}

// Tree is a directory tree to offer, such as a VMware depot with its index.xml,
// and to whom.
type Tree struct {
	// Name is the name of the directory on top. It is one element of the path.
	Name string
	// Files are the files of the tree; each has its length, digest and ETag.
	// Directories are what the slashes in their names make: none is listed, and
	// what is not a file is not found.
	Files []transport.File
	// Key, Token and Allow are as those of a File.
	Key   string
	Token string
	Allow []netip.Prefix
}

// Offer is a file or a tree on offer. It is safe for concurrent use.
type Offer struct {
	// Path is the path of the URL, percent-encoded; it ends in the file's name, or
	// in the tree's name and a slash.
	Path string

	d         *Depot
	path      string           // unescaped, without the slash of a tree
	name      string           // for messages
	files     map[string]*item // by what follows path: "" or "/dir/name"
	order     []*item          // as they were given
	requested chan struct{}    // closed at the first request
	withdrawn chan struct{}    // closed when the offer has gone
	once      sync.Once

	mu      sync.Mutex
	allow   allowList // replaced, and not changed
	grants  []*grant
	before  []int64 // connections that each grant had seen
	refused []netip.Addr
}

// item is a file on offer.
type item struct {
	file transport.File // but Open
	sent atomic.Int64

	mu   sync.Mutex
	open openFunc
	err  error // of the payload, at the last request that ended
}

type openFunc func(context.Context) (io.ReadSeekCloser, error)

func newItem(f transport.File) *item { return &item{file: f, open: f.Open} }

// source returns what opens the file.
func (it *item) source() openFunc {
	it.mu.Lock()
	defer it.mu.Unlock()
	return it.open
}

// Offer puts a file on offer until it is released. While something of that name
// is on offer under that key it fails with ErrKeyInUse, and with
// transport.ErrInvalid where the description makes no sense or Allow is empty.
func (d *Depot) Offer(f File) (*Offer, error) {
	if err := f.Check(); err != nil {
		return nil, &Error{Op: "offer", File: f.Name, Err: err}
	}
	name := path.Base(f.Name)
	o := &Offer{name: f.Name, order: []*item{newItem(f.File)}}
	o.files = map[string]*item{"": o.order[0]}
	return d.put(o, name, "", f.Key, f.Token, f.Allow)
}

// OfferTree puts a directory tree on offer until it is released; see Offer.
func (d *Depot) OfferTree(t Tree) (*Offer, error) {
	fail := func(err error) (*Offer, error) { return nil, &Error{Op: "offer", File: t.Name, Err: err} }
	if t.Name == "" || t.Name == "." || t.Name == ".." || strings.ContainsAny(t.Name, "/\\\x00") {
		return fail(fmt.Errorf("%w: the name of a tree must be one element of a path", transport.ErrInvalid))
	}
	if len(t.Files) == 0 {
		return fail(fmt.Errorf("%w: a tree without files", transport.ErrInvalid))
	}
	o := &Offer{name: t.Name, files: make(map[string]*item, len(t.Files))}
	for _, f := range t.Files {
		if err := f.Check(); err != nil {
			return fail(err)
		}
		if _, ok := o.files["/"+f.Name]; ok {
			return fail(fmt.Errorf("%w: %s is in the tree twice", transport.ErrInvalid, f.Name))
		}
		it := newItem(f)
		o.files["/"+f.Name] = it
		o.order = append(o.order, it)
	}
	return d.put(o, t.Name, "/", t.Key, t.Token, t.Allow)
}

// put puts o on offer. The suffix stands between its path and those of its files.
func (d *Depot) put(o *Offer, name, suffix, key, token string, allow []netip.Prefix) (*Offer, error) {
	fail := func(err error) (*Offer, error) { return nil, &Error{Op: "offer", File: o.name, Err: err} }
	list, err := newAllowList(allow)
	if err != nil {
		return fail(err)
	}
	if token, err = d.token(key, token, "offer"); err != nil {
		return fail(err)
	}
	o.d, o.path = d, offers+token+"/"+name
	o.Path = offers + token + "/" + url.PathEscape(name) + suffix
	o.requested, o.withdrawn = make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fail(ErrClosed)
	}
	if _, ok := d.offers[o.path]; ok {
		return fail(ErrKeyInUse)
	}
	d.offers[o.path] = o
	o.grant(list)
	return o, nil
}

// grant adds to those who may fetch it. The caller holds d.mu.
func (o *Offer) grant(list allowList) {
	o.mu.Lock()
	defer o.mu.Unlock()
	more := slices.DeleteFunc(list, func(p netip.Prefix) bool { return slices.Contains(o.allow, p) })
	o.allow = slices.Concat(o.allow, more)
	for _, g := range o.d.grants.add(more) {
		o.grants = append(o.grants, g)
		o.before = append(o.before, g.conns.Load())
	}
}

func (o *Offer) allowed() allowList {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.allow
}

// Renew is for an update that is resumed and offers again what is on offer: the
// prefixes are added to those who may fetch it, and it is read through the files
// given from now on. They must be those of the offer, or Renew fails with
// ErrChanged, and with ErrWithdrawn if the offer has gone; then nothing changes.
func (o *Offer) Renew(allow []netip.Prefix, files ...transport.File) error {
	fail := func(err error) error { return &Error{Op: "offer", File: o.name, Err: err} }
	list, err := addAllowList(allow)
	if err != nil {
		return fail(err)
	}
	items := map[string]transport.File{}
	for _, f := range files {
		items[f.Name] = f
	}
	for _, it := range o.order {
		if f := items[it.file.Name]; f.Open == nil || f.Size != it.file.Size || f.SHA256 != it.file.SHA256 {
			return fail(fmt.Errorf("%w: %s", ErrChanged, it.file.Name))
		}
	}
	if len(items) != len(o.order) {
		return fail(ErrChanged)
	}
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	if o.d.offers[o.path] != o {
		return fail(ErrWithdrawn)
	}
	o.grant(list)
	for _, it := range o.order {
		it.mu.Lock()
		it.open = items[it.file.Name].Open
		it.mu.Unlock()
	}
	return nil
}

// withdraw takes the offer away. The caller holds d.mu.
func (o *Offer) withdraw() {
	if o.d.offers[o.path] == o {
		delete(o.d.offers, o.path)
		o.d.grants.remove(o.grants)
		close(o.withdrawn)
	}
}

// FilePath returns the path of the URL of one file, percent-encoded, by its name
// in the tree, or "" if there is no such file. That of an offer with one file is
// Path, whatever the name.
func (o *Offer) FilePath(name string) string {
	if o.files[""] != nil {
		return o.Path
	}
	if o.files["/"+name] == nil {
		return ""
	}
	elems := strings.Split(name, "/")
	for i, e := range elems {
		elems[i] = url.PathEscape(e)
	}
	return o.Path + strings.Join(elems, "/")
}

// Sent returns the bytes of content that went out so far, repeated ones included.
// It is never less than what arrived; what is on the way counts.
func (o *Offer) Sent() int64 {
	var sum int64
	for _, it := range o.order {
		sum += it.sent.Load()
	}
	return sum
}

// SentFiles returns what Sent sums up, by the name of the file. Files of which
// nothing went out are left out.
func (o *Offer) SentFiles() map[string]int64 {
	out := map[string]int64{}
	for _, it := range o.order {
		if n := it.sent.Load(); n > 0 {
			out[it.file.Name] = n
		}
	}
	return out
}

// Requested is closed when the first GET or HEAD from an allowed address has
// come, also for something below Path that is not there.
func (o *Offer) Requested() <-chan struct{} { return o.requested }

// Release withdraws the offer and returns the bytes that went out, as Sent does.
// Transfers that are under way go on: the target may still need them. The error
// says why a file could not be read, if that is how the last request for it
// ended. Release may be called more than once; it does not block.
func (o *Offer) Release(context.Context) (int64, error) {
	o.d.mu.Lock()
	o.withdraw()
	o.d.mu.Unlock()
	for _, it := range o.order {
		if err := it.failure(); err != nil {
			return o.Sent(), err
		}
	}
	return o.Sent(), nil
}

// maxRefused bounds the addresses that an offer remembers.
const maxRefused = 8

// refuse remembers an address that knew the path and is not allowed.
func (o *Offer) refuse(from netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.refused) < maxRefused && !slices.Contains(o.refused, from) {
		o.refused = append(o.refused, from)
	}
}

// Refused returns addresses that asked for the offer and are not allowed, the
// first eight of them. Who knows the path is hardly a stranger: it may be the
// target, seen through NAT or a proxy.
func (o *Offer) Refused() []netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.refused)
}

// ended keeps how a request for the file ended.
func (it *item) ended(err error) {
	if err != nil {
		err = &Error{Op: "read", File: it.file.Name, Err: err}
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	it.err = err
}

func (it *item) failure() error {
	it.mu.Lock()
	defer it.mu.Unlock()
	return it.err
}
