package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Put implements transport.FileStore. If name holds the content already, only its
// permissions are set. The partial file is named after name and content. Of several
// that would write it at once one does, and the others wait for it.
func (c *conn) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (transport.PutResult, error) {
	k, file, err := c.file(ctx, "put", name)
	if err != nil {
		return transport.PutResult{}, err
	}
	defer k.end()
	switch {
	case f.Size < 0 || f.Open == nil:
		return transport.PutResult{}, k.invalid("the file has no Open function, or a negative size")
	case isRoot(file):
		return transport.PutResult{}, k.invalid("this is a directory")
	}
	if opts.Mode == 0 {
		opts.Mode = 0o600
	}
	p := &put{call: k, file: file, part: partName(file, f), f: f, opts: opts}
	info, err := do(k, p.run)
	return transport.PutResult{Info: info, Sent: p.sent.Load(), Kept: p.kept.Load()}, err
}

// put is one Put.
type put struct {
	*call
	file, part string
	f          transport.File
	opts       transport.PutOptions

	kept, sent atomic.Int64
	reported   int64
}

// partName is the name of the partial file: hidden, in the same directory, the
// same for the same name and content, and no longer than file systems allow.
func partName(file string, f transport.File) string {
	dir, base := filepath.Split(file)
	sum := sha256.New()
	_, _ = io.WriteString(sum, base+"\x00"+strconv.FormatInt(f.Size, 10)+"\x00")
	_, _ = sum.Write(f.SHA256[:])
	if len(base) > 200 {
		base = base[:200]
	}
	return dir + "." + base + "." + hex.EncodeToString(sum.Sum(nil)[:8]) + ".part"
}

func (p *put) run() (transport.FileInfo, error) {
	src, err := p.f.Open(p.ctx)
	if err != nil {
		return transport.FileInfo{}, sourceError(err)
	}
	defer src.Close()
	if fi, err := os.Stat(p.file); err == nil && fi.IsDir() {
		return transport.FileInfo{}, occupied()
	}
	for tries := 0; tries < maxTries; {
		if p.ready() {
			p.discard()
			p.kept.Store(p.f.Size)
			return p.done()
		}
		switch err = p.write(src); {
		case err == nil:
			return p.done()
		case errors.Is(err, errGone):
		case errors.Is(err, errRemoved):
			tries++
		case errors.Is(err, transport.ErrIntegrity) && p.kept.Load() > 0:
			// What was there before was not what it should have been.
			tries++
		default:
			return transport.FileInfo{}, err
		}
	}
	return transport.FileInfo{}, err
}

// maxTries is how often a Put begins anew because of what others do to its partial
// file.
const maxTries = 5

var (
	errRemoved = &transport.Error{Kind: transport.ErrBusy, Hint: "somebody removes the partial file again and again"}
	errGone    = errors.New("the Put that had the partial file has ended")
)

// write completes the partial file and gives it its name, or removes it if it is
// of no use. All that time the file is locked: another Put that had it open could
// otherwise go on to write it under its new name, and with another source than it
// should have, change what has been verified.
func (p *put) write(src io.ReadSeeker) (err error) {
	part, err := p.partial()
	if err != nil {
		return err
	}
	defer part.Close()
	// Also while the source hangs: whoever waits for the file shall have it then.
	stop := context.AfterFunc(p.ctx, func() { _ = part.Close() })
	defer stop()
	err = p.fill(part, src)
	switch {
	case errors.Is(err, transport.ErrIntegrity):
		if !p.isPart(part) || os.Remove(p.part) == nil {
			return err
		}
		_ = part.Close() // on Windows what is open keeps its name
		_ = os.Remove(p.part)
		return err
	case err != nil:
		return err
	case !stop():
		return p.ctx.Err()
	case !p.isPart(part):
		return errRemoved
	}
	if runtime.GOOS == "windows" {
		// Whoever opens it now finds it complete, and writes nothing.
		if err := part.Close(); err != nil {
			return err
		}
	}
	return p.rename()
}

// discard removes the partial file, unless another Put has it.
func (p *put) discard() {
	if f, _, err := openOwn(p.part, os.O_RDWR); err == nil {
		mine, err := tryLock(f)
		_ = f.Close()
		if !mine && err == nil {
			return
		}
	}
	_ = os.Remove(p.part)
}

// isPart reports whether a file that is open is the partial file.
func (p *put) isPart(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(p.part)
	return err == nil && os.SameFile(fi, named)
}

// rename gives the partial file its name.
func (p *put) rename() error {
	err := os.Rename(p.part, p.file)
	// On Windows a file that somebody has open keeps its name, and virus scanners
	// open everything that is new, for a moment.
	pause := time.Millisecond
	for end := time.Now().Add(busyTime); err != nil && inUse(err) && p.ctx.Err() == nil && time.Now().Before(end); pause *= 2 {
		time.Sleep(min(pause, 100*time.Millisecond))
		err = os.Rename(p.part, p.file)
	}
	switch {
	case err == nil:
		return syncDir(filepath.Dir(p.file))
	case errors.Is(err, fs.ErrNotExist):
		return errRemoved // it may be another Put of the same content, which has finished
	}
	return err
}

