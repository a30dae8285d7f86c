package ssh_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestCommandsHang: a server for files alone may leave commands without an answer.
func TestCommandsHang(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cfg     sshtest.Config
		elevate ssh.Elevation
		want    error
	}{
		{"sftp", sshtest.Config{}, ssh.NoElevation, nil},
		{"no sftp", sshtest.Config{NoSFTP: true}, ssh.NoElevation, transport.ErrTimeout},
		{"sudo", sshtest.Config{}, ssh.Sudo, transport.ErrTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Home, tt.cfg.NoListen, tt.cfg.Password = t.TempDir(), true, "correct horse"
			synctest.Test(t, func(t *testing.T) {
				srv, err := sshtest.NewServer(tt.cfg)
				require.NoError(t, err)
				defer func() { require.NoError(t, srv.Close()) }()
				srv.HangCommands(true)
				ep := endpointOf(srv)
				ep.Options = ssh.Options{ConnectTimeout: 20 * time.Second, Elevate: tt.elevate}
				start := time.Now()
				conn, err := (&ssh.Transport{DialContext: srv.DialContext}).Dial(t.Context(), ep)
				require.LessOrEqual(t, time.Since(start), 20*time.Second)
				if tt.want != nil {
					require.ErrorIs(t, err, tt.want)
					require.True(t, transport.Temporary(err))
					require.Contains(t, err.Error(), "login shell")
					return
				}
				require.NoError(t, err)
				require.Equal(t, filesCaps, conn.Caps())
				_, err = transport.List(t.Context(), conn, "/")
				require.NoError(t, err)
				require.NoError(t, conn.Close(t.Context()))
			})
		})
	}
}

// TestCommandsHangLater: a command that is never begun ends as a stalled transfer
// does.
func TestCommandsHangLater(t *testing.T) {
	srv := server(t, sshtest.Config{})
	ep := endpointOf(srv)
	ep.Options = ssh.Options{StallTimeout: 500 * time.Millisecond}
	conn := dial(t, ep)
	srv.HangCommands(true)
	_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, transport.ErrTimeout)
	_, err = transport.Get(t.Context(), conn, "/etc/passwd", io.Discard, transport.GetOptions{})
	require.ErrorIs(t, err, transport.ErrTimeout)
	srv.HangCommands(false)
	require.Equal(t, "on\n", output(t, conn, "echo", "on"))
}
