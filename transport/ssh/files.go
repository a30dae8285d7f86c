package ssh

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// File names are absolute; a name without a leading slash starts at the root all
// the same. Symbolic links in the directory part are followed, a link that a name
// itself denotes only by Get.

// clean returns the absolute form of a name, or an error.
func (k *call) clean(name string) (string, error) {
	if name == "" || strings.Contains(name, "\x00") {
		return "", k.c.invalid(k.op, name, "not a file name")
	}
	return path.Clean("/" + name), nil
}

func join(dir, name string) string { return path.Join(dir, name) }

// file starts a call on a file, and returns its absolute name.
func (c *conn) file(ctx context.Context, op, name string) (*call, string, error) {
	k, err := c.begin(ctx, op, name)
	if err != nil {
		return nil, "", err
	}
	abs, err := k.clean(name)
	if err != nil {
		k.end()
		return nil, "", err
	}
	return k, abs, nil
}

// viaSFTP returns the SFTP client with which files are looked after, or nil if
// that is left to the shell.
func (k *call) viaSFTP() (*sftpClient, error) {
	if k.c.shell && k.c.opts.Elevate != NoElevation {
		return nil, nil
	}
	s, err := k.c.sftp(k.ctx)
	if err != nil && k.c.shell && k.ctx.Err() == nil && !k.c.lost() {
		return nil, nil
	}
	return s, err
}

// overSFTP runs f with the SFTP client with which files are looked after; ok is
// false where that is left to the shell. A server may close a session that nobody
// has used for a while (ChannelTimeout of sshd_config(5)) just when it is used again,
// and leave the connection open: then f runs once more, with a new session, unless it
// has set changed, as it must before its first request that changes anything.
func overSFTP[T any](k *call, f func(s *sftpClient, changed *bool) (T, error)) (v T, ok bool, err error) {
	for again := true; ; again = false {
		s, err := k.viaSFTP()
		if err != nil {
			return v, true, k.fail(err)
		}
		if s == nil {
			return v, false, nil
		}
		changed := false
		v, err = do(k.ctx, k.c, func() (T, error) { return f(s, &changed) }, nil)
		if !again || k.ctx.Err() != nil || !s.over(err) || changed {
			return v, true, k.sftpFail(s, err)
		}
	}
}

// Stat implements transport.FileStore. It does not follow a symbolic link.
func (c *conn) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	k, abs, err := c.file(ctx, "stat", name)
	if err != nil {
		return transport.FileInfo{}, err
	}
	defer k.end()
	fi, ok, err := overSFTP(k, func(s *sftpClient, _ *bool) (fs.FileInfo, error) { return s.Lstat(abs) })
	if err != nil {
		return transport.FileInfo{}, err
	}
	if ok {
		return infoOf(path.Dir(abs), path.Base(abs), fi), nil
	}
	out, err := k.script(statScript, abs, baseOf(abs))
	if err != nil {
		return transport.FileInfo{}, err
	}
	return k.oneRecord(out, abs)
}

// baseOf is the last part of a name, as records can hold it.
func baseOf(abs string) string {
	if abs == "/" {
		return "."
	}
	return path.Base(abs)
}

func (k *call) oneRecord(out, abs string) (transport.FileInfo, error) {
	recs, err := parseRecords(out)
	if err == nil && len(recs) != 1 {
		err = fmt.Errorf("%w: %d records instead of one", errRecord, len(recs))
	}
	if err != nil {
		return transport.FileInfo{}, k.fail(err)
	}
	fi := recs[0].info(path.Dir(abs))
	fi.Name, fi.Native = path.Base(abs), abs
	return fi, nil
}

// List implements transport.FileStore.
func (c *conn) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	k, abs, err := c.file(ctx, "list", dir)
	if err != nil {
		return nil, err
	}
	defer k.end()
	// The context also ends the sequence of requests behind our back.
	entries, ok, err := overSFTP(k, func(s *sftpClient, _ *bool) ([]fs.FileInfo, error) { return s.readDir(k.ctx, abs, maxDir) })
	if err != nil {
		return nil, err
	}
	var list []transport.FileInfo
	if ok {
		for _, fi := range entries {
			list = append(list, infoOf(abs, fi.Name(), fi))
		}
	} else {
		out, err := k.script(listScript, abs)
		if err != nil {
			return nil, err
		}
		body, ok := strings.CutSuffix(out, "e\x00")
		recs, err := parseRecords(body)
		if err == nil && !ok {
			err = fmt.Errorf("%w: the list is cut short", errRecord)
		}
		if err != nil {
			return nil, k.fail(err)
		}
		for _, r := range recs {
			list = append(list, r.info(abs))
		}
	}
	sortByName(list)
	return list, nil
}

