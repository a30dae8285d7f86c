// Package depot is the manager's server for targets that fetch what is put on
// them: it gives out payload files over HTTP.
//
// Every offer has a path of its own that cannot be guessed and a list of
// addresses that may ask for it; everybody else, and every other path, gets 404.
// Files are served with Content-Length, ETag and Range (RFC 9110), to HTTP/1.0
// clients too, and each offer counts the bytes that went out, so that a driver
// can tell a target that never came from one that is slow.
//
//	d := depot.New(depot.Options{})
//	go d.Serve(lease) // a listener of package portalloc
//	offer, err := d.Offer(depot.File{File: f, Key: key, Allow: prefixes})
//	url := "http://" + hostport + offer.Path
//	...
//	fetched, err := offer.Release(ctx)
package depot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// ErrClosed: the depot was closed.
var ErrClosed = errors.New("depot closed")

// Error says what the depot could not do.
type Error struct {
	Op  string
	Err error
}

// Error implements error.
func (e *Error) Error() string { return "depot: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Options are the options of a Depot.
type Options struct {
	// Stall is how long a client may neither read nor send before it is cut off;
	// 0 means 2 minutes. There is no limit on the whole transfer.
	Stall time.Duration
	// Logger gets one debug record a request; nil discards them.
	Logger *slog.Logger
}

// Depot serves offers. It is safe for concurrent use.
type Depot struct {
	opts   Options
	server *http.Server
	secret [32]byte // makes paths out of keys

	mu     sync.Mutex
	offers map[string]*Offer // by path
	closed bool
}

// New returns a depot that offers nothing and listens nowhere yet.
func New(opts Options) *Depot {
	if opts.Stall <= 0 {
		opts.Stall = 2 * time.Minute
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Depot{opts: opts, offers: map[string]*Offer{}}
	_, _ = rand.Read(d.secret[:]) // never fails: see crypto/rand
	d.server = &http.Server{
		Handler:           http.HandlerFunc(d.handle),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       opts.Stall,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	return d
}

// Serve accepts connections on ln until the depot is closed; it closes ln and
// then returns nil. It may be called for several listeners.
func (d *Depot) Serve(ln net.Listener) error {
	if err := d.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return &Error{Op: "serve", Err: err}
	}
	return nil
}

// Close withdraws all offers and closes all listeners and connections, transfers
// included.
func (d *Depot) Close(context.Context) error {
	d.mu.Lock()
	d.closed = true
	clear(d.offers)
	d.mu.Unlock()
	if err := d.server.Close(); err != nil {
		return &Error{Op: "close", Err: err}
	}
	return nil
}

// File is what to offer, and to whom.
type File struct {
	transport.File
	// Key makes the path: within one depot the same key gives the same path.
	// Empty means a new path.
	Key string
	// Allow lists who may fetch it. Empty allows nobody.
	Allow []netip.Prefix
}

// Offer is a file on offer.
type Offer struct {
	// Path is the path of the URL; it ends in the file's name.
	Path string

	d     *Depot
	file  File
	sent  atomic.Int64
	first chan struct{} // closed at the first request
	once  sync.Once
}

// Offer puts a file on offer until it is released.
func (d *Depot) Offer(f File) (*Offer, error) {
	if err := f.Check(); err != nil {
		return nil, &Error{Op: "offer", Err: err}
	}
	key := f.Key
	if key == "" {
		key = rand.Text()
	}
	h := sha256.New()
	h.Write(d.secret[:])
	_, _ = io.WriteString(h, key)
	token := base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
	o := &Offer{Path: "/p/" + token + "/" + path.Base(f.Name), d: d, file: f, first: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &Error{Op: "offer", Err: ErrClosed}
	}
	if _, ok := d.offers[o.Path]; ok {
		return nil, &Error{Op: "offer", Err: fmt.Errorf("key is in use")}
	}
	d.offers[o.Path] = o
	return o, nil
}

// Sent returns the bytes of the file that went out so far, repeated ones included.
func (o *Offer) Sent() int64 { return o.sent.Load() }

// Requested is closed when the first allowed request has come.
func (o *Offer) Requested() <-chan struct{} { return o.first }

// Release withdraws the offer and returns the bytes that went out. Transfers
// that are under way go on.
func (o *Offer) Release(context.Context) (int64, error) {
	o.d.mu.Lock()
	if o.d.offers[o.Path] == o {
		delete(o.d.offers, o.Path)
	}
	o.d.mu.Unlock()
	return o.Sent(), nil
}

func (d *Depot) handle(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	from := remoteAddr(r)
	d.mu.Lock()
	o := d.offers[r.URL.Path]
	d.mu.Unlock()
	if o == nil || !slices.ContainsFunc(o.file.Allow, func(p netip.Prefix) bool { return p.Contains(from) }) {
		// The same answer for both: a scanner learns nothing.
		http.NotFound(w, r)
		d.opts.Logger.WarnContext(r.Context(), "depot: refused", "from", from, "known", o != nil)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	o.once.Do(func() { close(o.first) })
	body, err := o.file.Open(r.Context())
	if err != nil {
		http.Error(w, "payload not readable", http.StatusInternalServerError)
		d.opts.Logger.ErrorContext(r.Context(), "depot: payload not readable", "file", o.file.Name, "err", err)
		return
	}
	defer body.Close()
	w.Header().Set("ETag", `"`+o.file.Digest()+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	cw := &countingWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: d.opts.Stall, sent: &o.sent}
	http.ServeContent(cw, r, "", time.Time{}, body)
	d.opts.Logger.DebugContext(r.Context(), "depot: served", "from", from, "file", o.file.Name,
		"range", r.Header.Get("Range"), "took", time.Since(start))
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// countingWriter counts what goes out and moves the stall limit along. It keeps
// io.ReaderFrom, so that files still go out by sendfile.
type countingWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	sent    *atomic.Int64
}

// Unwrap lets http.ResponseController find the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(w.stall)) }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// chunk is how much goes out under one stall limit.
const chunk = 4 << 20

// ReadFrom implements io.ReaderFrom in chunks: each gets a new stall limit.
func (w *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	var left int64 = -1
	if lr, ok := r.(*io.LimitedReader); ok {
		r, left = lr.R, lr.N
	}
	var total int64
	for left != 0 {
		w.extend()
		want := int64(chunk)
		if left > 0 {
			want = min(want, left)
		}
		n, err := rf.ReadFrom(&io.LimitedReader{R: r, N: want})
		total += n
		w.sent.Add(n)
		if left > 0 {
			left -= n
		}
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}
