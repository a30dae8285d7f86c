package ssh_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

const (
	shellCaps = transport.CapFiles | transport.CapRun | transport.CapTunnelTCP | transport.CapTunnelUnix
	filesCaps = transport.CapFiles | transport.CapTunnelTCP | transport.CapTunnelUnix
)

// TestConformance runs the suite of package transporttest over each kind of
// server, simulated and real.
func TestConformance(t *testing.T) {
	t.Run("shell", func(t *testing.T) { conformance(t, simulated(t, sshtest.Config{}, shellCaps)) })
	t.Run("shell without sftp", func(t *testing.T) { conformance(t, simulated(t, sshtest.Config{NoSFTP: true}, shellCaps)) })
	t.Run("shell in pieces", func(t *testing.T) {
		h := simulated(t, sshtest.Config{}, shellCaps)
		h.Transport = (&ssh.Transport{}).InPieces()
		conformance(t, h)
	})
	t.Run("sftp only", func(t *testing.T) { conformance(t, simulated(t, sshtest.Config{SFTPOnly: true}, filesCaps)) })
	t.Parallel() // what is left of them
}

// conformance runs what must be alone before the caller goes on, and all else in parallel
// with other tests.
func conformance(t *testing.T, h transporttest.Harness) {
	cases := func(alone bool) {
		for _, c := range transporttest.Cases(h) {
			if c.Alone != alone {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				if reason := h.Skip[c.Name]; reason != "" {
					t.Skip(reason)
				}
				require.NoError(t, c.Run(t.Context(), h))
			})
		}
	}
	cases(true)
	t.Parallel()
	cases(false)
}

func simulated(t *testing.T, cfg sshtest.Config, caps transport.Caps) transporttest.Harness {
	cfg.User, cfg.Password = "ops", "correct horse"
	srv, err := sshtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	other, err := sshtest.NewServer(sshtest.Config{NoListen: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	ep := endpoint(srv, cfg)
	wrongSecret, wrongTrust := ep, ep
	wrongSecret.Credentials.Password = transport.NewSecret("battery staple")
	wrongTrust.Trust = transport.Trust{HostKeys: []string{other.AuthorizedHostKey()}}
	return transporttest.Harness{
		Transport: &ssh.Transport{}, Endpoint: ep, WrongSecret: &wrongSecret, WrongTrust: &wrongTrust,
		Caps: caps, Dir: srv.Home(), Listen: listener(t),
		Cut: srv.CloseConnections,
		Stall: func() func() {
			srv.Stall(true)
			return func() { srv.Stall(false) }
		},
	}
}

func endpoint(srv *sshtest.Server, cfg sshtest.Config) transport.Endpoint {
	return transport.Endpoint{
		Address:     srv.Addr(),
		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(cfg.Password)},
		Trust:       transport.Trust{HostKeys: []string{srv.AuthorizedHostKey()}},
	}
}

// listener listens on this machine, which is the target as well.
func listener(t *testing.T) func(network string) (net.Listener, string, error) {
	dir := t.TempDir()
	n := 0
	return func(network string) (net.Listener, string, error) {
		addr := "127.0.0.1:0"
		if network == "unix" {
			n++
			addr = filepath.Join(dir, string(rune('a'+n)))
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return nil, "", err
		}
		return l, l.Addr().String(), nil
	}
}
