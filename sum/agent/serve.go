package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

const (
	leaveTime = 10 * time.Second // for an older agent to leave
	replyTime = 5 * time.Second  // for answers that are being sent
	maxSocket = 100              // bytes; sun_path has 104 or 108
)

// serve is the service, from the taking of the directory to its clearing. It reports
// whether it leaves for good: because its manager said so, or nobody came any more.
func serve(ctx context.Context, h home) (gone bool, err error) {
	// Before anything that is there is believed.
	if err := h.check(); err != nil {
		return false, err
	}
	var boot Bootstrap
	if err := readJSON(h.path(BootstrapName), &boot); err != nil {
		return false, err
	}
	err = boot.check()
	var credentials *channel.AgentCredentials
	var fingerprint string
	if err == nil {
		credentials, fingerprint, err = boot.identity()
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(h.path(BootstrapName)))
	}
	found := h.snapshot()
	if err := h.prepare(); err != nil {
		return false, err
	}
	ctx, event, over := askable(ctx)
	defer over()
	lock, err := takeOver(ctx, h, holder{process: thisProcess(), Event: event})
	if err != nil {
		return false, err
	}
	defer lock.Close()
	// Again: whoever held the lock may have deleted everything as it left.
	if err := h.prepare(); err != nil {
		return false, err
	}
	// Only now: until it is gone, nobody who cleans up takes the directory away.
	if err := os.Remove(h.path(BootstrapName)); err != nil {
		return false, err
	}
	boot.Credentials = nil
	logFile, err := openAgentLog(h.path(LogName), maxAgentLog)
	if err != nil {
		return false, err
	}
	defer logFile.Close()
	log := slog.New(slog.NewTextHandler(logFile, nil)).With("pid", os.Getpid())
	h.tidy()

	svc := newService(h, newLease(boot.lease()), log)
	svc.spawn = func(id string) (<-chan struct{}, error) { return spawnShim(h, id, log) }
	svc.target, svc.found, svc.fresh = boot.Target, found, h.fresh()
	h.removeSocket() // of an agent that was killed
	server := &channel.Server{
		Credentials: credentials, Handler: svc, Blobs: svc, Logs: svc, AllowForeign: boot.AllowForeign, Logger: log,
	}
	ports, err := portalloc.New(portalloc.Config{Generation: portalloc.Classic})
	if err != nil {
		return false, err
	}
	defer ports.Close(context.WithoutCancel(ctx))
	ln, err := listen(ctx, ports, h, boot)
	if err != nil {
		return false, err
	}
	defer ln.cleanup()
	walls, err := openWalls(ctx, boot, listenPort(ln), log)
	if err != nil {
		ln.Close()
		return false, err
	}
	defer walls.close(ctx)
	release, err := walls.allow(ctx, listenPort(ln))
	if err != nil {
		ln.Close()
		return false, err
	}
	if err := h.noteLease(boot.lease()); err != nil {
		ln.Close()
		return false, err
	}
	h.sweepPrograms()
	swept := h.reconcile(ctx, log)
	h.prune(boot.keepLogs(), log)
	ready := Ready{
		Version: fileVersion, Nonce: boot.Nonce, PID: os.Getpid(), StartTime: processStart(os.Getpid()),
		Network: ln.Addr().Network(), Addr: ln.Addr().String(), Epoch: server.Epoch(), AgentVersion: version(),
		Fingerprint: fingerprint, Swept: swept[:min(len(swept), maxSwept)],
	}
	if err := writeJSON(h.path(ReadyName), ready); err != nil {
		ln.Close()
		return false, err
	}
	svc.doors = newDoors(ctx, server)
	if boot.Network == "tcp" {
		svc.doors.listen, svc.doors.rule = dynamicPort(ports, ln.Addr()), walls.allow
	}
	log.Info("agent serves", "target", boot.Target, "version", version(), "network", ready.Network, "addr", ready.Addr, "lease", boot.lease())
	svc.reviveAll()
	if len(boot.Callback) > 0 {
		rctx, cancel := context.WithCancel(ctx)
		var reports sync.WaitGroup
		reports.Go(func() {
			if fingerprint != "" && !svc.awaitManager(rctx) {
				return // it does not know this key
			}
			newReporter(h, credentials, boot.Callback, log).run(rctx)
		})
		defer reports.Wait()
		defer cancel()
	}
	err = svc.run(ctx, ln, release)
	return svc.gone, err
}

// run serves until the lease ends, the manager says so, or ctx ends.
func (s *service) run(ctx context.Context, ln net.Listener, release func()) error {
	s.doors.first(ln, release)
	lctx, cancel := context.WithCancel(ctx)
	expired := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for s.lease.wait(lctx, s.kept, s.note) == nil {
			if s.leave() {
				close(expired)
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-watched
	}()
	quit := func() error {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), replyTime)
		defer cancel()
		return s.doors.close(grace)
	}
	select {
	case err := <-s.doors.failed:
		return errors.Join(err, quit())
	case <-s.stopped:
		s.log.Info("agent leaves: the manager asked")
		s.gone = true
		return quit()
	case <-ctx.Done():
		s.log.Info("agent leaves: it was told to by a signal")
		return quit()
	case <-expired:
		s.log.Info("agent leaves: its lease is over")
		err := quit()
		// A manager may have come while the last answers were being sent.
		if s.home.beingPrepared(s.found) {
			s.log.Info("nothing was removed: another agent is about to start here")
			return err
		}
		s.home.abandon()
		s.gone = true
		_, cerr := s.home.clear()
		return errors.Join(err, cerr, s.home.leaveRest())
	}
}

