//go:build unix

package ssh_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestPutReplacesWhatIsNotOurs: a file is only left as it is, or continued, if it
// is a plain one of our own, with a shell and with SFTP alone.
func TestPutReplacesWhatIsNotOurs(t *testing.T) {
	content := []byte("content")
	file := transport.BytesFile("f", content)
	put := func(t *testing.T, conn transport.Conn, name string) transport.PutResult {
		t.Helper()
		res, err := transport.Put(t.Context(), conn, name, file, transport.PutOptions{Mode: 0o700})
		require.NoError(t, err)
		fi, err := os.Lstat(name)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), fi.Mode(), "a plain file")
		require.EqualValues(t, os.Geteuid(), uidOf(t, name), "others could change it later")
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, content, got)
		entries, err := os.ReadDir(filepath.Dir(name))
		require.NoError(t, err)
		require.Len(t, entries, 1, "nothing else is left")
		return res
	}
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, endpointOf(server(t, cfg)))

			own := writeFile(t, t.TempDir()+"/f", string(content), 0o644)
			require.EqualValues(t, len(content), put(t, conn, own).Kept)

			real := writeFile(t, t.TempDir()+"/real", string(content), 0o644)
			link := t.TempDir() + "/f"
			require.NoError(t, os.Symlink(real, link))
			require.EqualValues(t, len(content), put(t, conn, link).Sent)
			fi, err := os.Stat(real)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o644), fi.Mode(), "changed through the link")

			if os.Geteuid() != 0 {
				// What is there already needs no right to write to the directory.
				fixed := writeFile(t, t.TempDir()+"/f", string(content), 0o644)
				require.NoError(t, os.Chmod(filepath.Dir(fixed), 0o500))
				defer os.Chmod(filepath.Dir(fixed), 0o700)
				other := dial(t, endpointOf(server(t, cfg)))
				require.EqualValues(t, len(content), put(t, other, fixed).Kept)
				return // only root can give files away
			}
			strangers := writeFile(t, t.TempDir()+"/f", string(content), 0o644)
			require.NoError(t, os.Chown(strangers, 65534, 65534))
			require.EqualValues(t, len(content), put(t, conn, strangers).Sent)
		})
	}
}

// TestPutContinuesNothingOfOthers breaks a transfer off, and gives what it left
// away.
func TestPutContinuesNothingOfOthers(t *testing.T) {
	realtest.NeedRoot(t) // to give files away
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		for _, away := range []bool{false, true} {
			t.Run(name+" "+strconv.FormatBool(away), func(t *testing.T) {
				srv := server(t, cfg)
				dir := t.TempDir()
				conn := dial(t, endpointOf(srv))
				_, err := transport.Put(t.Context(), conn, dir+"/f", transport.BytesFile("f", content), transport.PutOptions{
					Progress: func(done int64) {
						if done > 6<<20 {
							srv.CloseConnections()
						}
					}})
				require.Error(t, err)
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Len(t, entries, 1)
				part := dir + "/" + entries[0].Name()
				if away {
					require.NoError(t, os.Chown(part, 65534, 65534))
				}
				res, err := transport.Put(t.Context(), dial(t, endpointOf(srv)), dir+"/f", transport.BytesFile("f", content), transport.PutOptions{})
				require.NoError(t, err)
				require.Equal(t, away, res.Kept == 0, "kept %d", res.Kept)
				require.EqualValues(t, os.Geteuid(), uidOf(t, dir+"/f"))
			})
		}
	}
}

func uidOf(t *testing.T, name string) uint32 {
	t.Helper()
	fi, err := os.Lstat(name)
	require.NoError(t, err)
	return fi.Sys().(*syscall.Stat_t).Uid
}