// sourceError is an error of the file that is to be sent.
func sourceError(err error) error {
	return &streamError{fmt.Errorf("reading the file to send: %w", err)}
}

func (p *put) done() (transport.FileInfo, error) {
	fi, err := os.Lstat(p.file)
	if err != nil {
		return transport.FileInfo{}, err
	}
	p.sent.Store(p.f.Size - p.kept.Load())
	p.progress(p.f.Size)
	return infoOf(p.file, fi), nil
}

func (p *put) progress(done int64) {
	if p.opts.Progress != nil && done > p.reported && p.ctx.Err() == nil {
		p.reported = done
		p.opts.Progress(done)
	}
}

// ready reports whether the file has the content already, and gives it its
// permissions. A file of others, or a link, is replaced: they could change it
// later.
func (p *put) ready() bool {
	f, fi, err := openOwn(p.file, os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	if fi.Size() != p.f.Size {
		return false
	}
	sum := sha256.New()
	return p.hash(f, sum) == nil && p.matches(sum) && setMode(f, p.opts.Mode.Perm()) == nil
}

func (p *put) matches(sum hash.Hash) bool { return [sha256.Size]byte(sum.Sum(nil)) == p.f.SHA256 }

func (p *put) hash(r io.Reader, sum hash.Hash) error {
	return p.copy(r, func(b []byte) error { _, err := sum.Write(b); return err })
}

// fill completes the partial file.
func (p *put) fill(part *os.File, src io.ReadSeeker) error {
	sum := sha256.New()
	at := p.kept.Load()
	if err := p.hash(io.NewSectionReader(part, 0, at), sum); err != nil {
		return err
	}
	if _, err := src.Seek(at, io.SeekStart); err != nil {
		return sourceError(err)
	}
	p.sent.Store(0)
	p.progress(at)
	in := &source{r: src, left: p.f.Size - at}
	err := p.copy(in, func(b []byte) error {
		n, err := part.WriteAt(b, at)
		at += int64(n)
		p.sent.Add(int64(n))
		_, _ = sum.Write(b[:n])
		p.progress(at)
		return err
	})
	switch {
	case err != nil:
		return err
	case in.left > 0:
		return &transport.Error{Kind: transport.ErrIntegrity, Err: errors.New("the file is shorter than its Size")}
	case !p.matches(sum):
		return &transport.Error{Kind: transport.ErrIntegrity}
	}
	if err := setMode(part, p.opts.Mode.Perm()); err != nil {
		return err
	}
	return part.Sync()
}

// source reads so much of the file to send, and marks its errors.
type source struct {
	r    io.Reader
	left int64
}

func (s *source) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = sourceError(err)
	}
	return n, err
}

// partial opens the partial file, for this Put alone, and says how much of it is
// kept. Nothing but a plain file of our own is continued: others could change it
// later. If somebody else has it, partial waits, and returns errGone when there is
// no such file any more.
func (p *put) partial() (*os.File, error) {
	p.kept.Store(0)
	pause, waited := time.Millisecond, false
	for tries := 0; tries < maxTries; {
		f, _, err := openOwn(p.part, os.O_RDWR)
		switch {
		case errors.Is(err, errMoved):
			tries++
			continue
		case classOf(err) == fs.ErrNotExist && waited:
			return nil, errGone
		case classOf(err) == fs.ErrNotExist:
			f, err = os.OpenFile(p.part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				tries++
				continue // another Put was faster
			}
			if err != nil {
				return nil, err
			}
		}
		if err == nil {
			mine, lerr := tryLock(f)
			named := p.isPart(f)
			if mine && lerr == nil && named {
				// Its size, only now.
				if fi, err := f.Stat(); err == nil && fi.Size() <= p.f.Size && hasOneName(fi) {
					p.kept.Store(fi.Size())
					return f, nil
				}
			}
			_ = f.Close() // also while waiting: on Windows it could get no name otherwise
			if lerr != nil {
				return nil, lerr
			}
			if !mine || !named {
				waited = true
				select {
				case <-time.After(pause):
				case <-p.ctx.Done():
					return nil, p.ctx.Err()
				}
				pause = min(2*pause, 50*time.Millisecond)
				continue
			}
		}
		tries++
		if err := os.Remove(p.part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, errRemoved
}

var (
	errForeign = errors.New("no plain file of this user")
	errMoved   = errors.New("exchanged in the meantime")
)

// openOwn opens a plain file of this user's.
func openOwn(name string, flag int) (*os.File, fs.FileInfo, error) {
	before, err := os.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() || !isOwn(before) {
		return nil, nil, errForeign
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(before, fi) {
		err = errMoved
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}
