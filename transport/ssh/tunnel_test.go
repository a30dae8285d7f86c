package ssh_test

import (
	"io/fs"
	"net"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

func TestProhibitedTunnels(t *testing.T) {
	conn := dial(t, endpointOf(server(t, sshtest.Config{NoStreamLocal: true, NoTCP: true})))
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	for network, addr := range map[string]string{"unix": socket, "tcp": "127.0.0.1:1"} {
		_, err := transport.Dial(t.Context(), conn, network, addr)
		require.ErrorIs(t, err, transport.ErrRejected)
		require.Equal(t, transport.Code{Space: "ssh-open", Value: "1"}, transport.CodeOf(err))
		require.False(t, transport.Temporary(err))
	}
}

func TestTunnelErrors(t *testing.T) {
	conn := dial(t, endpointOf(server(t, sshtest.Config{})))
	_, err := transport.Dial(t.Context(), conn, "tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.Equal(t, transport.Code{Space: "ssh-open", Value: "2"}, transport.CodeOf(err))
	_, err = transport.Dial(t.Context(), conn, "unix", t.TempDir()+"/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = transport.Dial(t.Context(), conn, "tcp", "no port")
	require.ErrorIs(t, err, transport.ErrInvalid)
}

// TestJumpHosts goes to the target by way of two servers that do nothing else.
func TestJumpHosts(t *testing.T) {
	first := dial(t, endpointOf(server(t, sshtest.Config{NoSessions: true})))
	require.Equal(t, transport.CapTunnelTCP|transport.CapTunnelUnix, first.Caps())
	_, err := first.Identify(t.Context())
	require.NoError(t, err)
	ctx := t.Context()
	second, err := (&ssh.Transport{DialContext: ssh.Through(first)}).Dial(ctx, endpointOf(server(t, sshtest.Config{SFTPOnly: true})))
	require.NoError(t, err)
	target, err := (&ssh.Transport{DialContext: ssh.Through(second)}).Dial(ctx, endpointOf(server(t, sshtest.Config{})))
	require.NoError(t, err)
	require.Equal(t, "there\n", output(t, target, "echo", "there"))
	require.False(t, target.Path().Local.IsValid())
	require.Equal(t, "127.0.0.1", target.Path().SeenAs.String())

	// The end of a jump host is the end of what goes through it.
	require.NoError(t, first.Close(ctx))
	_, err = target.Identify(ctx)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, target.Close(ctx))
	require.NoError(t, second.Close(ctx))

	_, err = (&ssh.Transport{DialContext: ssh.Through(first)}).Dial(ctx, endpointOf(server(t, sshtest.Config{})))
	require.ErrorIs(t, err, transport.ErrClosed)
}
