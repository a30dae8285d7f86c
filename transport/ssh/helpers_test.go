package ssh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) {
	// Programs of the user who runs the tests are no part of a target: in front of
	// python3 there may be a script that looks for it anew each time.
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		dirs := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
			return strings.HasPrefix(dir, home+string(filepath.Separator))
		})
		if err := os.Setenv("PATH", strings.Join(dirs, string(filepath.ListSeparator))); err != nil {
			panic(err)
		}
	}
	// Most of these tests wait for hosts: more of them than there are processors go on
	// at a time, unless the command line says how many.
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func server(t *testing.T, cfg sshtest.Config) *sshtest.Server {
	t.Helper()
	if cfg.Password == "" && cfg.AuthorizedKeys == nil {
		cfg.Password = "correct horse"
	}
	srv, err := sshtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv
}

// endpointOf logs in with the password that server sets.
func endpointOf(srv *sshtest.Server) transport.Endpoint {
	return endpoint(srv, sshtest.Config{Password: "correct horse"})
}

func dial(t *testing.T, ep transport.Endpoint) transport.Conn {
	t.Helper()
	conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// output runs a program and returns what it printed.
func output(t *testing.T, conn transport.Conn, argv ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: argv, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{}, exit, errs.String())
	return out.String()
}

// newKey makes a key and its PEM form, encrypted if there is a passphrase.
func newKey(t testing.TB, passphrase string) (xssh.Signer, []byte) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	signer, err := xssh.NewSignerFromSigner(priv)
	require.NoError(t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = xssh.MarshalPrivateKey(priv, "")
	} else {
		block, err = xssh.MarshalPrivateKeyWithPassphrase(priv, "", []byte(passphrase))
	}
	require.NoError(t, err)
	return signer, pem.EncodeToMemory(block)
}

func writeFile(t testing.TB, name, content string, perm os.FileMode) string {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(content), perm))
	return name
}

// tools makes a directory with links to the named tools alone, for a PATH.
func tools(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		for _, from := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(from, name)); err == nil {
				require.NoError(t, os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)))
				break
			}
		}
	}
	return dir
}

// proxy is a TCP line that can be cut and stalled.
type proxy struct {
	ln      net.Listener
	to      string
	mu      sync.Mutex
	cond    *sync.Cond
	stalled bool
	conns   map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{ln: ln, to: to, conns: map[net.Conn]bool{}}
	p.cond = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			p.mu.Lock()
			p.conns[c], p.conns[out] = true, true
			p.mu.Unlock()
			for _, pair := range [][2]net.Conn{{c, out}, {out, c}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], &stalling{pair[1], p})
					p.drop(pair[0], pair[1])
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.stall(false)
		p.cut()
		wg.Wait()
	})
	return p
}

type stalling struct {
	net.Conn
	p *proxy
}

func (s *stalling) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for s.p.stalled {
		s.p.cond.Wait()
	}
	return n, err
}

func (p *proxy) stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = on
	p.cond.Broadcast()
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func authorized(key xssh.PublicKey) string {
	return strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key)))
}
