//go:build unix

package local_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
)

func uidOf(t *testing.T, name string) int {
	t.Helper()
	fi, err := os.Lstat(name)
	require.NoError(t, err)
	return int(fi.Sys().(*syscall.Stat_t).Uid)
}

// TestPutReplacesWhatIsNotOurs: a file is only left as it is if it is a plain one
// of our own.
func TestPutReplacesWhatIsNotOurs(t *testing.T) {
	conn := dial(t)
	data := []byte("content")
	put := func(name string) transport.PutResult {
		t.Helper()
		res, err := transport.Put(t.Context(), conn, name, transport.BytesFile("f", data), transport.PutOptions{Mode: 0o700})
		require.NoError(t, err)
		fi, err := os.Lstat(name)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), fi.Mode(), "a plain file")
		require.Equal(t, os.Geteuid(), uidOf(t, name), "others could change it later")
		requireFile(t, name, data)
		require.Len(t, names(t, filepath.Dir(name)), 1, "nothing else is left")
		return res
	}
	write := func(name string) string {
		require.NoError(t, os.WriteFile(name, data, 0o644))
		return name
	}
	require.EqualValues(t, len(data), put(write(t.TempDir()+"/f")).Kept)

	real, link := write(t.TempDir()+"/real"), t.TempDir()+"/f"
	require.NoError(t, os.Symlink(real, link))
	require.EqualValues(t, len(data), put(link).Sent)
	fi, err := os.Stat(real)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), fi.Mode(), "changed through the link")

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(dir+"/d", 0o700))
	require.NoError(t, os.Symlink(dir+"/d", dir+"/l"))
	_, err = transport.Put(t.Context(), conn, dir+"/l", transport.BytesFile("f", data), transport.PutOptions{})
	require.ErrorIs(t, err, fs.ErrExist, "a link to a directory")

	if os.Geteuid() == 0 { // only root can give files away
		strangers := write(t.TempDir() + "/f")
		require.NoError(t, os.Chown(strangers, 65534, 65534))
		require.EqualValues(t, len(data), put(strangers).Sent)
	}
}

// TestPutContinuesNothingOfOthers: a partial file that somebody may have put in
// the way is not written to.
func TestPutContinuesNothingOfOthers(t *testing.T) {
	data := content(large)
	for what, swap := range map[string]func(t *testing.T, part, victim string){
		"a stranger's": func(t *testing.T, part, _ string) {
			realtest.NeedRoot(t) // to give files away
			require.NoError(t, os.Chown(part, 65534, 65534))
		},
		"a symbolic link": func(t *testing.T, part, victim string) {
			require.NoError(t, os.Remove(part))
			require.NoError(t, os.Symlink(victim, part))
		},
		"a dangling link": func(t *testing.T, part, victim string) {
			require.NoError(t, os.Remove(part))
			require.NoError(t, os.Symlink(victim+"-none", part))
		},
		"another name of a file": func(t *testing.T, part, victim string) {
			require.NoError(t, os.Remove(part))
			require.NoError(t, os.Link(victim, part))
		},
		"a pipe": func(t *testing.T, part, _ string) {
			require.NoError(t, os.Remove(part))
			require.NoError(t, syscall.Mkfifo(part, 0o600))
		},
	} {
		t.Run(what, func(t *testing.T) {
			conn := dial(t)
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(dir+"/in", 0o700))
			victim := dir + "/victim"
			require.NoError(t, os.WriteFile(victim, data[:1000], 0o600))
			swap(t, interruptedPut(t, conn, dir+"/in/f", data), victim)
			res, err := transport.Put(t.Context(), conn, dir+"/in/f", transport.BytesFile("f", data), transport.PutOptions{})
			require.NoError(t, err)
			require.Zero(t, res.Kept)
			requireFile(t, dir+"/in/f", data)
			requireFile(t, victim, data[:1000])
			require.NoFileExists(t, victim+"-none")
			require.Equal(t, os.Geteuid(), uidOf(t, dir+"/in/f"))
			require.Equal(t, []string{"f"}, names(t, dir+"/in"))
		})
	}
}

func TestGetReadsPlainFilesAlone(t *testing.T) {
	conn := dial(t)
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(dir+"/pipe", 0o600))
	for _, name := range []string{dir + "/pipe", "/dev/zero", dir} {
		_, err := transport.Get(t.Context(), conn, name, io.Discard, transport.GetOptions{})
		require.ErrorIs(t, err, fs.ErrExist, name)
	}
	require.NoError(t, os.WriteFile(dir+"/f", []byte("x"), 0o600))
	require.NoError(t, os.Symlink("f", dir+"/link"))
	var b strings.Builder
	n, err := transport.Get(t.Context(), conn, dir+"/link", &b, transport.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	fi, err := transport.Stat(t.Context(), conn, dir+"/link")
	require.NoError(t, err)
	require.Equal(t, fs.ModeSymlink, fi.Mode.Type(), "Stat does not follow it")
}

func TestMkdirModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	conn := dial(t)
	dir := t.TempDir()
	require.NoError(t, transport.Mkdir(t.Context(), conn, dir+"/a/b/c", 0o311))
	for _, d := range []string{"/a", "/a/b", "/a/b/c"} {
		fi, err := os.Stat(dir + d)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o311), fi.Mode().Perm(), d)
	}
	require.NoError(t, transport.Mkdir(t.Context(), conn, dir+"/a/b", 0o755))
	fi, err := os.Stat(dir + "/a/b")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o311), fi.Mode().Perm(), "what exists is left as it is")
	require.NoError(t, os.Symlink(dir+"/none", dir+"/dangling"))
	require.ErrorIs(t, transport.Mkdir(t.Context(), conn, dir+"/dangling", 0o755), fs.ErrExist)
}

// TestErrorsOfTheSystem: the code is the system's, and the class follows from it.
func TestErrorsOfTheSystem(t *testing.T) {
	conn := dial(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/f", nil, 0o600))
	for _, tt := range []struct {
		err  error
		kind error
		code string
	}{
		{func() error { _, err := transport.Stat(t.Context(), conn, dir+"/none"); return err }(), fs.ErrNotExist, "ENOENT"},
		{func() error { _, err := transport.Stat(t.Context(), conn, dir+"/f/below"); return err }(), fs.ErrNotExist, "ENOTDIR"},
		{func() error { _, err := transport.List(t.Context(), conn, dir+"/f"); return err }(), transport.ErrRejected, "ENOTDIR"},
		{transport.Remove(t.Context(), conn, dir), fs.ErrExist, "ENOTEMPTY"},
		{transport.Mkdir(t.Context(), conn, dir+"/"+strings.Repeat("n", 300), 0o700), transport.ErrRejected, "ENAMETOOLONG"},
	} {
		require.ErrorIs(t, tt.err, tt.kind)
		require.Equal(t, transport.Code{Space: "errno", Value: tt.code}, transport.CodeOf(tt.err))
		require.Contains(t, tt.err.Error(), local.Address)
	}
	require.ErrorIs(t, transport.Remove(t.Context(), conn, "/"), transport.ErrInvalid)
	_, err := transport.Stat(context.Background(), conn, "a\x00b")
	require.ErrorIs(t, err, transport.ErrInvalid)
	fi, err := transport.Stat(t.Context(), conn, "/")
	require.NoError(t, err)
	require.Equal(t, "/", fi.Native)
}
