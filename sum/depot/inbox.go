package depot

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Inbox takes in what targets send: status posts and logs.
type Inbox struct {
	Name string // for logs and errors
	// Key makes the path: within one depot the same key gives the same path. Empty
	// means a new path.
	Key string
	// Token, from NewToken, is the part of the path that cannot be guessed, for an
	// inbox that must be found again where an earlier process had it; it then
	// stands for Key.
	Token string
	// Allow lists who may send, as that of a File does.
	Allow []netip.Prefix
	// MaxBytes limits the body of one post; 0 means 1 MiB.
	MaxBytes int64
	// MaxTotal limits all bodies over the life of the inbox; 0 means 64 MiB.
	MaxTotal int64
	// Rate is how many posts a second are taken in the long run, Burst how many at
	// once after a silence; 0 means 10 and 50. One too many is refused with the
	// time after which to come again.
	Rate  float64
	Burst int
	// Handlers is how many calls of Handle run at a time; 0 means 4. Further posts
	// wait for up to ten seconds.
	Handlers int
	// Handle takes a post; it is called from several goroutines. The client hears
	// that the post was taken when it returns nil, and otherwise that it was not,
	// but not the error. ctx ends with the depot, not with the connection: devices
	// send and hang up. When reading the body has failed, the client hears about
	// that, whatever Handle returns; what was read is worth keeping then only if
	// half a log is.
	Handle func(ctx context.Context, p Post) error
}

// Post is one request to an inbox.
type Post struct {
	Method string // "POST" or "PUT"
	// Path is what follows Intake.Path, without slashes around it: "" or
	// "logs/ilo.txt". It is clean as path.Clean has it, does not climb, and has
	// neither backslashes nor control characters. It is not fit to be a file name
	// as it is: the client has chosen it.
	Path        string
	ContentType string // as the client says
	From        netip.Addr
	Size        int64 // bytes of the body, or -1 if the client does not tell
	// Body is the content, until Handle returns. Reading it fails with ErrTooLarge,
	// ErrFull or ErrStalled where the inbox sets a limit.
	Body io.Reader
}

// Intake is an inbox that is open. It is safe for concurrent use.
type Intake struct {
	// Path is the path of the URL to send to; it needs no escaping. What a client
	// appends to it after a slash becomes Post.Path.
	Path string

	d      *Depot
	token  string
	box    Inbox
	allow  allowList
	grants []*grant
	slots  chan struct{}
	bucket bucket
	often  atomic.Bool // the last post came too soon
	posts  atomic.Int64
	bytes  atomic.Int64
}

// Receive opens an inbox until it is released. While one is open under that key
// it fails with ErrKeyInUse.
func (d *Depot) Receive(box Inbox) (*Intake, error) {
	fail := func(err error) (*Intake, error) { return nil, &Error{Op: "receive", File: box.Name, Err: err} }
	if box.Handle == nil {
		return fail(fmt.Errorf("%w: no Handle function", transport.ErrInvalid))
	}
	if box.MaxBytes <= 0 {
		box.MaxBytes = 1 << 20
	}
	box.MaxBytes = min(box.MaxBytes, math.MaxInt64-1) // one more than may come is read
	if box.MaxTotal <= 0 {
		box.MaxTotal = 64 << 20
	}
	if box.Rate <= 0 {
		box.Rate = 10
	}
	if box.Burst <= 0 {
		box.Burst = 50
	}
	if box.Handlers <= 0 {
		box.Handlers = 4
	}
	allow, err := newAllowList(box.Allow)
	if err != nil {
		return fail(err)
	}
	token, err := d.token(box.Key, box.Token, "receive")
	if err != nil {
		return fail(err)
	}
	in := &Intake{
		Path: inboxes + token, d: d, token: token, box: box, allow: allow,
		slots:  make(chan struct{}, box.Handlers),
		bucket: bucket{rate: box.Rate, size: float64(box.Burst), left: float64(box.Burst), at: time.Now()},
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fail(ErrClosed)
	}
	if _, ok := d.inboxes[token]; ok {
		return fail(ErrKeyInUse)
	}
	d.inboxes[token] = in
	in.grants = d.grants.add(allow)
	return in, nil
}

// Posts returns how many posts Handle has taken.
func (in *Intake) Posts() int64 { return in.posts.Load() }

// Bytes returns how many bytes Handle was given, those of posts that failed
// included.
func (in *Intake) Bytes() int64 { return in.bytes.Load() }

// Release closes the inbox. Posts that are under way go on; it does not wait for
// them. It may be called more than once.
func (in *Intake) Release() {
	in.d.mu.Lock()
	defer in.d.mu.Unlock()
	in.withdraw()
}

// withdraw takes the inbox away. The caller holds d.mu.
func (in *Intake) withdraw() {
	if in.d.inboxes[in.token] == in {
		delete(in.d.inboxes, in.token)
		in.d.grants.remove(in.grants)
	}
}

// admit counts n bytes, or as many as fit.
func (in *Intake) admit(n int64) int64 {
	for {
		have := in.bytes.Load()
		fits := min(n, in.box.MaxTotal-have)
		if in.bytes.CompareAndSwap(have, have+fits) {
			return fits
		}
	}
}
