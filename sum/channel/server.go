package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of the zero Server.
const (
	defaultHandshake         = 2 * time.Second
	defaultStall             = time.Minute
	defaultIdle              = 30 * time.Minute
	defaultMaxPending        = 32
	defaultMaxPendingPerAddr = 4
	defaultMaxConns          = 16
	defaultMaxBlob           = 64 << 30 // bytes

	maxHeader = 8 << 10 // bytes
	joinLimit = 10 * time.Second
)

// Server is the agent's side. Set the fields before the first call; then all
// methods are safe for concurrent use.
type Server struct {
	// Credentials are required.
	Credentials *AgentCredentials
	// Handler executes the operations. It is required.
	Handler Handler
	// Blobs stores files. Without it, uploads are refused as unsupported.
	Blobs Blobs
	// Logs gives out logs. Without it, requests for them are refused so.
	Logs Logs
	// AllowForeign lets clients made from the WSDL, which can authenticate by
	// TLS only, call Status, and Inventory without probes.
	AllowForeign bool
	// Logger gets one line per connection and operation, never a body or a
	// header. Nil discards them.
	Logger *slog.Logger

	// HandshakeTimeout limits the TLS handshake. 0 means 2 s.
	HandshakeTimeout time.Duration
	// StallTimeout ends a transfer that makes no progress. 0 means 1 min.
	StallTimeout time.Duration
	// IdleTimeout closes a connection without requests. 0 means 30 min.
	IdleTimeout time.Duration
	// MaxPending and MaxPendingPerAddr limit connections that have not
	// authenticated: in all, and of one IPv4 address or IPv6 /64. 0 means 32
	// and 4. When they are reached, a newcomer displaces a silent connection.
	MaxPending, MaxPendingPerAddr int
	// MaxConns limits connections of the manager. 0 means 16.
	MaxConns int
	// MaxBlobBytes limits the size of a blob. 0 means 64 GiB.
	MaxBlobBytes int64

	callbacks *Callbacks // set where it is a manager that listens, to many agents

	once   sync.Once
	epoch  string
	mu     sync.Mutex
	closed bool
	runs   map[*run]bool
	shared *connTable // of the runs of callbacks, so that what is counted there counts once
}

// party is whom one connection is with, and who answers it.
type party struct {
	label   string // for the log; "" is the manager
	creds   *credentials
	handler any
	gone    atomic.Bool // and whoever comes after this was set is not let in
}

// operations is what a server can be asked for.
func (s *Server) operations() map[string]operation {
	if s.callbacks != nil {
		return callbackOperations()
	}
	return operations()
}

// Blobs stores files that the manager sends. Names are SHA-256 digests, 64
// lower-case hexadecimal digits; [Server] has checked them. Implementations
// must be safe for concurrent use.
type Blobs interface {
	// Offset tells how many bytes of the blob are stored. It returns size only
	// if the blob is complete and its digest was verified.
	Offset(ctx context.Context, sha256 string, size int64) (int64, error)
	// Append stores what r gives at offset, and returns how many bytes of the
	// blob are stored now, also with an error. Where offset is not the end of
	// what is stored it returns ErrOffset. When the blob is complete, Append
	// verifies its digest before anything can use it; if that fails, it
	// discards the content and returns 0 and ErrDigest. What r gave before an
	// error stays stored, so that the upload can be resumed.
	Append(ctx context.Context, sha256 string, size, offset int64, r io.Reader) (int64, error)
}

// Logs gives out logs by name; [Server] has checked that it is a [ValidLogName].
// Implementations must be safe for concurrent use.
type Logs interface {
	// ReadLogAt reads up to len(p) bytes at offset, and returns how many, and
	// the log's present size. n is 0 only where offset is not below size. The
	// error is fs.ErrNotExist if there is no such log.
	ReadLogAt(ctx context.Context, name string, p []byte, offset int64) (n int, size int64, err error)
}

// Epoch identifies this start of the server: 32 hexadecimal digits, random. A
// client that is given it in [Client.Epoch] saves a round trip.
func (s *Server) Epoch() string {
	s.once.Do(func() { s.epoch = randomHex(epochLen) })
	return s.epoch
}

