package transporttest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// A Publisher is a small HTTP server that offers payload files to targets; its
// Publish method is what UpdateOptions.Publish wants. The same key gives the same
// URL again, until Close. It counts what is fetched and is safe for concurrent use.
type Publisher struct {
	srv  *http.Server
	l    net.Listener
	done chan struct{}

	mu     sync.Mutex
	offers map[string]*offer // by URL path
	keys   map[string]string // key to URL path
	asked  int
}

type offer struct {
	file    transport.File
	open    bool
	fetched atomic.Int64
	once    sync.Once
	asked   chan struct{} // closed at the first request
}

func (o *offer) await(ctx context.Context, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-o.asked:
		return nil
	case <-timer.C:
		return fmt.Errorf("nobody asked for %s within %v: %w", o.file.Name, patience, transport.ErrTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NewPublisher listens on addr, such as "192.0.2.1:0"; "" means a free port of
// 127.0.0.1.
func NewPublisher(addr string) (*Publisher, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &Publisher{l: l, done: make(chan struct{}), offers: map[string]*offer{}, keys: map[string]string{}}
	p.srv = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(p.done)
		_ = p.srv.Serve(l)
	}()
	return p, nil
}

// Publish offers r.File and returns its URL. It speaks plain HTTP on a port of
// its own and has no directories: asked for TLS, for another port or for a tree it
// fails with errors.ErrUnsupported.
func (p *Publisher) Publish(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
	if err := ctx.Err(); err != nil {
		return transport.Published{}, err
	}
	port := p.l.Addr().(*net.TCPAddr).Port
	if r.TLS || (r.FixedPort != 0 && int(r.FixedPort) != port) {
		return transport.Published{}, fmt.Errorf("publisher on port %d without TLS: %w", port, errors.ErrUnsupported)
	}
	if len(r.Tree) > 0 {
		return transport.Published{}, fmt.Errorf("publisher of single files, asked for a tree: %w", errors.ErrUnsupported)
	}
	if err := r.File.Check(); err != nil {
		return transport.Published{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	path, ok := p.keys[r.Key]
	if !ok {
		path = "/" + rand.Text() + "/" + r.File.Name
		p.keys[r.Key] = path
	}
	link := url.URL{Scheme: "http", Host: p.l.Addr().String(), Path: path} // its String escapes
	o := p.offers[path]
	if o == nil || o.file.SHA256 != r.File.SHA256 {
		o = &offer{asked: make(chan struct{})}
		p.offers[path] = o
	}
	o.file, o.open = r.File, true
	return transport.Published{
		URL:   link.String(),
		Await: o.await,
		Release: func(context.Context) (int64, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			o.open = false
			return o.fetched.Load(), nil
		},
	}, nil
}

// Published returns how often Publish succeeded or was about to.
func (p *Publisher) Published() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// Open returns how many files are on offer: not released yet.
func (p *Publisher) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, o := range p.offers {
		if o.open {
			n++
		}
	}
	return n
}

// Fetched returns the bytes of contents that were sent, of all files.
func (p *Publisher) Fetched() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int64
	for _, o := range p.offers {
		n += o.fetched.Load()
	}
	return n
}

// ServeHTTP implements http.Handler.
func (p *Publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	o := p.offers[r.URL.Path]
	var file transport.File
	if o != nil && o.open {
		file = o.file
	} else {
		o = nil
	}
	p.mu.Unlock()
	if o == nil {
		http.NotFound(w, r)
		return
	}
	f, err := file.Open(r.Context())
	if err != nil {
		http.Error(w, "cannot open the file", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+file.Digest()+`"`)
	o.once.Do(func() { close(o.asked) })
	http.ServeContent(&countingWriter{w, &o.fetched}, r, "", time.Time{}, f)
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.n.Add(int64(n))
	return n, err
}

// Close stops the server, ends the transfers in progress and waits for it.
func (p *Publisher) Close() error {
	err := p.srv.Close()
	<-p.done
	return err
}
