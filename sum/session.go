package sum

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// Resolve gives the transport and endpoint of a target. It is called at every
// dial, so that vaults, rotated passwords and per-target options work; nothing
// of what it returns is stored. It is called concurrently.
type Resolve func(ctx context.Context, t Target) (transport.Transport, transport.Endpoint, error)

// Config configures a Session. Only Resolve is required.
type Config struct {
	Resolve Resolve
	// Journal is the directory of the journal; "" means DefaultJournal(). What a
	// killed run left is found there by the next one.
	Journal string
	// Installer brings agents to servers; nil means the one of package install
	// with an agent that the go command builds on demand, which takes Go and this
	// module at hand. A program that is shipped calls install.RunAgent first in its
	// main and gives its result as the Source of an install.Installer, or has
	// signed binaries with install.FS.
	Installer agent.Installer
	// BaseDirs are where the agent may live on a server, tried in order; nil
	// means the usual places.
	BaseDirs []string
	// Lease is how long an agent stays when the manager is silent; 0 means 15 min.
	Lease time.Duration
	// KeepLogs is how long the logs of runs that are over stay on servers; 0 means 30
	// days, and less than 0 for ever. See agent.StartOptions.
	KeepLogs time.Duration
	// Redial is how long a target that was reached once may be away before a
	// step gives up on it; 0 means 10 min.
	Redial time.Duration
	// Generation is the way of the conversation with servers: Current, which "" means,
	// inside the one connection; or Classic, over ports of the manager and the target
	// as HP SUM 4 to 6 used them, for sites whose firewalls know those. PortsFor has
	// what must be open.
	Generation Generation
	// Classic has the options of that generation.
	Classic ClassicOptions
	// Ports are the policies of the manager's ports; nil means the defaults of
	// the generation.
	Ports map[portalloc.Role]portalloc.Policy
	// HTTPRole is the role by which targets get a port over plain http: portalloc.Port,
	// SUM's setting "port", which is what 0 means; or portalloc.HTTP, SUM's web server, which 0 means for Classic:
	// 80 if it is free, else a random free one of 63000 to 63005 that is neither the
	// setting "port" nor "ssl_port". A target that knows one port only gets that.
	HTTPRole portalloc.Role
	// OpenFirewall lets targets through the firewalls, as SUM's open_firewall does: on
	// the manager to the ports that they need, each target from its own addresses alone;
	// and in the generation Classic on each server to the port of its agent, from the
	// manager's address. It is off by default. A port is open before anybody is told of
	// it, closes when it is needed no more, and also when the process is killed (see
	// package firewall). It takes administrator rights where a rule is needed; without
	// them, and where the firewall cannot be opened, the error names the rule to add
	// by hand.
	OpenFirewall bool
	// Firewall says how that is done on the manager; the zero value works. Its Rules
	// are filled in, and its Run where it is empty, with an ID that the journal has too.
	Firewall firewall.Options
	// Listen are the addresses on which targets reach the manager; nil means all.
	Listen []netip.Addr
	// Way, if set, corrects what a connection says about the way back from a target:
	// SeenAs, the manager's address in URLs, and CallbackFrom, who may fetch and post.
	// Both are filled in where they are known. It is for NAT and proxies in one
	// direction, which no connection in the other can know of. It is called
	// concurrently.
	Way func(t Target, p transport.Path) transport.Path
	// Depot has the limits of the server from which targets fetch; its Logger is
	// Logger where it has none.
	Depot depot.Options
	// TLS configures the server from which targets fetch over https; nil means
	// certificates of the session's own, which drivers tell their targets. A target
	// is shown the one that it was told as long as the session lasts. The journal has
	// no secrets, and so not their keys: an update that the next session resumes is
	// offered again under a new certificate, which the driver tells the target. Where
	// targets go on fetching without being told, give them a certificate here that
	// outlives the session.
	TLS *tls.Config
	// FetchPatience is how long a target that is to fetch a payload may take to ask
	// for it before a warning and an [Event] say that the way back may be blocked;
	// 0 means 1 min. The update goes on. The same holds for a server that should call
	// in the generation Classic; there both come by the end of a job at the latest.
	FetchPatience time.Duration
	// Logger gets warnings and debug records; nil discards them.
	Logger *slog.Logger
}

// DefaultJournal returns the directory for the journal of the current user:
// below $XDG_STATE_HOME or ~/.local/state, on Windows below %LocalAppData%.
func DefaultJournal() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "roundsman", "journal"), nil
	}
	if runtime.GOOS == "windows" {
		dir, err := os.UserCacheDir()
		return filepath.Join(dir, "roundsman", "journal"), err
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state", "roundsman", "journal"), err
}

// A Session is one run of a manager. It owns the connections, agents, ports and
// the journal of the run; Close gives everything back. It is safe for concurrent
// use.
type Session struct {
	cfg     Config
	log     *slog.Logger
	books   *books
	walls   *walls // nil without Config.OpenFirewall
	publish *publisher
	classic *classic // nil in the generation Current
	poll    polling

	mu       sync.Mutex
	nodes    map[string]*Node
	closed   bool
	ended    chan struct{} // closed when Close is done
	closeErr error         // of the Close that did it
}