// Mkdir implements transport.FileStore.
func (c *conn) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	k, abs, err := c.file(ctx, "mkdir", dir)
	if err != nil {
		return err
	}
	defer k.end()
	_, ok, err := overSFTP(k, func(s *sftpClient, changed *bool) (struct{}, error) {
		return struct{}{}, s.mkdirAll(k.ctx, abs, perm.Perm(), changed)
	})
	if ok {
		return err
	}
	_, err = k.script(mkdirScript, abs, octal(perm))
	return err
}

// Remove implements transport.FileStore.
func (c *conn) Remove(ctx context.Context, name string) error {
	k, abs, err := c.file(ctx, "remove", name)
	if err != nil {
		return err
	}
	defer k.end()
	if abs == "/" {
		return c.invalid("remove", name, "this is the root of the file system")
	}
	_, ok, err := overSFTP(k, func(s *sftpClient, changed *bool) (struct{}, error) {
		return struct{}{}, s.remove(abs, changed)
	})
	if ok {
		return err
	}
	_, err = k.script(removeScript, abs)
	return err
}

// Get implements transport.FileStore. It follows symbolic links.
func (c *conn) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	k, abs, err := c.file(ctx, "get", name)
	if err != nil {
		return 0, err
	}
	defer k.end()
	if opts.Offset < 0 || opts.Limit < 0 {
		return 0, c.invalid("get", name, "Offset and Limit are not below 0")
	}
	n := &counter{w: w}
	watch := newStall(c.opts.StallTimeout, k.cancel)
	defer watch.stop()
	if c.shell {
		err = k.shellGet(abs, n, opts, watch)
	} else {
		err = k.sftpGet(abs, n, opts, watch)
	}
	return n.sum(), err
}

func (k *call) shellGet(abs string, w io.Writer, opts transport.GetOptions, watch *stall) error {
	var errs head
	errs.limit = 4096
	n := &counter{w: w}
	exit, err := k.exec(task{
		script: scriptWith(getScript, abs, strconv.FormatInt(opts.Offset+1, 10), strconv.FormatInt(opts.Limit, 10)),
		stdout: n, stderr: &errs, stallOut: watch,
	})
	if err == nil && exit == (transport.Exit{}) && opts.Limit > 0 && n.sum() < opts.Limit && errs.Len() > 0 {
		exit.Code = exitOther // the first program of a pipe failed, of which the shell does not tell
	}
	if err == nil && exit != (transport.Exit{}) {
		err = k.exitError(exit, errs.String())
	}
	return err
}

// Put implements transport.FileStore. If name holds the content already, nothing
// is sent. The partial file is named after name and content.
func (c *conn) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (transport.PutResult, error) {
	k, abs, err := c.file(ctx, "put", name)
	if err != nil {
		return transport.PutResult{}, err
	}
	defer k.end()
	switch {
	case f.Size < 0 || f.Open == nil:
		return transport.PutResult{}, c.invalid("put", name, "the file has no Open function, or a negative size")
	case abs == "/":
		return transport.PutResult{}, c.invalid("put", name, "this is a directory")
	}
	if opts.Mode == 0 {
		opts.Mode = 0o600
	}
	p := &put{k: k, abs: abs, part: partName(abs, f), f: f, opts: opts, progressing: newTurn()}
	unlock, err := c.lockPut(k.ctx, p.part)
	if err != nil {
		return transport.PutResult{}, k.fail(err)
	}
	defer unlock()
	if p.src, err = p.open(k.ctx); err != nil {
		return transport.PutResult{}, err
	}
	defer p.src.close()
	defer p.hush()
	watch := newStall(c.opts.StallTimeout, k.cancel)
	defer watch.stop()
	if c.shell {
		err = p.shell(watch)
	} else {
		err = p.sftp(watch)
	}
	res := transport.PutResult{Sent: p.sent.Load(), Kept: p.kept.Load()}
	if err != nil {
		return res, err
	}
	res.Info = p.info
	return res, nil
}

// partName is the name of the partial file: hidden, in the same directory, the
// same for the same name and content, and no longer than file systems allow.
func partName(abs string, f transport.File) string {
	dir, base := path.Split(abs)
	sum := sha256.New()
	_, _ = io.WriteString(sum, base+"\x00"+strconv.FormatInt(f.Size, 10)+"\x00")
	_, _ = sum.Write(f.SHA256[:])
	if len(base) > 200 {
		base = base[:200]
	}
	return dir + "." + base + "." + hex.EncodeToString(sum.Sum(nil)[:8]) + ".part"
}

// lockPut lets one Put at a time write a partial file.
func (c *conn) lockPut(ctx context.Context, part string) (func(), error) {
	mine := make(chan struct{})
	for {
		other, taken := c.puts.LoadOrStore(part, mine)
		if !taken {
			return func() {
				c.puts.Delete(part)
				close(mine)
			}, nil
		}
		select {
		case <-other.(chan struct{}):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func octal(m fs.FileMode) string { return strconv.FormatUint(uint64(m.Perm()), 8) }
