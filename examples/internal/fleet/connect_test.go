package fleet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const canary = "correct-horse-battery-staple"

// world is a home directory and the servers that its known_hosts has.
type world struct {
	t   *testing.T
	cfg fleet.Config
	log *safeBuffer
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, log: &safeBuffer{}}
	w.cfg = fleet.Config{
		Home: t.TempDir(), System: t.TempDir(), User: "test", Debug: true,
		Getenv: func(string) string { return "" },
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	require.NoError(t, os.Mkdir(filepath.Join(w.cfg.Home, ".ssh"), 0o700))
	t.Cleanup(func() { require.NotContains(t, w.log.String(), canary) })
	return w
}

func (w *world) write(name, content string) string {
	path := filepath.Join(w.cfg.Home, ".ssh", name)
	require.NoError(w.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// server starts a server that known_hosts has.
func (w *world) server(cfg sshtest.Config) *sshtest.Server {
	s, err := sshtest.NewServer(cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, s.Close()) })
	f, err := os.OpenFile(filepath.Join(w.cfg.Home, ".ssh", "known_hosts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(w.t, err)
	defer f.Close()
	host, port, err := net.SplitHostPort(s.Addr())
	require.NoError(w.t, err)
	_, err = fmt.Fprintf(f, "[%s]:%s %s\n", host, port, s.AuthorizedHostKey())
	require.NoError(w.t, err)
	return s
}

// key makes a key pair in the home directory, encrypted if there is a passphrase.
func (w *world) key(name, passphrase string) (xssh.PublicKey, ed25519.PrivateKey) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(w.t, err)
	signer, err := xssh.NewSignerFromSigner(private)
	require.NoError(w.t, err)
	block, err := xssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = xssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	require.NoError(w.t, err)
	w.write(name, string(pem.EncodeToMemory(block)))
	w.write(name+".pub", string(xssh.MarshalAuthorizedKey(signer.PublicKey())))
	return signer.PublicKey(), private
}

// dial connects to an address and returns the error.
func (w *world) dial(address string) error {
	w.t.Helper()
	r, err := fleet.New(w.cfg)
	require.NoError(w.t, err)
	defer r.Close(context.Background())
	return dialWith(w.t, r, address)
}

func dialWith(t *testing.T, r *fleet.Resolver, address string) error {
	t.Helper()
	tr, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Linux, Address: address})
	if err != nil {
		return err
	}
	conn, err := tr.Dial(t.Context(), ep)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"echo", "here"}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "here\n", out.String())
	return conn.Close(t.Context())
}

func TestDefaultKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	public, _ := w.key("id_ed25519", "")
	s := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}})
	require.NoError(t, w.dial(s.Addr()))
	require.Contains(t, w.log.String(), "msg=dial", "Debug logs the calls")
}

func TestUnknownHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	s, err := sshtest.NewServer(sshtest.Config{Password: canary})
	require.NoError(t, err)
	defer s.Close()
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrTrust)
	require.Zero(t, s.Attempts(), "no password for a stranger")
}

func TestPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(sshtest.Config{Password: canary})
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrAuth, "no key, no password, nobody to ask")
	w.cfg.Password = transport.NewSecret(canary)
	require.NoError(t, w.dial(s.Addr()))

	// A wrong one that was given is not asked for again: it may lock the account.
	w.cfg.Password = transport.NewSecret("wrong")
	w.cfg.Ask = func(context.Context, string) (transport.Secret, error) {
		t.Error("asked")
		return transport.Secret{}, errors.New("asked")
	}
	before := s.Attempts()
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrAuth)
	require.Equal(t, 1, s.Attempts()-before)
}

func TestAskOnceForEachUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	public, _ := w.key("id_ed25519", "")
	keyed := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}})
	servers := []*sshtest.Server{w.server(sshtest.Config{Password: canary}), w.server(sshtest.Config{Password: canary}), w.server(sshtest.Config{Password: canary})}
	var mu sync.Mutex
	var prompts []string
	w.cfg.Ask = func(_ context.Context, prompt string) (transport.Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		prompts = append(prompts, prompt)
		return transport.NewSecret(canary), nil
	}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	require.NoError(t, dialWith(t, r, keyed.Addr()))
	require.Empty(t, prompts, "the key does")
	var wg sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		wg.Go(func() { errs[i] = dialWith(t, r, s.Addr()) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Len(t, prompts, 1)
	require.Contains(t, prompts[0], "test")
	require.NoError(t, r.Close(t.Context()))
}

func TestAskRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(sshtest.Config{Password: canary})
	gone := errors.New("end of input")
	w.cfg.Ask = func(context.Context, string) (transport.Secret, error) { return transport.Secret{}, gone }
	err := w.dial(s.Addr())
	require.ErrorIs(t, err, transport.ErrAuth)
	require.ErrorIs(t, err, gone)
}

func TestEncryptedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	public, _ := w.key("id_ed25519", canary)
	s := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}})
	other := w.server(sshtest.Config{Password: canary})
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrAuth, "nobody to ask")

	var prompts []string
	w.cfg.Ask = func(_ context.Context, prompt string) (transport.Secret, error) {
		prompts = append(prompts, prompt)
		return transport.NewSecret(canary), nil
	}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	require.NoError(t, dialWith(t, r, s.Addr()))
	require.NoError(t, dialWith(t, r, s.Addr()))
	require.Len(t, prompts, 1)
	require.Contains(t, prompts[0], "id_ed25519")

	// A server that does not take the key does not make anybody type its
	// passphrase.
	prompts = nil
	require.NoError(t, w.dial(other.Addr()))
	require.Len(t, prompts, 1)
	require.Contains(t, prompts[0], "Password of test")
}

func TestKeyInAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	public, private := w.key("mine", canary)
	s := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}})
	keys := agent.NewKeyring()
	require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: private}))
	dir, err := os.MkdirTemp("", "agent") // short: the name of a socket has a limit
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, c); c.Close() }()
		}
	}()
	w.cfg.Getenv = func(name string) string { return map[string]string{"SSH_AUTH_SOCK": socket}[name] }
	require.NoError(t, w.dial(s.Addr()), "any key of the agent")
	w.write("config", "Host *\n  IdentitiesOnly yes\n")
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrAuth, "only keys that are listed")
	w.write("config", "Host *\n  IdentitiesOnly yes\n  IdentityFile ~/.ssh/mine\n")
	require.NoError(t, w.dial(s.Addr()), "listed and encrypted: by the agent, nobody is asked")
	require.NoError(t, os.Remove(filepath.Join(w.cfg.Home, ".ssh", "mine")))
	require.NoError(t, w.dial(s.Addr()), "only the public half is there")
}

func TestIdentityMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Identities = []string{"/no/such/key"}
	s := w.server(sshtest.Config{Password: canary})
	require.ErrorIs(t, w.dial(s.Addr()), os.ErrNotExist)
	require.Zero(t, s.Attempts())
}

// TestJumpHosts reaches a target through two jump hosts, of which each is
// connected to once for three targets and let go of with the last.
func TestJumpHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	public, _ := w.key("id_ed25519", "")
	keys := []xssh.PublicKey{public}
	first := w.server(sshtest.Config{AuthorizedKeys: keys, NoSessions: true})
	second := w.server(sshtest.Config{AuthorizedKeys: keys, NoSessions: true})
	target := w.server(sshtest.Config{Password: canary})
	hostPort := func(s *sshtest.Server) (string, string) {
		h, p, err := net.SplitHostPort(s.Addr())
		require.NoError(t, err)
		return h, p
	}
	h1, p1 := hostPort(first)
	h2, p2 := hostPort(second)
	h3, p3 := hostPort(target)
	w.write("config", fmt.Sprintf(`
Host first
  HostName %s
  Port %s
Host second
  HostName %s
  Port %s
  ProxyJump first
Host t*
  HostName %s
  Port %s
  ProxyJump second
`, h1, p1, h2, p2, h3, p3))
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	var conns []transport.Conn
	for _, name := range []string{"t1", "t2", "t3"} {
		tr, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Linux, Address: name})
		require.NoError(t, err)
		conn, err := tr.Dial(t.Context(), ep)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	require.Equal(t, []int{1, 1, 3}, []int{first.Logins(), second.Logins(), target.Logins()})
	require.NoError(t, conns[0].Close(t.Context()))
	require.NoError(t, conns[1].Close(t.Context()))
	_, err = conns[2].Identify(t.Context())
	require.NoError(t, err, "the others have not taken its jump host away")
	require.NoError(t, conns[2].Close(t.Context()))
	require.NoError(t, dialWith(t, r, "t1"))
	require.Equal(t, 2, first.Logins(), "a new one after the last had gone")

	// The line to the jump host breaks: the next dial makes a new one.
	tr, ep, err := r.Resolve(t.Context(), sum.Target{Kind: sum.Linux, Address: "t1"})
	require.NoError(t, err)
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	first.CloseConnections()
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, dialWith(t, r, "t2"))
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, r.Close(t.Context()))
}

func TestJumpHostUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	jump := w.server(sshtest.Config{Password: "another", NoSessions: true})
	w.write("config", "Host target\n  ProxyJump "+jump.Addr()+"\n")
	err := w.dial("target")
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Contains(t, err.Error(), "jump host")
}

// TestJumpHostPassword: a jump host is never offered a password of the targets,
// and its own is asked for by its name and used nowhere else.
func TestJumpHostPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target := w.server(sshtest.Config{Password: canary})
	jump := w.server(sshtest.Config{User: "bastion", Password: "another", NoSessions: true})
	host, port, err := net.SplitHostPort(target.Addr())
	require.NoError(t, err)
	w.write("config", fmt.Sprintf("Host target\n  HostName %s\n  Port %s\n  ProxyJump bastion@%s\n", host, port, jump.Addr()))
	w.cfg.Password = transport.NewSecret(canary)
	require.ErrorIs(t, w.dial("target"), transport.ErrAuth)
	require.Zero(t, jump.Attempts(), "it was offered the password of the targets")

	var prompts []string
	answer := "wrong"
	w.cfg.Ask = func(_ context.Context, prompt string) (transport.Secret, error) {
		prompts = append(prompts, prompt)
		return transport.NewSecret(answer), nil
	}
	w.cfg.Password = transport.Secret{}
	require.ErrorIs(t, w.dial("target"), transport.ErrAuth)
	require.Len(t, prompts, 1, "that the jump host refuses is no reason to ask for the target's password: %q", prompts)
	require.Contains(t, prompts[0], "bastion on the jump host "+jump.Addr())
	require.Zero(t, target.Attempts())

	w.cfg.Password = transport.NewSecret(canary)
	prompts, answer = nil, "another"
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, dialWith(t, r, "target"))
	}
	require.Len(t, prompts, 1, "once for each jump host")
	require.Equal(t, 2, target.Attempts(), "the jump host's password was offered to the target")
	require.NoError(t, r.Close(t.Context()))
}

func TestSudoPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	public, _ := w.key("id_ed25519", "")
	// A sudo that asks as the real one does, and then runs its program.
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "sudo"), []byte(`#!/bin/sh
prompt=
while :; do
  case "$1" in
  -n) exit 1 ;;
  -p) prompt=$2; shift 2 ;;
  -S) shift ;;
  --) shift; break ;;
  *) break ;;
  esac
done
printf %s "$prompt" >&2
IFS= read -r password
[ "$password" = `+canary+` ] || { printf %s "$prompt" >&2; read -r password; exit 1; }
exec "$@"
`), 0o755))
	if os.Geteuid() == 0 {
		// Root needs no sudo; whoever says so is asked by the driver.
		require.NoError(t, os.WriteFile(filepath.Join(bin, "id"), []byte("#!/bin/sh\necho 1000\n"), 0o755))
	}
	s := w.server(sshtest.Config{AuthorizedKeys: []xssh.PublicKey{public}, Env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}})
	w.cfg.Sudo = true
	require.ErrorIs(t, w.dial(s.Addr()), transport.ErrAuth)
	w.cfg.SudoPassword = transport.NewSecret(canary)
	require.NoError(t, w.dial(s.Addr()))
	w.cfg.SudoPassword = transport.Secret{}
	var prompts []string
	w.cfg.Ask = func(_ context.Context, prompt string) (transport.Secret, error) {
		prompts = append(prompts, prompt)
		return transport.NewSecret(canary), nil
	}
	require.NoError(t, w.dial(s.Addr()))
	require.Len(t, prompts, 1)
	require.True(t, strings.HasPrefix(prompts[0], "sudo password"), prompts[0])
}

func TestKindsWithoutDriver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	for _, k := range sum.Kinds() {
		_, _, err := r.Resolve(t.Context(), sum.Target{Kind: k, Address: "a", User: "ops"})
		if k == sum.Linux || k == sum.Windows || k == sum.Local || fleet.SpeaksRedfish(k) {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Contains(t, err.Error(), string(k))
	}
}
