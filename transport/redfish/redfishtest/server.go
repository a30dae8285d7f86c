package redfishtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Server is a running management processor. It is safe for concurrent use.
type Server struct {
	cfg  Config
	at   netip.AddrPort // where it listens; port 0 is a free one
	cert atomic.Pointer[tls.Certificate]
	http *http.Server
	net  network

	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup // listeners, handlers, updates, resets
	adjusting sync.Mutex

	mu       sync.Mutex
	closed   bool
	changed  chan struct{} // closed and replaced when something changes
	advanced chan struct{} // closed and replaced when the clock is moved
	offset   time.Duration // of the clock
	faults   []*Injected
	requests []*Request // the newest
	dropped  int        // requests that are no longer among them

	down     bool // it resets
	pending  int  // resets that were asked for and have not begun
	resets   int
	booted   time.Time           // when the service last began to run, in whole seconds
	sessions map[string]*session // by token
	counts   SessionCounts       // Opened and Closed
	numbers  int                 // for the names of sessions, tasks and items
	firmware []Firmware
	flashes  []Flash
	flash    flashState
	lag      *lagging // nil: what the service says is so
	tasks    []*task
	taskNo   int // of the last task
	pushTo   pushTargets
	events   eventState
	journal  []string // the integrated event log
	host     hostState
	repo     repository
}

// NewServer starts a service, on a free port of the loopback interface unless
// Config.Addr says otherwise.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Capture != nil {
		c := *cfg.Capture // which may serve several servers
		if err := c.check(); err != nil {
			return nil, err
		}
		cfg.Capture = &c
		if cfg.Profile == "" {
			cfg.Profile = c.profile()
		}
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, changed: make(chan struct{}), advanced: make(chan struct{}), sessions: make(map[string]*session),
		booted:   time.Now().Truncate(time.Second),
		firmware: slices.Clone(cfg.Firmware), flash: flashState{state: "Idle"}, host: hostState{power: "On", boots: 1, start: time.Now().Truncate(time.Second)},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:      http.HandlerFunc(s.serve),
		ErrorLog:     log.New(discard{}, "", 0),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	if s.at, err = cfg.address(); err != nil {
		return nil, err
	}
	if cfg.Certificate != nil {
		if err := s.useCertificate(*cfg.Certificate); err != nil {
			return nil, err
		}
	} else if err := s.NewCertificate(); err != nil {
		return nil, err
	}
	if err := s.openNetwork(); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

type connKey struct{}

// discard takes what net/http says of handshakes that failed.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Addr returns host and port.
func (s *Server) Addr() string {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.net.addr
}

// URL returns the URL of the service without a path.
func (s *Server) URL() string { return "https://" + s.Addr() }

// User returns the name of the administrator.
func (s *Server) User() string { return s.cfg.User }

// Password returns the password of User.
func (s *Server) Password() string { return s.cfg.Password }

// Profile returns the profile of the server.
func (s *Server) Profile() Profile { return s.cfg.Profile }

// Flash is a version that was written.
type Flash struct {
	ID       string // of the inventory entry
	From, To string
	File     string // as the client named it
	Digest   string // SHA-256 of the image, in hexadecimal
	By       string // "Bmc" or "Uefi"
}

// Flashes returns what was written, in order, whether it is active or staged.
func (s *Server) Flashes() []Flash {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.flashes)
}

// Firmware returns an entry of the inventory. Where there is none its ID is "".
func (s *Server) Firmware(id string) Firmware {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.firmware {
		if f.ID == id {
			return f
		}
	}
	return Firmware{}
}

// Inventory returns all entries.
func (s *Server) Inventory() []Firmware {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.firmware)
}

// SetFirmware changes the version of an entry, as if somebody else had updated
// it, and forgets what is staged for it.
func (s *Server) SetFirmware(id, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.firmware {
		if s.firmware[i].ID == id {
			s.firmware[i].Version, s.firmware[i].Staged = version, ""
			s.notify()
			return nil
		}
	}
	return fmt.Errorf("redfishtest: no firmware %q", id)
}

// Log returns the entries of the integrated event log.
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.journal)
}

// Resets returns how often the service has reset.
func (s *Server) Resets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resets
}

// notify wakes those who wait for a change. s.mu is held.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Await waits until ok, which is called after every change, returns true. It
// fails when ctx ends or the server is closed.
func (s *Server) Await(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return fmt.Errorf("redfishtest: waiting: %w", net.ErrClosed)
		}
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("redfishtest: waiting: %w", ctx.Err())
		case <-s.ctx.Done():
			return fmt.Errorf("redfishtest: waiting: %w", net.ErrClosed)
		}
	}
}

// Idle waits until nothing is being written, no queue item is at work, neither
// service nor host resets, and the service can be reached.
func (s *Server) Idle(ctx context.Context) error {
	return s.Await(ctx, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.flash.busy && !s.down && s.pending == 0 && !s.host.busy && s.next() == nil
	})
}

// Close ends connections and updates, gives the port back and waits until all is
// gone.
func (s *Server) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		s.wg.Wait()
		return nil
	}
	s.cancel()
	err := s.shutNetwork()
	s.wg.Wait()
	s.CloseConnections() // one may have been accepted meanwhile
	s.mu.Lock()
	s.repo.dropPartial()
	s.mu.Unlock()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("redfishtest: %w", err)
	}
	return nil
}

func (s *Server) log(msg string, args ...any) {
	if s.cfg.Log != nil {
		s.cfg.Log.Info("redfishtest: "+msg, args...)
	}
}

// activations in the order of their strength.
func enough(what, need transport.Activation) bool {
	order := []transport.Activation{
		transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle,
	}
	return slices.Index(order, what) >= slices.Index(order, need)
}
