package depot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// headerTime is how long a client may take to send the head of a request, and
// the body that no request should have.
const headerTime = 10 * time.Second

// Options are the options of a Depot.
type Options struct {
	// Stall is how long a client may take for the next 256 KiB before it is cut
	// off, and how long it may keep an idle connection; 0 means 2 minutes. There is
	// no limit on the whole transfer.
	Stall time.Duration
	// Logger gets a debug record for each request, a warning where an address
	// that is not allowed asks for an offer or a transfer breaks off, and an
	// error where a payload cannot be read; nil discards them. The paths of
	// offers are not logged.
	Logger *slog.Logger
}

// Depot serves offers. It is safe for concurrent use.
type Depot struct {
	opts   Options
	server *http.Server
	secret [32]byte           // makes paths out of keys
	cancel context.CancelFunc // ends the contexts of requests
	conns  sync.WaitGroup

	mu     sync.Mutex
	offers map[string]*Offer // by path, unescaped
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
	ctx, cancel := context.WithCancel(context.Background())
	d := &Depot{opts: opts, cancel: cancel, offers: map[string]*Offer{}}
	_, _ = rand.Read(d.secret[:]) // never fails: see crypto/rand
	d.server = &http.Server{
		Handler:           http.HandlerFunc(d.handle),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       opts.Stall,
		// The handler moves it along while it sends; no ReadTimeout, which would
		// end the request's context in the middle of a long transfer.
		WriteTimeout:                 opts.Stall,
		MaxHeaderBytes:               16 << 10,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" too gets what every unknown path gets
		ErrorLog:                     slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnState:                    d.connState,
	}
	return d
}

// connState counts the connections, so that Close can join their goroutines.
func (d *Depot) connState(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		d.conns.Add(1)
	case http.StateClosed: // the last thing that a connection's goroutine does
		d.conns.Done()
	}
}

// Serve accepts connections on ln until the depot is closed; it closes ln and
// then returns nil. It may be called for several listeners.
func (d *Depot) Serve(ln net.Listener) error {
	if err := d.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return &Error{Op: "serve", Err: err}
	}
	return nil
}

// Close withdraws all offers, closes all listeners and connections, transfers
// included, and waits for what serves them. On a context that ends it waits for
// at most transport.CloseGrace longer and then returns the context's error: some
// payload's Open or Read does not return. It may be called more than once.
func (d *Depot) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	clear(d.offers)
	d.mu.Unlock()
	d.cancel()
	done := make(chan error, 1)
	go func() {
		// It returns after every Serve has, so no connection is added from here on.
		err := d.server.Close()
		d.conns.Wait()
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(transport.CloseGrace)
		defer timer.Stop()
		select {
		case err = <-done:
		case <-timer.C:
			err = fmt.Errorf("a payload is still being read: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		return &Error{Op: "close", Err: err}
	}
	return nil
}
