package smb

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// directory is one that goes with the test. Wine 8 does not do what os.RemoveAll asks for.
func directory(t *testing.T) string {
	dir, err := os.MkdirTemp("", "smb")
	require.NoError(t, err)
	t.Cleanup(func() {
		var names []string
		require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			names = append(names, name)
			return err
		}))
		for _, name := range slices.Backward(names) {
			require.NoError(t, os.Remove(name))
		}
	})
	return dir
}

// The share of the operating system's own client behaves as that of the library: a rename
// replaces nothing. Here it is a directory of this host.
func TestNativeRename(t *testing.T) {
	v := nativeVolume(directory(t))
	write := func(name, content string) { require.NoError(t, os.WriteFile(v.path(name), []byte(content), 0o600)) }
	read := func(name string) string {
		b, err := os.ReadFile(v.path(name))
		require.NoError(t, err)
		return string(b)
	}
	write("a", "first")
	write("b", "second")
	require.ErrorIs(t, v.rename("a", "b"), fs.ErrExist)
	require.Equal(t, "first", read("a"))
	require.Equal(t, "second", read("b"))
	require.ErrorIs(t, v.rename("none", "c"), fs.ErrNotExist)
	require.ErrorIs(t, v.rename("none", "b"), fs.ErrNotExist)
	require.NoError(t, v.rename("a", "c"))
	require.Equal(t, "first", read("c"))
	require.NoError(t, v.rename("c", "c"))

	// Where paths are longer than the rest of Windows takes them.
	dir := strings.Repeat("d", 200)
	require.NoError(t, v.mkdir(dir))
	long := dir + `\` + strings.Repeat("f", 200)
	write(long, "third")
	require.ErrorIs(t, v.rename(long, "c"), fs.ErrExist)
	require.NoError(t, v.rename(long, long+"2"))
	require.Equal(t, "third", read(long+"2"))
}

// A file is replaced there as on any other share.
func TestNativeReplaces(t *testing.T) {
	v := nativeVolume(directory(t))
	write := func(name, content string) { require.NoError(t, os.WriteFile(v.path(name), []byte(content), 0o600)) }
	only := func(content string) {
		t.Helper()
		entries, err := os.ReadDir(string(v))
		require.NoError(t, err)
		require.Len(t, entries, 1)
		b, err := os.ReadFile(v.path("x.exe"))
		require.NoError(t, err)
		require.Equal(t, content, string(b))
	}
	write("x.exe", "old")
	write(asideName("x.exe"), "older")
	write("part", "new")
	require.NoError(t, (&swap{v: v, part: "part", file: "x.exe"}).try())
	only("new")
	require.NoError(t, v.rename("x.exe", asideName("x.exe")))
	last, err := (&swap{v: v, file: "x.exe"}).giveBack()
	require.NoError(t, err)
	require.NotEmpty(t, last)
	only("new")
}

func TestLongPath(t *testing.T) {
	long := strings.Repeat("x", 300)
	for in, want := range map[string]string{
		`\\db1\ADMIN$\x`: `\\db1\ADMIN$\x`, `\\db1\ADMIN$\` + long: `\\?\UNC\db1\ADMIN$\` + long, `C:\` + long: `\\?\C:\` + long,
		`\\?\C:\` + long: `\\?\C:\` + long,
	} {
		require.Equal(t, want, longPath(in))
	}
}