// Open starts a session. What dead runs of the same journal left open it only reads,
// but for rules in this host's firewall where Config.OpenFirewall is set; see TakeOver.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Resolve == nil {
		return nil, &Error{Step: "open", Err: fmt.Errorf("%w: Config.Resolve is required", ErrInvalid)}
	}
	if cfg.Journal == "" {
		dir, err := DefaultJournal()
		if err != nil {
			return nil, &Error{Step: "open", Err: fmt.Errorf("%w: no home directory for the journal, set Config.Journal: %w", ErrJournal, err)}
		}
		cfg.Journal = dir
	}
	if cfg.Installer == nil {
		cfg.Installer = &install.Installer{Source: install.DefaultSource()}
	}
	if t := cfg.TLS; t != nil && len(t.Certificates) == 0 && t.GetCertificate == nil && t.GetConfigForClient == nil {
		return nil, &Error{Step: "open", Err: fmt.Errorf("%w: Config.TLS has no certificate", ErrInvalid)}
	}
	if cfg.Redial <= 0 {
		cfg.Redial = 10 * time.Minute
	}
	if cfg.FetchPatience <= 0 {
		cfg.FetchPatience = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	publish, err := newPublisher(cfg)
	if err != nil {
		return nil, &Error{Step: "open", Err: err}
	}
	var classic *classic
	switch cfg.Generation {
	case "", Current:
		if cfg.Classic.set() {
			return nil, &Error{Step: "open", Err: fmt.Errorf("%w: Config.Classic is set, and Config.Generation is not Classic", ErrInvalid)}
		}
	case Classic:
		if classic, err = newClassic(cfg, publish.ports); err != nil {
			return nil, &Error{Step: "open", Err: err}
		}
	default:
		return nil, &Error{Step: "open", Err: fmt.Errorf("%w: Config.Generation is %q, and must be %q or %q", ErrInvalid, cfg.Generation, Current, Classic)}
	}
	b, err := openBooks(ctx, cfg.Journal, cfg.Logger)
	if err != nil {
		return nil, &Error{Step: "open", Err: err}
	}
	walls := newWalls(ctx, cfg, b)
	publish.walls = walls
	if classic != nil {
		classic.walls = walls
	}
	return &Session{
		cfg: cfg, log: cfg.Logger, books: b, walls: walls,
		publish: publish, classic: classic,
		poll:  polling{shortest: 100 * time.Millisecond, longest: 2 * time.Second, longestTold: 10 * time.Second, growth: 0.5},
		nodes: map[string]*Node{}, ended: make(chan struct{}),
	}, nil
}

// Node returns the node of a target; the same for the same target. It does not
// connect. Two targets at one place that differ in user or name are refused: they
// would get into each other's way.
func (s *Session) Node(t Target) (*Node, error) {
	kind, err := ParseKind(string(t.Kind))
	if err != nil {
		return nil, err
	}
	t.Kind = kind
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &Error{Target: t.key(), Step: "node", Err: ErrClosed}
	}
	if n, ok := s.nodes[t.id()]; ok {
		if !n.t.same(t) || n.t.key() != t.key() {
			return nil, &Error{Target: t.key(), Step: "node",
				Err: fmt.Errorf("%w: %s is in this session already, as %s", ErrInvalid, t, n.t.key())}
		}
		return n, nil
	}
	n := newNode(s, t)
	s.nodes[t.id()] = n
	return n, nil
}

// Pending returns the targets on which dead runs, or deployments of this one that
// are over, left something open, in no particular order. Until dead runs are taken
// over, another session may be quicker.
func (s *Session) Pending() []Target { return s.books.pendingTargets() }

// TakeOver takes over what dead runs of the journal left open, for Recover: no other
// session does as long as this one is open. What is left of theirs in the firewall of
// this host goes at once. Deploy and Recover do this first, and every step that starts
// an agent; Preflight does not. Once is enough.
func (s *Session) TakeOver(ctx context.Context) error {
	if err := s.takeOver(ctx); err != nil {
		return &Error{Step: "take over", Err: err}
	}
	return nil
}

func (s *Session) takeOver(ctx context.Context) error {
	now, err := s.books.takeOver(ctx)
	if now {
		s.walls.sweep(ctx, s.cfg, s.books)
	}
	return err
}

// Close ends the steps under way, removes the agents, closes the connections and
// ports and ends the journal. What it cannot give back (a target that is away, a
// job that still runs) stays open in the journal for the next run, and is in the
// error. It goes on after ctx has ended, for at most transport.CloseGrace in all;
// no single target holds it up for more than a minute.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		select { // another Close is at it, or was
		case <-s.ended:
			return s.closeErr
		case <-ctx.Done():
			return &Error{Step: "close", Err: ctx.Err()}
		}
	}
	s.closed = true
	nodes := make([]*Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	s.mu.Unlock()
	defer close(s.ended)

	ctx, cancel := graceful(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		slot = make(chan struct{}, defaultParallel)
	)
	for _, n := range nodes {
		slot <- struct{}{}
		wg.Go(func() {
			defer func() { <-slot }()
			if err := n.close(ctx); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// The firewall before the listeners: another program may get the port.
	errs = append(errs, s.walls.close(ctx), s.classic.close(ctx), s.publish.close(ctx), s.books.close(ctx))
	s.closeErr = errors.Join(errs...)
	return s.closeErr
}

// graceful returns a context that outlives ctx by transport.CloseGrace.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(transport.CloseGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-out.Done():
		}
	})
	return out, func() { stop(); cancel() }
}