// run is one call of Serve.
type run struct {
	s        *Server
	ln       net.Listener
	table    *connTable
	http     *http.Server
	ready    chan net.Conn  // handshake done; served by http
	stopping chan struct{}  // closed when nothing more is let in
	only     []*credentials // of a manager's listener: whose agents may come; nil is all
	shut     bool           // guarded by table.mu
	joined   sync.WaitGroup

	closeOnce sync.Once
	closing   chan context.Context // one value: how long requests may go on
	done      chan struct{}
	err       error // why requests did not end; valid after done
}

type runKey struct{}
type connKey struct{}

// Serve accepts connections from ln until ctx ends, Close is called, or the
// listener fails. It closes ln and returns after all that it began has ended:
// with ErrClosed after Close, with the context's error after that ended. Serve
// may be called for several listeners at once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, nil)
}

func (s *Server) serve(ctx context.Context, ln net.Listener, only []*credentials) error {
	if s.callbacks == nil && (s.Credentials == nil || s.Credentials.c == nil || s.Handler == nil) {
		ln.Close()
		return &Error{Op: "serve", Err: errors.New("no Credentials or no Handler")}
	}
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{
		s:        s,
		ln:       ln,
		only:     only,
		ready:    make(chan net.Conn),
		stopping: make(chan struct{}),
		closing:  make(chan context.Context, 1),
		done:     make(chan struct{}),
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	r.http = &http.Server{
		Handler:   s,
		Protocols: protocols,
		// Without this net/http would answer "OPTIONS *" past the gate.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            orDefault(s.StallTimeout, defaultStall),
		IdleTimeout:                  orDefault(s.IdleTimeout, defaultIdle),
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(s.logger().Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return context.WithValue(hctx, runKey{}, r) },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c.(*tls.Conn).NetConn().(*serverConn))
		},
		// Counts net/http's own goroutines, so that they can be joined.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				r.joined.Add(1)
			case http.StateClosed:
				r.joined.Done()
			}
		},
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ln.Close()
		return &Error{Op: "serve", Kind: ErrClosed}
	}
	if s.runs == nil {
		s.runs = make(map[*run]bool)
	}
	s.runs[r] = true
	if r.table = s.shared; r.table == nil {
		r.table = newConnTable(orDefault(s.MaxPending, defaultMaxPending), orDefault(s.MaxPendingPerAddr, defaultMaxPendingPerAddr), orDefault(s.MaxConns, defaultMaxConns))
	}
	if s.callbacks != nil {
		s.shared = r.table
	}
	s.mu.Unlock()
	s.Epoch()

	r.joined.Go(func() { r.http.Serve(readyListener{r}) })
	failed := make(chan error, 1)
	r.joined.Go(func() { failed <- r.accept(hctx) })

	var err error
	grace, noGrace := context.WithCancel(context.Background())
	noGrace() // only Close gives requests time to finish
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case grace = <-r.closing:
		err = ErrClosed
	case err = <-failed:
	}
	r.stop(grace, cancel)
	s.mu.Lock()
	delete(s.runs, r)
	s.mu.Unlock()
	close(r.done)
	if err == ErrClosed {
		return &Error{Op: "serve", Kind: ErrClosed, Err: r.err}
	}
	return &Error{Op: "serve", Err: errors.Join(err, r.err)}
}

// stop lets requests finish until grace ends, then cancels them, and joins
// everything, for 10 s at most after that.
func (r *run) stop(grace context.Context, cancel context.CancelFunc) {
	close(r.stopping)
	r.ln.Close()
	r.http.SetKeepAlivesEnabled(false)
	r.table.close(r, false)
	if r.http.Shutdown(grace) != nil {
		cancel()
		r.http.Close()
	}
	cancel()
	r.table.close(r, true)
	all := make(chan struct{})
	go func() {
		r.joined.Wait()
		close(all)
	}()
	limit := time.NewTimer(joinLimit)
	defer limit.Stop()
	select {
	case <-all:
	case <-limit.C:
		r.err = fmt.Errorf("an operation did not end within %v of being cancelled", joinLimit)
	}
}

