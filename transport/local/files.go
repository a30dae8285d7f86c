package local

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// file starts a call on a file, and returns its native path. Symbolic links in
// the directory part are followed, a link that a name itself denotes only by Get.
func (c *conn) file(ctx context.Context, op, name string) (*call, string, error) {
	k, err := c.begin(ctx, op, name)
	if err != nil {
		return nil, "", err
	}
	file, hint := native(name)
	if hint != "" {
		k.end()
		return nil, "", k.invalid(hint)
	}
	return k, file, nil
}

// sameName reports whether a path is the one that a name stands for.
func sameName(file, name string) bool {
	mine, hint := native(name)
	return hint == "" && mine == file
}

func infoOf(file string, fi fs.FileInfo) transport.FileInfo {
	return transport.FileInfo{Name: baseOf(file), Native: file, Size: fi.Size(), Mode: fi.Mode(), ModTime: fi.ModTime()}
}

// baseOf is the last part of a path; a root's is "/".
func baseOf(file string) string {
	if isRoot(file) {
		return "/"
	}
	return filepath.Base(file)
}

// Stat implements transport.FileStore. It does not follow a symbolic link.
func (c *conn) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	k, file, err := c.file(ctx, "stat", name)
	if err != nil {
		return transport.FileInfo{}, err
	}
	defer k.end()
	return do(k, func() (transport.FileInfo, error) {
		fi, err := os.Lstat(file)
		if err != nil {
			return transport.FileInfo{}, err
		}
		return infoOf(file, fi), nil
	})
}

// List implements transport.FileStore.
func (c *conn) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	k, file, err := c.file(ctx, "list", dir)
	if err != nil {
		return nil, err
	}
	defer k.end()
	return do(k, func() ([]transport.FileInfo, error) {
		entries, err := os.ReadDir(file)
		if err != nil {
			if fi, serr := os.Stat(file); serr == nil && !fi.IsDir() {
				return nil, &transport.Error{Kind: transport.ErrRejected, Code: codeOf(err), Hint: "not a directory"}
			}
			return nil, err
		}
		out := make([]transport.FileInfo, 0, len(entries))
		for _, e := range entries {
			if err := k.ctx.Err(); err != nil {
				return nil, err
			}
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went in the meantime
			}
			if err != nil {
				return nil, err
			}
			out = append(out, infoOf(filepath.Join(file, e.Name()), fi))
		}
		slices.SortFunc(out, func(a, b transport.FileInfo) int { return cmp.Compare(a.Name, b.Name) })
		return out, nil
	})
}

// Mkdir implements transport.FileStore.
func (c *conn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	k, file, err := c.file(ctx, "mkdir", dir)
	if err != nil {
		return err
	}
	defer k.end()
	_, err = do(k, func() (struct{}, error) { return struct{}{}, mkdirAll(k.ctx, file, perm.Perm()) })
	return err
}

func occupied() error {
	return &transport.Error{Kind: fs.ErrExist, Hint: "something of another kind has this name"}
}

// mkdirAll makes a directory and the missing ones above it.
func mkdirAll(ctx context.Context, dir string, perm fs.FileMode) error {
	var missing []string // deepest first
	for d := dir; ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		switch {
		case err == nil && fi.IsDir():
		case err == nil && d == dir:
			return occupied()
		case err == nil:
			return &transport.Error{Kind: transport.ErrRejected, Hint: d + " is not a directory"}
		case classOf(err) != fs.ErrNotExist || isRoot(d):
			return err
		default:
			missing = append(missing, d)
			continue
		}
		break
	}
	var made []string // deepest last
	for _, d := range slices.Backward(missing) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := os.Mkdir(d, 0o700); err != nil {
			if fi, serr := os.Stat(d); serr == nil && fi.IsDir() {
				continue // somebody else was faster
			}
			return err
		}
		made = append(made, d)
	}
	// Now, and from below: a mode without access would have got in the way.
	for _, d := range slices.Backward(made) {
		if err := setDirMode(d, perm); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements transport.FileStore.
func (c *conn) Remove(ctx context.Context, name string) error {
	k, file, err := c.file(ctx, "remove", name)
	if err != nil {
		return err
	}
	defer k.end()
	if isRoot(file) {
		return k.invalid("this is the root of the file system")
	}
	_, err = do(k, func() (struct{}, error) {
		err := os.Remove(file)
		if errors.Is(err, fs.ErrExist) {
			return struct{}{}, &transport.Error{Kind: fs.ErrExist, Code: codeOf(err), Hint: "the directory is not empty"}
		}
		return struct{}{}, err
	})
	return err
}

// Get implements transport.FileStore. It follows symbolic links, and reads plain
// files alone: a pipe or a device may have no end.
func (c *conn) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	k, file, err := c.file(ctx, "get", name)
	if err != nil {
		return 0, err
	}
	defer k.end()
	if opts.Offset < 0 || opts.Limit < 0 {
		return 0, k.invalid("Offset and Limit are not below 0")
	}
	var n atomic.Int64
	_, err = do(k, func() (struct{}, error) { return struct{}{}, k.get(file, w, opts, &n) })
	return n.Load(), err
}

func (k *call) get(file string, w io.Writer, opts transport.GetOptions, n *atomic.Int64) error {
	fi, err := os.Stat(file) // before it is opened, which would wait for the other end of a pipe
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return &transport.Error{Kind: fs.ErrExist, Hint: "this is no plain file"}
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(opts.Offset, io.SeekStart); err != nil {
		return err
	}
	var r io.Reader = f
	if opts.Limit > 0 {
		r = io.LimitReader(f, opts.Limit)
	}
	return k.copy(r, func(p []byte) error {
		m, err := w.Write(p)
		n.Add(int64(max(0, m)))
		if err == nil && m < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return &streamError{err}
		}
		return nil
	})
}

// block is how many bytes are moved at a time.
const block = 256 << 10

// copy passes what r has to write, until r ends or the call does.
func (k *call) copy(r io.Reader, write func(p []byte) error) error {
	buf := make([]byte, block)
	for {
		if err := k.ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		// Again: whoever has been kept waiting for long has no use for it any more.
		if n > 0 && k.ctx.Err() == nil {
			if werr := write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
