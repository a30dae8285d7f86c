package transporttest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/roundsman-go/roundsman/transport"
)

// chunk is how many bytes a transfer moves at a time.
const chunk = 32 << 10

// fsError puts what the file system said into the error of a call.
func (c *conn) fsError(op, name string, err error) error {
	var te *transport.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te):
		return err
	case errors.Is(err, errBadName):
		return c.fail(op, name, transport.ErrInvalid, err)
	case errors.Is(err, errIsDir), errors.Is(err, errNotDir), errors.Is(err, errNotEmpty):
		return c.fail(op, name, transport.ErrRejected, err)
	}
	return c.fail(op, name, err, nil)
}

// file runs f as a call on the file system.
func (c *conn) file(ctx context.Context, op, name string, f func(k *call) error) (err error) {
	k, err := c.use(ctx, op, name, transport.CapFiles)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	err = f(k)
	if err != nil {
		err = c.fsError(op, name, err)
	}
	return err
}

// Stat implements transport.FileStore.
func (c *conn) Stat(ctx context.Context, name string) (fi transport.FileInfo, err error) {
	err = c.file(ctx, "stat", name, func(*call) (err error) {
		fi, err = c.t.fs.stat(name)
		return err
	})
	return fi, err
}

// List implements transport.FileStore.
func (c *conn) List(ctx context.Context, dir string) (list []transport.FileInfo, err error) {
	err = c.file(ctx, "list", dir, func(*call) (err error) {
		list, err = c.t.fs.list(dir)
		return err
	})
	return list, err
}

// Mkdir implements transport.FileStore.
func (c *conn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	return c.file(ctx, "mkdir", dir, func(*call) error { return c.t.fs.mkdir(dir, perm) })
}

// Remove implements transport.FileStore.
func (c *conn) Remove(ctx context.Context, name string) error {
	return c.file(ctx, "remove", name, func(*call) error { return c.t.fs.remove(name) })
}

// Get implements transport.FileStore.
func (c *conn) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (total int64, err error) {
	if opts.Offset < 0 || opts.Limit < 0 {
		return 0, c.invalid(ctx, "get", name, "negative offset or limit")
	}
	err = c.file(ctx, "get", name, func(k *call) error {
		buf := make([]byte, chunk)
		for {
			p := buf
			if opts.Limit > 0 {
				p = p[:min(int64(len(p)), opts.Limit-total)]
			}
			n, err := c.t.fs.readAt(name, p, opts.Offset+total)
			if err != nil || n == 0 {
				return err
			}
			if n, err = k.move(ctx, n); err != nil {
				return err
			}
			n, err = w.Write(p[:n])
			total += int64(n)
			if err != nil {
				return c.fail("get", name, nil, fmt.Errorf("writing on the manager: %w", err))
			}
		}
	})
	return total, err
}

// Put implements transport.FileStore.
func (c *conn) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (res transport.PutResult, err error) {
	if f.Open == nil || f.Size < 0 {
		return res, c.invalid(ctx, "put", name, "the file has no Open function or a negative size")
	}
	if opts.Mode == 0 {
		opts.Mode = 0o600
	}
	err = c.file(ctx, "put", name, func(k *call) error {
		partial := path.Join(path.Dir(path.Clean("/"+name)), "."+f.Digest()[:24]+".part")
		kept, err := c.t.fs.openPartial(partial, name, f.Size)
		if err != nil {
			return err
		}
		useless := false
		defer func() { c.t.fs.closePartial(partial, useless) }()
		res.Kept = kept
		if res.Sent, err = c.send(ctx, k, name, partial, f, kept, opts.Progress); err != nil {
			return err
		}
		content, err := c.t.fs.read(partial)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(content); sum != f.SHA256 {
			useless = true
			return c.fail("put", name, transport.ErrIntegrity, fmt.Errorf("SHA-256 on the target is %x, want %s", sum, f.Digest()))
		}
		if err := c.state(ctx, "put", name); err != nil {
			return err
		}
		res.Info, err = c.t.fs.rename(partial, name, opts.Mode.Perm())
		return err
	})
	return res, err
}

// send copies f from where the partial file ends.
func (c *conn) send(ctx context.Context, k *call, name, partial string, f transport.File, from int64, progress func(int64)) (sent int64, err error) {
	local := func(what string, err error) error {
		return c.fail(k.op, name, nil, fmt.Errorf("%s on the manager: %w", what, err))
	}
	r, err := f.Open(ctx)
	if err != nil {
		return 0, local("opening", err)
	}
	defer r.Close()
	if _, err := r.Seek(from, io.SeekStart); err != nil {
		return 0, local("seeking", err)
	}
	buf := make([]byte, chunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		for p := buf[:n]; len(p) > 0; {
			n, err := k.move(ctx, len(p))
			if err != nil {
				return sent, err
			}
			if from+sent+int64(n) > f.Size {
				return sent, c.fail(k.op, name, transport.ErrInvalid, fmt.Errorf("the file is longer than %d bytes", f.Size))
			}
			if err := c.t.fs.appendTo(partial, p[:n]); err != nil {
				return sent, err
			}
			sent += int64(n)
			p = p[n:]
			if progress != nil {
				progress(from + sent)
			}
		}
		switch {
		case errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF):
			if from+sent < f.Size {
				return sent, c.fail(k.op, name, transport.ErrIntegrity, fmt.Errorf("the file ends after %d of %d bytes", from+sent, f.Size))
			}
			return sent, c.state(ctx, k.op, name)
		case rerr != nil:
			return sent, local("reading", rerr)
		}
	}
}