// Close stops accepting, lets requests that are being served finish until ctx
// ends, and then cancels them, which takes 10 s at most. When it returns, every
// Serve is about to return.
// Do not call it from within an operation, which it would wait for.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	runs := make([]*run, 0, len(s.runs))
	for r := range s.runs {
		runs = append(runs, r)
	}
	s.mu.Unlock()
	var errs []error
	for _, r := range runs {
		r.closeOnce.Do(func() { r.closing <- ctx })
	}
	for _, r := range runs {
		if !joined(ctx, r.done) {
			// Another Close gave the requests more time than this one.
			errs = append(errs, context.Cause(ctx))
		} else if r.err != nil {
			errs = append(errs, r.err)
		}
	}
	if len(errs) > 0 {
		return &Error{Op: "close", Err: errors.Join(errs...)}
	}
	return nil
}

// joined waits for done, at most until the cleaning up that follows the end of
// ctx has had its time.
func joined(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	limit := time.NewTimer(joinLimit + time.Second)
	defer limit.Stop()
	select {
	case <-done:
		return true
	case <-limit.C:
		return false
	}
}

// accept admits connections until the listener is closed.
func (r *run) accept(ctx context.Context) error {
	const maxBackoff = time.Second
	backoff, failures := 5*time.Millisecond, 0
	for {
		raw, err := r.ln.Accept()
		if err == nil {
			backoff, failures = 5*time.Millisecond, 0
			// Here, not in the goroutine: the table evicts by age, so it must
			// see connections in the order in which they came.
			if c, ok := r.table.enter(raw, r); ok {
				r.joined.Go(func() { r.admit(ctx, c) })
			}
			continue
		}
		// Running out of file descriptors passes; anything that lasts does not.
		if failures++; errors.Is(err, net.ErrClosed) || failures > 20 {
			return err
		}
		r.s.logger().Warn("accepting a connection failed", "error", err)
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, maxBackoff)
		case <-r.stopping:
			return err
		}
	}
}

// admit does the handshake, which is where the peer must prove to be the
// manager, and hands the connection to net/http.
func (r *run) admit(ctx context.Context, c *serverConn) {
	log := r.s.logger().With("remote", c.RemoteAddr())
	timeout := orDefault(r.s.HandshakeTimeout, defaultHandshake)
	hctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.tls = tls.Server(c, r.tlsFor(c))
	if err := c.tls.HandshakeContext(hctx); err != nil {
		level := slog.LevelInfo
		if r.s.callbacks != nil {
			level = slog.LevelDebug // its port is open to many
		}
		log.Log(ctx, level, "connection refused: handshake failed", "error", err)
		lingerClose(c, min(timeout, 500*time.Millisecond))
		return
	}
	var err error
	if c.keys, err = c.party.creds.deriveKeys(c.tls.ConnectionState(), r.s.callbacks != nil); err != nil {
		log.Error("connection refused: no keys", "error", err)
		c.Close()
		return
	}
	if !r.table.trust(c) {
		log.Warn("connection refused: too many connections")
		c.Close()
		return
	}
	if c.party.gone.Load() {
		c.Close()
		return
	}
	if c.party.label == "" {
		log.Debug("manager connected")
	} else {
		log.Debug("agent connected", "node", c.party.label)
	}
	select {
	case r.ready <- c.tls:
	case <-r.stopping:
		c.Close()
	}
}

// tlsFor says how the handshake of a connection goes, and finds with whom it is.
func (r *run) tlsFor(c *serverConn) *tls.Config {
	s := r.s
	if s.callbacks == nil {
		c.party = &party{creds: s.Credentials.c, handler: s.Handler}
		return c.party.creds.serverTLS()
	}
	cfg := (&credentials{}).commonTLS()
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		p := s.callbacks.find(hello.ServerName)
		if p == nil || r.only != nil && !slices.Contains(r.only, p.creds) {
			return nil, fmt.Errorf("%w: nobody here has the name that is asked for", ErrTrust)
		}
		r.table.name(c, p)
		return p.creds.serverTLS(), nil
	}
	return cfg
}

// readyListener gives net/http the connections that admit lets through.
type readyListener struct{ r *run }

func (l readyListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.r.ready:
		return c, nil
	case <-l.r.stopping:
		return nil, net.ErrClosed
	}
}
func (readyListener) Close() error     { return nil }
func (l readyListener) Addr() net.Addr { return l.r.ln.Addr() }

func (s *Server) logger() *slog.Logger {
	if s.Logger != nil {
		return s.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}
