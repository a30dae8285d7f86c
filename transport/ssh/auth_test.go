package ssh_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func TestPublicKeys(t *testing.T) {
	good, _ := newKey(t, "")
	bad, _ := newKey(t, "")
	srv := server(t, sshtest.Config{AuthorizedKeys: []xssh.PublicKey{good.PublicKey()}})
	ep := endpointOf(srv)
	ep.Credentials.Password = transport.Secret{}

	ep.Options = ssh.Options{Signers: []xssh.Signer{bad, good}}
	require.Equal(t, "hello\n", output(t, dial(t, ep), "echo", "hello"))

	ep.Options = &ssh.Options{Signers: []xssh.Signer{bad}}
	_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Equal(t, 1, srv.Logins())
}

func TestIdentityFiles(t *testing.T) {
	t.Parallel()
	key, pem := newKey(t, "open sesame")
	srv := server(t, sshtest.Config{AuthorizedKeys: []xssh.PublicKey{key.PublicKey()}})
	ep := endpointOf(srv)
	ep.Credentials.Password = transport.Secret{}
	name := writeFile(t, filepath.Join(t.TempDir(), "id"), string(pem), 0o600)

	open := transport.NewSecret("open sesame")
	ep.Options = ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: name, Passphrase: open}}}
	dial(t, ep)

	// A key that cannot be used is told before anything is sent, and which one.
	dir := filepath.Dir(name)
	garbled := writeFile(t, filepath.Join(dir, "garbled"), "no key", 0o600)
	for _, tt := range []struct {
		id   ssh.IdentityFile
		says string
	}{
		{ssh.IdentityFile{Path: name + "-missing"}, "no such file"},
		{ssh.IdentityFile{Path: name}, "is encrypted"},
		{ssh.IdentityFile{Path: name, Passphrase: transport.NewSecret("battery staple")}, "does not open this private key"},
		{ssh.IdentityFile{Path: garbled}, "cannot be used"},
		{ssh.IdentityFile{Path: dir}, "cannot be used"},
	} {
		ep.Options = ssh.Options{IdentityFiles: []ssh.IdentityFile{tt.id, {Path: name, Passphrase: open}}}
		tr := &ssh.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			t.Error("it was dialled")
			return nil, net.ErrClosed
		}}
		_, err := tr.Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorContains(t, err, tt.id.Path)
		require.ErrorContains(t, err, tt.says)
		require.NotContains(t, err.Error(), "battery staple")
	}
}

func TestAgent(t *testing.T) {
	_, pem := newKey(t, "")
	priv, err := xssh.ParseRawPrivateKey(pem)
	require.NoError(t, err)
	ring := agent.NewKeyring()
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: priv}))
	keys, err := ring.Signers()
	require.NoError(t, err)
	srv := server(t, sshtest.Config{AuthorizedKeys: []xssh.PublicKey{keys[0].PublicKey()}})

	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = agent.ServeAgent(ring, c); c.Close() })
		}
	})
	ep := endpointOf(srv)
	ep.Credentials.Password = transport.Secret{}
	ep.Options = ssh.Options{AgentSocket: socket}
	dial(t, ep)

	ep.Options = ssh.Options{AgentSocket: socket + "-missing"}
	_, err = (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestKeyboardInteractive(t *testing.T) {
	srv := server(t, sshtest.Config{KeyboardInteractive: true})
	ep := endpointOf(srv)
	dial(t, ep)
	require.Equal(t, 1, srv.Attempts())
	ep.Credentials.Password = transport.NewSecret("wrong")
	_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Equal(t, 2, srv.Attempts(), "a wrong password is offered once")
}

func TestWrongPasswordIsOfferedOnce(t *testing.T) {
	srv := server(t, sshtest.Config{})
	ep := endpointOf(srv)
	ep.Credentials.Password = transport.NewSecret("wrong")
	_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.NotContains(t, err.Error(), "wrong")
	require.Equal(t, 1, srv.Attempts())
	require.False(t, transport.Temporary(err))
}

func TestInvalidEndpoints(t *testing.T) {
	good := transport.Endpoint{Address: "host", Credentials: transport.Credentials{User: "u"}}
	for name, change := range map[string]func(*transport.Endpoint){
		"no user":     func(ep *transport.Endpoint) { ep.Credentials.User = "" },
		"no address":  func(ep *transport.Endpoint) { ep.Address = "" },
		"bad pin":     func(ep *transport.Endpoint) { ep.Trust.HostKeys = []string{"rubbish"} },
		"elevate":     func(ep *transport.Endpoint) { ep.Options = ssh.Options{Elevate: 7} },
		"legacy":      func(ep *transport.Endpoint) { ep.Options = ssh.Options{LegacyAlgorithms: true} },
		"foreign":     func(ep *transport.Endpoint) { ep.Options = 7 },
		"known_hosts": func(ep *transport.Endpoint) { ep.Trust.KnownHosts = []string{"/proc/self/cmdline"} },
	} {
		t.Run(name, func(t *testing.T) {
			ep := good
			change(&ep)
			_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			require.ErrorIs(t, err, transport.ErrInvalid)
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	l.Close()
	ep := transport.Endpoint{Address: addr, Credentials: transport.Credentials{User: "u"}}
	_, err = (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrUnreachable)

	srv := server(t, sshtest.Config{})
	srv.Refuse(true)
	_, err = (&ssh.Transport{}).Dial(t.Context(), endpointOf(srv))
	require.True(t, errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrConnLost), "%v", err)
	srv.Refuse(false)
	dial(t, endpointOf(srv))
}
