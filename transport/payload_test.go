package transport_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

func TestFileCheck(t *testing.T) {
	open := transport.BytesFile("x", nil).Open
	for _, name := range []string{"fw.bin", "dir/fw.bin", "..fw", "a b"} {
		require.NoError(t, transport.File{Name: name, Open: open}.Check(), "%q", name)
	}
	for _, name := range []string{"", "/fw", "../fw", "..", ".", "a/../b", "a//b", "a/", `a\b`, "a\x00b"} {
		require.ErrorIs(t, transport.File{Name: name, Open: open}.Check(), transport.ErrInvalid, "%q", name)
	}
	require.ErrorIs(t, transport.File{Name: "x", Size: -1, Open: open}.Check(), transport.ErrInvalid)
	require.ErrorIs(t, transport.File{Name: "x"}.Check(), transport.ErrInvalid)
}

func TestFilesOpenManyTimes(t *testing.T) {
	content := []byte("0123456789")
	filename := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(filename, content, 0o600))
	disk, err := transport.DiskFile(t.Context(), "f", filename)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	for _, f := range []transport.File{disk, transport.BytesFile("f", content)} {
		require.Equal(t, int64(10), f.Size)
		require.Equal(t, hex.EncodeToString(sum[:]), f.Digest())
		a, err := f.Open(t.Context())
		require.NoError(t, err)
		b, err := f.Open(t.Context())
		require.NoError(t, err)
		_, err = a.Seek(5, io.SeekStart)
		require.NoError(t, err)
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, content, got)
		got, err = io.ReadAll(a)
		require.NoError(t, err)
		require.Equal(t, content[5:], got)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
	require.Equal(t, int64(20), transport.Payload{Files: []transport.File{disk, disk}}.Size())
}

func TestDiskFileErrors(t *testing.T) {
	_, err := transport.DiskFile(t.Context(), "f", filepath.Join(t.TempDir(), "missing"))
	require.True(t, transport.IsNotExist(err))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	filename := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(filename, []byte("x"), 0o600))
	_, err = transport.DiskFile(ctx, "f", filename)
	require.ErrorIs(t, err, context.Canceled)
}

func TestDiskTree(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "vib20", "hpe"), 0o700))
	for name, content := range map[string]string{"index.xml": "<x/>", "vib20/hpe/a.vib": "vib", "vib20/empty": ""} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	require.NoError(t, os.Symlink("hpe/a.vib", filepath.Join(dir, "vib20", "link")))
	files, err := transport.DiskTree(t.Context(), dir)
	require.NoError(t, err)
	got := map[string]string{}
	for _, f := range files {
		require.NoError(t, f.Check())
		r, err := f.Open(t.Context())
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, sha256.Sum256(b), f.SHA256)
		got[f.Name] = string(b)
	}
	require.Equal(t, map[string]string{"index.xml": "<x/>", "vib20/hpe/a.vib": "vib", "vib20/empty": "", "vib20/link": "vib"}, got)

	require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(dir, "out")))
	_, err = transport.DiskTree(t.Context(), dir)
	require.Error(t, err, "a link that leads out")
	_, err = transport.DiskTree(t.Context(), filepath.Join(dir, "missing"))
	require.True(t, transport.IsNotExist(err))
}
