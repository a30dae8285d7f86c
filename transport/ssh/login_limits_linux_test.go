package ssh_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/internal/bufpipe"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// loginLimits are servers that let in few, or permit little.
func loginLimits(t *testing.T, h *loginHost) {
	for name, f := range map[string]func(*testing.T, *loginHost){
		"MaxAuthTries": loginTries, "MaxStartups": loginStartups, "MaxSessions": loginSessions, "forwarding": loginForwarding,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, h)
		})
	}
}

// startAgent runs an ssh-agent with these keys, in this order.
func (h *loginHost) startAgent(t *testing.T, keys ...string) string {
	t.Helper()
	program, add := realtest.Need(t, "ssh-agent"), realtest.Need(t, "ssh-add")
	socket := t.TempDir() + "/agent"
	cmd := exec.Command(program, "-D", "-a", socket)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, key := range keys {
		require.Eventually(t, func() bool {
			c := exec.Command(add, "-q", key)
			c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
			return c.Run() == nil
		}, 20*time.Second, 20*time.Millisecond)
	}
	return socket
}

// loginTries has more keys in the agent than the server lets anybody try.
func loginTries(t *testing.T, h *loginHost) {
	keys := []string{h.path("stranger"), h.path("ca"), h.path("otherca"), h.path("certified"), h.path("ed25519")}
	socket := h.startAgent(t, keys...)
	s := h.start(t, "MaxAuthTries 6")
	ep := s.endpoint(t)
	ep.Options = ssh.Options{AgentSocket: socket}
	s.try(t, ep, nil, "")

	s = h.start(t, "MaxAuthTries 3")
	ep.Address = s.addr
	ep.Credentials.Password = transport.NewSecret(right)
	err := s.try(t, ep, transport.ErrAuth, "offered 5 keys")
	require.ErrorContains(t, err, "MaxAuthTries")
	require.False(t, transport.Temporary(err))
	require.Contains(t, s.log(t, 1), "Too many authentication failures")

	// A certificate of the agent.
	s = h.start(t, "TrustedUserCAKeys /etc/rmtest/ca.pub", "AuthorizedKeysFile none")
	ep = s.endpoint(t)
	ep.Options = ssh.Options{AgentSocket: h.startAgent(t, h.userCert(t, "certified", "-s", h.path("ca"), "-n", "alice"))}
	s.try(t, ep, nil, "")
}

