package sshtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/roundsman-go/roundsman/transport/ssh/internal/bufpipe"
	xssh "golang.org/x/crypto/ssh"
)

// Config describes a server. The zero value accepts nobody, because it knows no
// password and no key.
type Config struct {
	User           string           // the only user; "" means "test"
	Password       string           // "" means that passwords are refused
	AuthorizedKeys []xssh.PublicKey // the public keys that are let in
	// KeyboardInteractive takes the password by keyboard-interactive alone
	// (RFC 4256), as servers do that leave the question to PAM.
	KeyboardInteractive bool
	HostKey             xssh.Signer // nil means a new Ed25519 key

	// Home is the home directory, where commands start. "" means a new
	// directory, which Close removes.
	Home  string
	Env   []string // "NAME=value", added to the environment of commands
	Shell string   // the login shell; "" means /bin/sh

	SFTPOnly      bool // every session is an SFTP session, as with "ForceCommand internal-sftp"
	NoSFTP        bool // there is no SFTP subsystem
	NoSessions    bool // a jump host: forwarding only
	NoStreamLocal bool // Unix sockets are administratively prohibited
	NoTCP         bool // forwarded TCP connections are administratively prohibited

	// NoListen leaves out the listener on the loopback interface: the server is
	// reached through DialContext alone.
	NoListen bool
	// Log, if set, gets a record for each connection and command.
	Log *slog.Logger
}

// Server is a running server. It is safe for concurrent use.
type Server struct {
	cfg     Config
	hostKey xssh.Signer
	ln      net.Listener
	id      string // in the environment of all its commands, so that Close finds them
	ownHome bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections, channels, commands

	mu       sync.Mutex
	closed   bool
	conns    map[*faultConn]bool
	cut      int64 // bytes until the cut; 0 means none
	stalled  bool
	refused  bool
	hanging  bool // commands get no answer
	sftpSkip int  // requests of SFTP that pass before
	sftpEnds int  // so many are not answered

	sessionEnds int        // sessions in which nothing is started
	change      *sync.Cond // stalled or closed changed
	logins      int
	attempts    int
	commands    []string
}

// NewServer starts a server on a free port of the loopback interface.
func NewServer(cfg Config) (*Server, error) {
	if cfg.User == "" {
		cfg.User = "test"
	}
	if cfg.Shell == "" {
		cfg.Shell = "/bin/sh"
	}
	s := &Server{cfg: cfg, hostKey: cfg.HostKey, conns: make(map[*faultConn]bool)}
	s.change = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var id [16]byte
	rand.Read(id[:])
	s.id = hex.EncodeToString(id[:])
	if s.hostKey == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if s.hostKey, err = xssh.NewSignerFromSigner(key); err != nil {
			return nil, err
		}
	}
	if s.cfg.Home == "" {
		dir, err := os.MkdirTemp("", "sshtest")
		if err != nil {
			return nil, err
		}
		s.cfg.Home, s.ownHome = dir, true
	}
	if !cfg.NoListen {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			if s.ownHome {
				_ = os.RemoveAll(s.cfg.Home)
			}
			return nil, fmt.Errorf("sshtest: %w", err)
		}
		s.ln = ln
		s.wg.Go(s.accept)
	}
	return s, nil
}

// Addr returns host and port of the listener, or "sshtest:22" where there is none.
func (s *Server) Addr() string {
	if s.ln == nil {
		return "sshtest:22"
	}
	return s.ln.Addr().String()
}

// User returns the name of the only user.
func (s *Server) User() string { return s.cfg.User }

// Home returns the home directory of the user.
func (s *Server) Home() string { return s.cfg.Home }

// HostKey returns the public key with which the server identifies itself.
func (s *Server) HostKey() xssh.PublicKey { return s.hostKey.PublicKey() }

