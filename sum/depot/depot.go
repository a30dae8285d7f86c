package depot

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// headerTime is how long a client may take to send the head of a request, the
// body that no request for an offer should have, and the TLS handshake.
const headerTime = 10 * time.Second

// Options are the options of a Depot.
type Options struct {
	// Stall is how long a client may take for the next piece of 256 KiB, or of 64
	// KiB where sendfile cannot be used, before it is cut off, and how long it may
	// keep an idle connection; 0 means 2 minutes. There is no limit on the whole
	// transfer.
	Stall time.Duration
	// MaxConns limits the connections of addresses that an offer or an inbox
	// allows; 0 means 4096. A connection over which a file goes out takes two file
	// descriptors; where the process has no more, see the package documentation. Beside them the depot keeps at most 256 connections of others, 8
	// of each address.
	MaxConns int
	// ConnsPerOffer limits the connections of one address: it may have that many
	// for each offer and inbox that allows it; 0 means 32.
	ConnsPerOffer int
	// Logger gets a debug record for each request and each failed TLS handshake, a
	// warning where an address that is not allowed asks for an offer, a transfer
	// breaks off or a limit refuses an allowed address, and an error where a payload
	// cannot be read or a post is not taken; nil discards them. The paths of offers
	// and inboxes are not logged.
	Logger *slog.Logger
}

// Depot serves offers and inboxes. It is safe for concurrent use.
type Depot struct {
	opts    Options
	server  *http.Server
	secret  [32]byte        // makes paths out of keys
	ctx     context.Context // ends with the depot
	cancel  context.CancelFunc
	running sync.WaitGroup // connections
	conns   *conns
	grants  *grants
	buffers sync.Pool // of *[]byte, copyBuffer long
	starved starved

	mu      sync.Mutex
	offers  map[string]*Offer  // by path, unescaped
	inboxes map[string]*Intake // by token
	serving []*served
	closed  bool
}

// New returns a depot that offers nothing and listens nowhere yet.
func New(opts Options) *Depot {
	if opts.Stall <= 0 {
		opts.Stall = 2 * time.Minute
	}
	if opts.MaxConns <= 0 {
		opts.MaxConns = 4096
	}
	if opts.ConnsPerOffer <= 0 {
		opts.ConnsPerOffer = 32
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Depot{
		opts:   opts,
		conns:  newConns(opts.MaxConns, opts.ConnsPerOffer, opts.Logger),
		grants: newGrants(),
		offers: map[string]*Offer{}, inboxes: map[string]*Intake{},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
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
		BaseContext:                  func(net.Listener) context.Context { return d.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, countedConn(c))
		},
		ConnState: d.connState,
		Protocols: new(http.Protocols),
	}
	d.server.Protocols.SetHTTP1(true)
	return d
}

// connState counts the connections, so that Close can join their goroutines, and
// knows which are idle.
func (d *Depot) connState(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		d.running.Add(1)
	case http.StateActive: // a request head has come
		d.conns.busy(countedConn(c))
	case http.StateIdle:
		d.conns.idle(countedConn(c))
	case http.StateClosed: // the last thing that a connection's goroutine does
		d.conns.closed(countedConn(c))
		d.running.Done()
	}
}

// Serve accepts connections on ln until the depot is closed; it closes ln and
// then returns nil. It may be called for several listeners.
func (d *Depot) Serve(ln net.Listener) error { return d.Attach(ln, nil)() }

// Attach is Serve, or with a config ServeTLS, in two steps: it returns the function
// that serves, which the caller calls once. From Attach on the depot listens on ln
// as far as Offer.Await knows, however late a goroutine gets to call the function.
// The config must have a certificate.
func (d *Depot) Attach(ln net.Listener, config *tls.Config) (serve func() error) {
	s := &served{ln.Addr(), config != nil}
	ln = listener{ln, d}
	if config != nil {
		ln = tls.NewListener(ln, serverConfig(config))
	}
	d.mu.Lock()
	d.serving = append(d.serving, s)
	d.mu.Unlock()
	return func() error {
		err := d.server.Serve(ln)
		d.mu.Lock()
		i := slices.Index(d.serving, s)
		d.serving = slices.Delete(d.serving, i, i+1)
		d.mu.Unlock()
		if !errors.Is(err, http.ErrServerClosed) {
			return &Error{Op: "serve", Err: err}
		}
		return nil
	}
}

// tokenBytes is how much of a path is secret.
const tokenBytes = 18

// NewToken returns a token that cannot be guessed; see File and Inbox.
func NewToken() string {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func validToken(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == tokenBytes
}

// token returns the token for what has a key and perhaps a token. The same key
// gives others for other uses, so that who knows one path knows no other.
func (d *Depot) token(key, token, use string) (string, error) {
	switch {
	case token == "" && key == "":
		return NewToken(), nil
	case token == "":
		mac := hmac.New(sha256.New, d.secret[:])
		_, _ = io.WriteString(mac, use+"\x00"+key)
		return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:tokenBytes]), nil
	case !validToken(token):
		return "", fmt.Errorf("%w: the token is not one of NewToken", transport.ErrInvalid)
	}
	return token, nil
}

// Close withdraws all offers and inboxes, closes all listeners and connections,
// transfers and posts included, and waits for what serves them. On a context that
// ends it waits for at most transport.CloseGrace longer and then returns the
// context's error: some payload's Open or Read or some inbox's Handle does not
// return. It may be called more than once.
func (d *Depot) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	for _, o := range d.offers {
		o.withdraw()
	}
	for _, in := range d.inboxes {
		in.withdraw()
	}
	d.mu.Unlock()
	d.cancel()
	done := make(chan error, 1)
	go func() {
		// It returns after every Serve has, so no connection is added from here on.
		err := d.server.Close()
		d.running.Wait()
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
			err = fmt.Errorf("a payload is still being read or a post being handled: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		return &Error{Op: "close", Err: err}
	}
	return nil
}