// loginStartups dials while others have not logged in yet.
func loginStartups(t *testing.T, h *loginHost) {
	s := h.start(t, "MaxStartups 1:100:1")
	ep := s.endpoint(t)
	other, err := dialFrom(h.net.NS)(t.Context(), "tcp", s.addr)
	require.NoError(t, err)
	defer other.Close()
	hello := make([]byte, 4)
	_, err = other.Read(hello) // the server has taken it
	require.NoError(t, err)
	err = s.try(t, ep, transport.ErrUnreachable, "MaxStartups")
	require.True(t, transport.Temporary(err))
	require.ErrorContains(t, err, "it said", "sshd gives the reason in words")
	require.NoError(t, other.Close())
	require.Eventually(t, func() bool {
		conn, err := h.transport().Dial(t.Context(), ep)
		if err == nil {
			require.NoError(t, conn.Close(t.Context()))
		}
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
}

// loginSessions does several things at once over a connection to a server that
// opens few sessions. Those that find no room are ErrBusy, unless the caller has
// said how many there are.
func loginSessions(t *testing.T, h *loginHost) {
	for _, n := range []string{"1", "2"} {
		s := h.start(t, "MaxSessions "+n)
		for _, max := range []int{0, 1} {
			ep := s.endpoint(t)
			opts := ep.Options.(ssh.Options)
			opts.MaxSessions = max
			ep.Options = opts
			conn := dialWith(t, h.transport(), ep)
			var wg sync.WaitGroup
			errs := make([]error, 6)
			for i := range errs {
				wg.Go(func() {
					_, errs[i] = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sleep", "0.2"}})
				})
			}
			wg.Wait()
			busy := 0
			for _, err := range errs {
				if err != nil {
					require.ErrorIs(t, err, transport.ErrBusy)
					require.ErrorContains(t, err, "MaxSessions")
					busy++
				}
			}
			t.Logf("MaxSessions of sshd %s, of Options %d: %d of %d were busy", n, max, busy, len(errs))
			require.True(t, busy == 0 || max == 0)
			// Files and commands in turn always work.
			for range 3 {
				require.Equal(t, "alice\n", output(t, conn, "id", "-un"))
				_, err := transport.Stat(t.Context(), conn, "/etc/passwd")
				require.NoError(t, err)
				_, err = transport.Put(t.Context(), conn, "/home/alice/x"+n, transport.BytesFile("x", []byte("x")), transport.PutOptions{})
				require.NoError(t, err)
			}
		}
	}
}

// loginForwarding is what jump hosts may forbid.
func loginForwarding(t *testing.T, h *loginHost) {
	open := func(t *testing.T, conn transport.Conn, addr string, want error) {
		t.Helper()
		c, err := transport.Dial(t.Context(), conn, "tcp", addr)
		if want != nil {
			require.ErrorIs(t, err, want)
			require.Equal(t, "ssh-open", transport.CodeOf(err).Space)
			return
		}
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	s := h.start(t, "AllowTcpForwarding no")
	conn := dialWith(t, h.transport(), s.endpoint(t))
	open(t, conn, "127.0.0.1:22", transport.ErrRejected)
	_, err := (&ssh.Transport{DialContext: ssh.Through(conn)}).Dial(t.Context(), s.endpoint(t))
	require.ErrorIs(t, err, transport.ErrRejected)
	require.ErrorContains(t, err, "forwarding")
	require.Equal(t, "alice\n", output(t, conn, "id", "-un"), "the connection itself is none the worse")

	s = h.start(t, "PermitOpen 127.0.0.1:22 localhost:1")
	conn = dialWith(t, h.transport(), s.endpoint(t))
	open(t, conn, "127.0.0.1:22", nil)
	open(t, conn, "localhost:1", transport.ErrUnreachable)
	open(t, conn, "[::1]:22", transport.ErrRejected)
	open(t, conn, "127.0.0.1:23", transport.ErrRejected)

	s = h.start(t, "AllowTcpForwarding remote")
	open(t, dialWith(t, h.transport(), s.endpoint(t)), "127.0.0.1:22", transport.ErrRejected)
	s = h.start(t, "DisableForwarding yes")
	open(t, dialWith(t, h.transport(), s.endpoint(t)), "127.0.0.1:22", transport.ErrRejected)

	// Names are looked up on the jump host.
	s = h.start(t)
	h.on(t).Run("sh", "-c", "echo 127.0.0.1 only-the-jump-host-knows >>/etc/hosts")
	conn = dialWith(t, h.transport(), s.endpoint(t))
	ep := s.endpoint(t)
	_, port, err := net.SplitHostPort(s.addr)
	require.NoError(t, err)
	ep.Address = "only-the-jump-host-knows:" + port
	through := dialWith(t, &ssh.Transport{DialContext: ssh.Through(conn)}, ep)
	require.Equal(t, "127.0.0.1", through.Path().SeenAs.String())
	open(t, conn, "nobody-knows-this-name:22", transport.ErrUnreachable)
}

// TestStrangers dials what is no SSH server, or hardly.
func TestStrangers(t *testing.T) {
	signer, _ := newKey(t, "")
	for _, r := range []struct {
		name    string
		says    string // what it says at once
		answers string // to what it hears first
		stays   bool   // and then does not hang up
		want    error
		hint    string
	}{
		{"silent", "", "", true, transport.ErrTimeout, "did not speak SSH (the usual port is 22)"},
		{"version alone", "SSH-2.0-x\r\n", "", true, transport.ErrTimeout, "did not show its key"},
		{"version after words", "Welcome.\r\nSSH-2.0-x\r\n", "", true, transport.ErrTimeout, "did not show its key"},
		{"gone", "", "", false, transport.ErrUnreachable, "the target hung up at once"},
		{"gone, the port", "", "", false, transport.ErrUnreachable, "something else listens on this port"},
		{"mail that waits", "220 mail ESMTP\r\n", "500 what\r\n", true, transport.ErrProtocol, "check the port"},
		{"MaxStartups", "Exceeded MaxStartups\r\n", "", false, transport.ErrUnreachable, `it said "Exceeded MaxStartups"`},
		{"gone after its version", "SSH-2.0-x\r\n", "", false, transport.ErrConnLost, ""},
		{"HTTP", "", "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n400 Bad Request", false, transport.ErrProtocol, `it said "HTTP/1.1 400 Bad Request"`},
		{"HTTP that waits", "", "HTTP/1.1 408 Request Timeout\r\n\r\n", true, transport.ErrProtocol, "check the port"},
		{"TLS", "", "\x15\x03\x01\x00\x02\x02\x46", false, transport.ErrProtocol, "does not speak SSH"},
		{"mail", "220 mail.example.com ESMTP\r\n", strings.Repeat("500 5.5.1 unrecognized command\r\n", 2000), false, transport.ErrProtocol, "220 mail.example.com ESMTP"},
		{"endless", strings.Repeat("x", 1<<20), "", true, transport.ErrProtocol, "does not speak SSH"},
		{"garbled", "SSH-2.0-x\r\nthis is not a packet of any kind at all", "", false, transport.ErrProtocol, ""},
	} {
		answer := func(ctx context.Context, c net.Conn) {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			_, _ = c.Write([]byte(r.says))
			buf := make([]byte, 4096) // hanging up on what was not read would be a reset
			if _, err := c.Read(buf); err != nil {
				return
			}
			_, _ = c.Write([]byte(r.answers))
			if r.stays {
				<-ctx.Done()
			}
		}
		dial := func(t *testing.T, tr *ssh.Transport, addr string) {
			_, err := tr.Dial(t.Context(), transport.Endpoint{Address: addr, Credentials: transport.Credentials{User: "u"},
				Trust:   transport.Trust{HostKeys: []string{authorized(signer.PublicKey())}},
				Options: ssh.Options{ConnectTimeout: 20 * time.Second, Signers: []xssh.Signer{signer}}})
			require.ErrorIs(t, err, r.want)
			require.ErrorContains(t, err, r.hint)
			require.Equal(t, r.want != transport.ErrProtocol, transport.Temporary(err))
			require.Less(t, len(err.Error()), 1000)
			t.Log(err)
		}
		t.Run(r.name, func(t *testing.T) {
			if r.stays {
				// On a clock that waits until all the rest is done.
				synctest.Test(t, func(t *testing.T) {
					over, end := context.WithCancel(t.Context())
					defer end()
					var peers sync.WaitGroup
					dial(t, &ssh.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
						addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:22"))
						near, far := bufpipe.New(addr, addr)
						peers.Go(func() { answer(over, far) })
						return near, nil
					}}, "192.0.2.1")
					end()
					peers.Wait()
				})
				return
			}
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			over, end := context.WithCancel(t.Context())
			defer func() {
				end()
				_ = l.Close()
				<-done
			}()
			go func() {
				defer close(done)
				if c, err := l.Accept(); err == nil {
					answer(over, c)
				}
			}()
			dial(t, &ssh.Transport{}, l.Addr().String())
		})
	}
}