// kept reports whether something keeps the lease from running. Only the goroutine
// that watches the lease calls it.
func (s *service) kept() bool {
	ids := s.busy()
	if len(ids) > 0 && !s.held {
		s.log.Info("the lease does not run while there is a job", "job", ids[0])
	}
	s.held = len(ids) > 0
	return s.held || s.home.beingPrepared(s.found)
}

func (s *service) note(length time.Duration) {
	s.mu.Lock() // not after Stop has cleared the directory
	defer s.mu.Unlock()
	if s.leaving {
		return
	}
	if s.home.noteInForce() == length {
		s.home.touchLease()
		return
	}
	if err := s.home.noteLease(length); err != nil {
		s.log.Error("writing the lease", "error", err)
	}
}

// holder says in the file of a directory's lock who holds it: an agent, which can
// be asked to leave, or a manager that is its own agent, which nobody may end. To
// whoever knows agents alone that one is nobody.
type holder struct {
	process
	Event   string  `json:"event,omitempty"` // by which it is asked, on Windows
	Manager process `json:"manager,omitzero"`
}

// takeOver takes the directory's lock. An agent that holds it is asked to leave,
// and ended if it does not: all its state is in files that survive that. A
// manager that holds it is waited for, though not for long.
func takeOver(ctx context.Context, h home, me holder) (*os.File, error) {
	begin := time.Now()
	asked, killed := false, false
	for {
		lock, err := lockFile(h.lockPath(), true)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			// On a full disk the lock has no name in it, and holds all the same: to
			// take everything away must not need room.
			if err := writeLock(lock, me); err != nil && !isNoSpace(err) {
				lock.Close()
				return nil, err
			}
			return lock, nil
		}
		var held holder
		known := readJSON(h.lockPath(), &held) == nil
		agent := known && held.sure() && held.PID != os.Getpid()
		waited := time.Since(begin)
		switch {
		case agent && !asked:
			asked = true
			err = askToEnd(held)
		case agent && waited > leaveTime && !killed:
			killed = true
			err = endProcess(held.PID)
		case known && held.Manager.alive() && waited > leaveTime:
			err = fmt.Errorf("%w: the manager with the process number %d is itself the agent in %s", transport.ErrBusy, held.Manager.PID, h)
		case waited > 2*leaveTime:
			err = fmt.Errorf("another process holds %s and does not leave", h.lockPath())
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// writeLock says who holds the lock. It writes in place: the lock is the file's.
func writeLock(f *os.File, me holder) error {
	data, err := json.Marshal(me)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(data, '\n'), 0)
	return err
}

// listener is where the agent listens, and how to leave nothing of it.
type listener struct {
	net.Listener
	cleanup func()
}

func listen(ctx context.Context, ports *portalloc.Allocator, h home, boot Bootstrap) (*listener, error) {
	if boot.Network == "tcp" {
		ln, err := listenTCP(ctx, ports, boot.Listen)
		return &listener{ln, func() {}}, err
	}
	if boot.network() == "pipe" {
		ln, err := listenPipe(pipeName(h, boot.Listen))
		if err != nil {
			return nil, err
		}
		return &listener{ln, func() {}}, nil
	}
	path, dir := h.path(SocketName), ""
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if len(path) > maxSocket {
		var err error
		if dir, err = os.MkdirTemp("", "roundsman-"); err != nil { // 0700
			return nil, err
		}
		path = filepath.Join(dir, SocketName)
	}
	os.Remove(path) // of an agent that was killed; the lock is ours
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err == nil {
		// The directory keeps others out in the moment before this.
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		if dir != "" {
			removeAll(dir)
		}
		if ln != nil {
			ln.Close()
		}
		return nil, err
	}
	// A successor may already have its own socket there when this one is closed.
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	mine, _ := os.Lstat(path)
	return &listener{ln, func() {
		if there, err := os.Lstat(path); err == nil && mine != nil && os.SameFile(mine, there) {
			os.Remove(path)
		}
		if dir != "" {
			os.Remove(dir)
		}
	}}, nil
}

// listenTCP takes the port that is given, 0 for one that nobody can foresee, or
// without any the first free one from DefaultPort on.
func listenTCP(ctx context.Context, ports *portalloc.Allocator, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = addr, "" // without a port
	}
	role, o := portalloc.Agent, portalloc.Options{}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: %w", addr, err)
		}
		if o.Port = uint16(n); n == 0 {
			role = portalloc.Dynamic
		}
	}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: %w", addr, err)
		}
		o.Addrs = []netip.Addr{ip}
	}
	return ports.Listen(ctx, role, o)
}
