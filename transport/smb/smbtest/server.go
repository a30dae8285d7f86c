package smbtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Server is a running server. It is safe for concurrent use.
type Server struct {
	cfg   Config
	dir   string
	smbd  *smbd
	proxy *proxy

	mu       sync.Mutex
	closed   bool
	pipes    map[*pipeListener]bool
	holds    map[*hold]bool
	uses     map[string]*usage   // by local path
	forwards map[string]*forward // by pipeBase
	wg       sync.WaitGroup      // the RPC endpoint, and what watches programs

	closing chan struct{} // closed by Close
}

// NewServer starts a server on a free port of the loopback interface and returns
// when it answers. It needs Linux, root rights and smbd; where it cannot run at
// all, errors.Is(err, errors.ErrUnsupported) holds.
func NewServer(cfg Config) (_ *Server, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "smbtest")
	if err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	s := &Server{cfg: cfg, dir: dir, pipes: make(map[*pipeListener]bool), holds: make(map[*hold]bool),
		uses: make(map[string]*usage), forwards: make(map[string]*forward), closing: make(chan struct{})}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	// Whoever opens a pipe goes through dir as the account that he is mapped to.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	dirs := []string{"private", "lock", "state", "cache", "pid", "log", "rpc", "rpc/np", "shares"}
	for _, sh := range s.cfg.shares() {
		dirs = append(dirs, sh.dir)
	}
	for _, sub := range dirs {
		mode := os.FileMode(0o700)
		if sub == "rpc" {
			mode = 0o755 // smbd wants it so
		}
		if err := os.Mkdir(filepath.Join(dir, filepath.FromSlash(sub)), mode); err != nil {
			return nil, fmt.Errorf("smbtest: %w", err)
		}
	}
	if cfg.DFS {
		if err := os.Symlink(`msdfs:elsewhere\files`, filepath.Join(s.Dir("dfs"), "elsewhere")); err != nil {
			return nil, fmt.Errorf("smbtest: %w", err)
		}
	}
	// Whatever domain a client names, smbd looks the mapped name up in its own list.
	users := fmt.Sprintf("%s = %s %[3]s\\%[2]s %[2]s@%[3]s %[2]s@%[3]s.example\n", cfg.account(), cfg.User, cfg.Domain)
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o600); err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	if err := s.SetAccount(AccountActive); err != nil {
		return nil, err
	}
	svcctl, err := s.Listen("svcctl")
	if err != nil {
		return nil, err
	}
	s.wg.Go(func() { serveRPC(svcctl, scm{services: cfg.Services, ordinary: cfg.Ordinary, use: s.use}) })
	if s.smbd, err = startSMBD(cfg, dir); err != nil {
		return nil, err
	}
	if s.proxy, err = newProxy(cfg, s.smbd.addr, s.opening); err != nil {
		return nil, err
	}
	return s, nil
}

// Addr returns host and port at which clients reach the server.
func (s *Server) Addr() string { return s.proxy.ln.Addr().String() }

// User returns the name of the only account.
func (s *Server) User() string { return s.cfg.User }

// Password returns the password of the only account.
func (s *Server) Password() string { return s.cfg.Password }

// Domain returns the name of the workgroup.
func (s *Server) Domain() string { return s.cfg.Domain }

// Name returns the server's NetBIOS name.
func (s *Server) Name() string { return name }

// Services returns the services of the server.
func (s *Server) Services() *Services { return s.cfg.Services }

// Admin returns the local directory behind ADMIN$.
func (s *Server) Admin() string { return s.Dir("ADMIN$") }

// Dir returns the local directory behind a share: "ADMIN$", "files", which can be
// written as well, or "ro", which cannot, or "dfs" (see [Config.DFS]). For others it
// returns "".
func (s *Server) Dir(share string) string {
	for _, sh := range s.cfg.shares() {
		if strings.EqualFold(share, sh.name) {
			return s.cfg.path(s.dir, sh)
		}
	}
	return ""
}

// Path returns the local path of a file that has a path of Windows: one below
// C:\Windows (also %SystemRoot% and %windir%), where ADMIN$ is, below D:\files or
// D:\ro, or a UNC path of a share on any host. For others it returns "". Case
// matters below the share.
func (s *Server) Path(native string) string {
	p := strings.ReplaceAll(native, "/", `\`)
	if unc, ok := strings.CutPrefix(p, `\\`); ok {
		_, rest, _ := strings.Cut(unc, `\`)
		share, rest, _ := strings.Cut(rest, `\`)
		return s.below(share, rest)
	}
	for _, v := range []string{"%systemroot%", "%windir%", `\systemroot`} {
		if len(p) >= len(v) && strings.EqualFold(p[:len(v)], v) {
			p = `C:\Windows` + p[len(v):]
			break
		}
	}
	for _, sh := range s.cfg.shares() {
		n := len(sh.native)
		if len(p) >= n && strings.EqualFold(p[:n], sh.native) && (len(p) == n || p[n] == '\\') {
			return s.below(sh.name, strings.TrimPrefix(p[n:], `\`))
		}
	}
	return ""
}

// below is the local path of a file of a share, or "" if there is none.
func (s *Server) below(share, name string) string {
	rel := filepath.FromSlash(strings.ReplaceAll(name, `\`, "/"))
	dir := s.Dir(share)
	if dir == "" || rel != "" && !filepath.IsLocal(rel) {
		return ""
	}
	return filepath.Join(dir, rel)
}

// CloseConnections breaks every connection that is open now, as a pulled cable
// does. Connections that are made afterwards work.
func (s *Server) CloseConnections() { s.proxy.cut() }

// Stall makes every connection hang, present and future, until it is called with
// false: no byte moves in either direction, yet no connection is closed.
func (s *Server) Stall(on bool) { s.proxy.stall(on) }

// Requests returns how many SMB messages have come from clients so far.
func (s *Server) Requests() int64 { return s.proxy.requests.Load() }

// Connections returns how many connections of clients are open.
func (s *Server) Connections() int { return s.proxy.open() }

// Close ends connections, pipes, services and smbd, removes the directory, and
// waits until all is gone.
func (s *Server) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	pipes, holds, forwards := s.pipes, s.holds, slices.Collect(maps.Values(s.forwards))
	s.pipes, s.holds = nil, nil
	s.mu.Unlock()
	if closed {
		s.wg.Wait()
		return nil
	}
	close(s.closing)
	for _, f := range forwards {
		_ = f.Close()
	}
	if s.proxy != nil {
		s.proxy.close()
	}
	for h := range holds {
		h.release()
	}
	for l := range pipes {
		l.shut()
	}
	s.wg.Wait() // while what is pinned can be released
	var err error
	if s.smbd != nil {
		err = s.smbd.stop()
	}
	s.cfg.Services.Close()
	return errors.Join(err, os.RemoveAll(s.dir))
}
