package ssh_test

import (
	"io/fs"
	"os"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestSFTPEnds: a session that the server closes just when it is used is replaced,
// while the connection remains, and what changes nothing is asked again.
func TestSFTPEnds(t *testing.T) {
	for _, sftpOnly := range []bool{false, true} {
		srv := server(t, sshtest.Config{SFTPOnly: sftpOnly})
		conn := dial(t, endpointOf(srv))
		dir := t.TempDir()
		file := writeFile(t, dir+"/file", "content", 0o600)
		identify := func() error {
			id, err := conn.Identify(t.Context())
			if err == nil {
				require.NotEmpty(t, id.Kernel)
			}
			return err
		}
		stat := func() error {
			info, err := transport.Stat(t.Context(), conn, file)
			if err == nil {
				require.EqualValues(t, len("content"), info.Size)
			}
			return err
		}
		list := func() error {
			list, err := transport.List(t.Context(), conn, dir)
			if err == nil {
				require.NotEmpty(t, list)
			}
			return err
		}
		for _, c := range []struct {
			name    string
			looks   int // requests before the first that changes anything
			changes bool
			call    func() error
		}{
			{"identify", 1, false, identify},
			{"stat", 1, false, stat},
			{"list", 3, false, list}, // open, one that has names, and one that has none
			{"mkdir", 3, true, func() error { return transport.Mkdir(t.Context(), conn, dir+"/a/b", 0o755) }},
			{"remove", 1, true, func() error { return transport.Remove(t.Context(), conn, file) }},
		} {
			if c.name == "identify" && !sftpOnly {
				continue // by a command
			}
			_, err := transport.Stat(t.Context(), conn, dir) // with a session that is open
			require.NoError(t, err)
			for skip := range c.looks {
				srv.EndSFTP(skip, 2)
				err := c.call()
				require.ErrorIs(t, err, transport.ErrProtocol, "%s, whose request %d ends the session twice", c.name, skip)
				require.ErrorContains(t, err, "the SFTP session ended")
				require.False(t, transport.Temporary(err))
			}
			if c.changes {
				srv.EndSFTP(c.looks, 1)
				require.ErrorIs(t, c.call(), transport.ErrProtocol, "%s was done again, though it may have been done", c.name)
			}
			for skip := range c.looks {
				if c.changes && skip > 0 {
					break // it is done by now
				}
				srv.EndSFTP(skip, 1)
				require.NoError(t, c.call(), "%s, whose request %d ends the session", c.name, skip)
			}
			srv.EndSFTP(0, 0)
		}
		_, err := os.Stat(file)
		require.ErrorIs(t, err, fs.ErrNotExist)
		info, err := os.Stat(dir + "/a/b")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode().Perm())
		require.Equal(t, 1, srv.Logins(), "the connection itself was not lost")
	}
}

// TestSessionEndsBeforeItStarts: a session that the server closes before anything runs
// in it is opened again, some times.
func TestSessionEndsBeforeItStarts(t *testing.T) {
	srv := server(t, sshtest.Config{})
	conn := dial(t, endpointOf(srv))
	srv.EndSessions(6)
	require.Equal(t, "on\n", output(t, conn, "echo", "on"))
	srv.EndSessions(6)
	_, err := transport.Stat(t.Context(), conn, "/")
	require.NoError(t, err)
	before := len(srv.Commands())
	srv.EndSessions(7)
	_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, transport.ErrProtocol)
	require.Len(t, srv.Commands(), before)
	require.Equal(t, "on\n", output(t, conn, "echo", "on"))
	require.Equal(t, 1, srv.Logins(), "the connection itself was not lost")
}