// AuthorizedHostKey returns the host key in authorized_keys form, for
// transport.Trust.
func (s *Server) AuthorizedHostKey() string {
	return string(bytes.TrimSpace(xssh.MarshalAuthorizedKey(s.hostKey.PublicKey())))
}

// Logins returns how many connections have logged in.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Attempts returns how many passwords and keys were offered, right or wrong. The
// question whether a key would do does not count.
func (s *Server) Attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempts
}

// Commands returns the command lines that were run, in order.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// DialContext connects to the server in memory. Network and address are ignored.
// The method value fits the DialContext field of ssh.Transport.
func (s *Server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	near, far := bufpipe.New(pipeAddr{}, pipeAddr{})
	if !s.start(far) {
		_ = near.Close()
		return nil, &net.OpError{Op: "dial", Net: "sshtest", Err: errors.New("connection refused")}
	}
	return near, nil
}

// Close ends every connection and every command that was started, daemons
// included as far as the operating system lets it find them, removes the home
// directory unless Config named it, and waits until all is gone.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	s.change.Broadcast()
	s.mu.Unlock()
	s.cancel()
	if s.ln != nil {
		_ = s.ln.Close()
	}
	s.CloseConnections()
	s.wg.Wait()
	killMarked(s.id)
	if s.ownHome {
		return os.RemoveAll(s.cfg.Home)
	}
	return nil
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.start(c)
	}
}

// start serves a connection in the background, or closes it and returns false.
func (s *Server) start(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.refused {
		_ = c.Close()
		return false
	}
	fc := &faultConn{Conn: c, s: s}
	s.conns[fc] = true
	s.wg.Go(func() {
		defer func() {
			_ = fc.Close()
			s.mu.Lock()
			delete(s.conns, fc)
			s.mu.Unlock()
		}()
		s.serve(fc)
	})
	return true
}

func (s *Server) log(msg string, args ...any) {
	if s.cfg.Log != nil {
		s.cfg.Log.Info("sshtest: "+msg, args...)
	}
}

// serverConfig builds the authentication rules of one connection.
func (s *Server) serverConfig() *xssh.ServerConfig {
	refused := errors.New("refused")
	attempt := func(ok bool) (*xssh.Permissions, error) {
		s.mu.Lock()
		s.attempts++
		s.mu.Unlock()
		if !ok {
			return nil, refused
		}
		return &xssh.Permissions{}, nil
	}
	cfg := &xssh.ServerConfig{ServerVersion: "SSH-2.0-sshtest"}
	if len(s.cfg.AuthorizedKeys) > 0 {
		cfg.PublicKeyCallback = func(meta xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
			for _, k := range s.cfg.AuthorizedKeys {
				if meta.User() == s.cfg.User && bytes.Equal(k.Marshal(), key.Marshal()) {
					return &xssh.Permissions{}, nil
				}
			}
			return nil, refused
		}
		cfg.VerifiedPublicKeyCallback = func(_ xssh.ConnMetadata, _ xssh.PublicKey, p *xssh.Permissions, _ string) (*xssh.Permissions, error) {
			_, err := attempt(true)
			return p, err
		}
	}
	right := func(meta xssh.ConnMetadata, password string) bool {
		return s.cfg.Password != "" && meta.User() == s.cfg.User && password == s.cfg.Password
	}
	if s.cfg.KeyboardInteractive {
		cfg.KeyboardInteractiveCallback = func(meta xssh.ConnMetadata, ask xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil {
				return nil, err
			}
			return attempt(len(answers) == 1 && right(meta, answers[0]))
		}
	} else {
		cfg.PasswordCallback = func(meta xssh.ConnMetadata, password []byte) (*xssh.Permissions, error) {
			return attempt(right(meta, string(password)))
		}
	}
	cfg.AddHostKey(s.hostKey)
	return cfg
}

// pipeAddr is the address of both ends of a connection in memory.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "sshtest" }
func (pipeAddr) String() string  { return "sshtest" }
