package smb

import (
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// Attributes of files (MS-FSCC, section 2.6).
const (
	attrReadOnly  = 0x1
	attrDirectory = 0x10
	attrReparse   = 0x400
)

// linkShare is a share with links as Windows has them and Samba does not show them: what is
// opened is what a link leads to, and what is looked at, renamed or removed is the link.
type linkShare struct {
	volume
	files map[string]uint32 // attributes by name
	to    map[string]string // what links lead to
	deny  map[string]bool   // names that may be neither renamed nor removed
	fail  func(from, to string) error
}

func (w *linkShare) stat(name string) (os.FileInfo, error) {
	attrs, ok := w.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &smb2.FileStat{FileName: name[strings.LastIndexByte(name, '\\')+1:], FileAttributes: attrs}, nil
}

func (w *linkShare) rename(from, to string) error {
	if w.fail != nil {
		if err := w.fail(from, to); err != nil {
			return err
		}
	}
	attrs, ok := w.files[from]
	_, taken := w.files[to]
	switch {
	case !ok:
		return fs.ErrNotExist
	case w.deny[from]:
		return fs.ErrPermission
	case from == to:
		return nil
	case taken:
		return fs.ErrExist
	}
	delete(w.files, from)
	w.files[to] = attrs
	return nil
}

func (w *linkShare) remove(name string) error { return removeItself((*linkLibrary)(w), name) }

// list returns what is below a directory, also of one that a link leads to.
func (w *linkShare) open(name string) (file, error) {
	if to, ok := w.to[name]; ok {
		name = to
	}
	dir := &linkDir{own: &smb2.FileStat{FileAttributes: w.files[name] | attrDirectory}}
	for _, f := range slices.Sorted(maps.Keys(w.files)) {
		if parent(f) == name {
			fi, _ := w.stat(f)
			dir.entries = append(dir.entries, fi)
		}
	}
	return dir, nil
}

type linkDir struct {
	file
	own     os.FileInfo
	entries []os.FileInfo
}

func (d *linkDir) Stat() (os.FileInfo, error) { return d.own, nil }
func (d *linkDir) Close() error               { return nil }

func (d *linkDir) Readdir(int) ([]os.FileInfo, error) { return d.entries, io.EOF }

// linkLibrary does as the library does.
type linkLibrary linkShare

func (w *linkLibrary) Lstat(name string) (os.FileInfo, error) { return (*linkShare)(w).stat(name) }
func (w *linkLibrary) Rename(from, to string) error           { return (*linkShare)(w).rename(from, to) }

func (w *linkLibrary) Remove(name string) error {
	attrs, ok := w.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	for f := range w.files {
		if parent(f) == name && attrs&attrReparse == 0 {
			return &smb2.ResponseError{Code: statusNotEmpty}
		}
	}
	if attrs&attrReadOnly != 0 || w.deny[name] {
		target := name
		if to, ok := w.to[name]; ok {
			target = to
		}
		w.files[target] &^= attrReadOnly
		if w.files[name]&attrReadOnly != 0 || w.deny[name] {
			return fs.ErrPermission
		}
	}
	delete(w.files, name)
	return nil
}

// A link is removed itself, and what it leads to stays as it is, whatever the server
// says of the link.
func TestRemoveLink(t *testing.T) {
	t.Parallel()
	start := func() (*linkShare, transport.Conn) {
		w := &linkShare{files: map[string]uint32{
			"dir": attrDirectory, `dir\file`: attrReadOnly, "plain": attrReadOnly,
			"run": attrDirectory, `run\tofile`: attrReparse, `run\junction`: attrReparse | attrDirectory,
		}, to: map[string]string{`run\tofile`: `dir\file`, `run\junction`: "dir"}, deny: map[string]bool{}}
		c := newConn("db1", Options{ShareRoot: `C:\Windows`}, hung{}, w)
		t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
		return w, c
	}
	kept := func(w *linkShare) {
		t.Helper()
		require.EqualValues(t, attrDirectory, w.files["dir"])
		require.EqualValues(t, attrReadOnly, w.files[`dir\file`])
	}
	w, c := start()
	fi, err := transport.Stat(t.Context(), c, "run/junction")
	require.NoError(t, err)
	require.False(t, fi.IsDir(), "nobody is to look for files behind it")
	require.Equal(t, fs.ModeSymlink, fi.Mode.Type())
	require.NoError(t, transport.RemoveAll(t.Context(), c, "run"))
	require.Equal(t, []string{"dir", `dir\file`, "plain"}, slices.Sorted(maps.Keys(w.files)))
	kept(w)
	require.NoError(t, transport.Remove(t.Context(), c, "plain"), "what is no link")

	for _, link := range []string{"run/tofile", "run/junction"} {
		name := strings.ReplaceAll(link, "/", `\`)
		w, c = start()
		w.files[name] |= attrReadOnly
		err = transport.RemoveAll(t.Context(), c, link)
		require.ErrorIs(t, err, transport.ErrRejected)
		require.ErrorContains(t, err, "attrib")
		kept(w)
		w, _ = start()
		w.deny[name] = true
		require.ErrorIs(t, w.remove(name), fs.ErrPermission)
		kept(w)
	}
}

// What cannot get the name of another file leaves that where it was.
func TestReplaceFileFails(t *testing.T) {
	t.Parallel()
	old := oldName("x")
	start := func(stale bool) *linkShare {
		w := &linkShare{files: map[string]uint32{"x": 1 << 20, "part": 2 << 20}}
		if stale {
			w.files[old] = 3 << 20
		}
		return w
	}
	for _, stale := range []bool{false, true} {
		w := start(stale)
		replaced, err := replaceFile(w, "part", "x")
		require.NoError(t, err)
		require.True(t, replaced)
		require.EqualValues(t, 2<<20, w.files["x"])
		require.EqualValues(t, 1<<20, w.files[old])
		require.NoError(t, tidy(w, "x"))
		require.Len(t, w.files, 1)

		// The second rename of the new file fails, for a reason, or since there is one again.
		for _, why := range []error{fs.ErrPermission, fs.ErrExist} {
			w := start(stale)
			tries := 0
			w.fail = func(from, _ string) error {
				if from == "part" {
					if tries++; tries == 2 {
						return why
					}
				}
				return nil
			}
			_, err := replaceFile(w, "part", "x")
			require.ErrorIs(t, err, why)
			require.Equal(t, why == fs.ErrExist, inUse(err) && transport.Temporary(explain(&transport.Error{}, err)))
			require.EqualValues(t, 1<<20, w.files["x"], "it has its name again")
			require.EqualValues(t, 2<<20, w.files["part"])
		}
		// The old one cannot be moved, or is gone.
		w = start(stale)
		w.fail = func(from, _ string) error {
			if from == "x" {
				return &smb2.ResponseError{Code: statusSharing}
			}
			return nil
		}
		_, err = replaceFile(w, "part", "x")
		require.True(t, inUse(err))
		require.EqualValues(t, 1<<20, w.files["x"])
	}
}
