package smb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Put implements transport.FileStore. What is on the target is always read back, and the
// partial file gets its name when it has the right SHA-256. PutOptions.Mode means nothing
// here: the file gets the access rights of its directory. A file of that name that has
// the content already stays; another one is renamed when the new one is complete, and
// removed when that has its name. Where the manager ends between the two renames nothing has
// the name, and the next Put of it gives the old one back its own first. A program that
// runs is replaced, too, and goes on with what it was started from. Of several Puts of one
// name those on one connection go one after the other; those of several managers do not
// wait for each other, and leave one of the files, whole. Where two of them put the same
// content at the same moment into a partial file that has holes, one may find it broken
// (transport.ErrIntegrity), and puts it again.
// The directory must be one in which administrators alone may create files: who owns the
// partial file could change it after it was verified.
func (c *conn) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (transport.PutResult, error) {
	k, file, err := c.file(ctx, "put", name)
	if err != nil {
		return transport.PutResult{}, err
	}
	defer k.end()
	switch {
	case f.Size < 0 || f.Open == nil:
		return transport.PutResult{}, k.invalid("the file has no Open function, or a negative size")
	case file == "":
		return transport.PutResult{}, k.invalid("this is the share itself")
	}
	p := &put{call: k, file: file, part: partName(file, f), f: f, opts: opts}
	fi, err := work(k, func() (transport.FileInfo, error) {
		// Another Put of the same has the same partial file, and one of something else
		// wants the same name.
		turn, name := make(chan struct{}), strings.ToLower(p.file)
		for {
			other, taken := c.puts.LoadOrStore(name, turn)
			if !taken {
				break
			}
			select {
			case <-other.(chan struct{}):
			case <-k.ctx.Done():
				return transport.FileInfo{}, k.ctx.Err()
			}
		}
		defer close(turn)
		defer c.puts.Delete(name)
		return p.run()
	})
	p.hush()
	return transport.PutResult{Info: fi, Sent: p.sent.Load(), Kept: p.kept.Load()}, err
}

// partName is the name of the partial file: the same for the same name and content.
func partName(file string, f transport.File) string {
	return beside(file, strconv.FormatInt(f.Size, 10)+"\x00"+string(f.SHA256[:]), ".part")
}

// beside is a name in the directory of a file, which differs for what it is for, and is
// no longer than file systems allow.
func beside(file, what, suffix string) string {
	dir := parent(file)
	base := strings.TrimPrefix(file[len(dir):], `\`)
	sum := sha256.Sum256([]byte(strings.ToLower(base) + "\x00" + what))
	r := []rune(base)
	return strings.TrimPrefix(dir+`\`, `\`) + "." + string(r[:min(len(r), 100)]) + "." + hex.EncodeToString(sum[:8]) + suffix
}

// put is one Put.
type put struct {
	*call
	file, part string
	f          transport.File
	opts       transport.PutOptions
	older      []string // what was aside before something had the name: see swap
	progress
}

// errTaken says that a partial file is gone: another manager that puts the same has given
// it its name, or removed it because the name had the content.
var errTaken = errors.New("another manager has put the same file there")

func (p *put) run() (transport.FileInfo, error) {
	src, err := p.f.Open(p.ctx)
	if err != nil {
		return transport.FileInfo{}, sourceError(err)
	}
	defer src.Close()
	const tries = 3
	for try := 1; ; try++ {
		fi, err := p.once(src)
		if !errors.Is(err, errTaken) || try == tries {
			return fi, err
		}
		if _, err := src.Seek(0, io.SeekStart); err != nil {
			return transport.FileInfo{}, sourceError(err)
		}
	}
}

// once puts the file, whose source is at its beginning.
func (p *put) once(src io.ReadSeeker) (transport.FileInfo, error) {
	old, err := p.old()
	switch {
	case err == nil && old.IsDir() && !isLink(old):
		return transport.FileInfo{}, &transport.Error{Kind: fs.ErrExist, Err: errors.New("there is a directory of this name")}
	case err == nil && old.Mode().IsRegular() && old.Size() == p.f.Size:
		p.look() // before the file is seen there
		switch there, err := p.holds(p.file); {
		case errors.Is(err, fs.ErrNotExist): // another manager has just put it aside
		case err != nil:
			return transport.FileInfo{}, err
		case there:
			_ = lib0(p.call, func() error { return p.c.volume.remove(p.part) })
			_ = lib0(p.call, func() error { retire(p.c.volume, p.file, p.older); return nil }) // of a Put whose end was cut off
			p.kept.Store(p.f.Size)
			return p.finish(old)
		}
	case err == nil, errors.Is(explain(&transport.Error{}, err), fs.ErrNotExist):
	default:
		return transport.FileInfo{}, err
	}
	switch err := p.write(src); {
	case errors.Is(err, errShort):
		return transport.FileInfo{}, p.discard(err)
	case err != nil:
		return transport.FileInfo{}, err
	}
	ok, err := p.holds(p.part)
	if err != nil {
		return transport.FileInfo{}, taken(err)
	}
	if !ok {
		return transport.FileInfo{}, p.discard(errors.New("what was read back has another SHA-256"))
	}
	// Afterwards another manager may have put it aside.
	fi, err := lib(p.call, func() (os.FileInfo, error) { return p.c.volume.stat(p.part) }, nil)
	if err == nil {
		err = p.rename()
	}
	if err != nil {
		return transport.FileInfo{}, taken(err)
	}
	return p.finish(fi)
}

// taken is what is said of a partial file that is gone.
func taken(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &transport.Error{Kind: transport.ErrBusy, Err: errTaken, Hint: "have one manager at a time put it"}
	}
	return err
}

// discard removes a partial file that is of no use.
func (p *put) discard(why error) error {
	err := p.insist(func() error { return p.c.volume.remove(p.part) })
	return &transport.Error{Kind: transport.ErrIntegrity, Err: errors.Join(why, err)}
}

// holds reports whether a file of the target has the content.
func (p *put) holds(name string) (bool, error) {
	// Whoever renames the file has it for himself for a moment.
	f, err := insist(p.call, func() (file, error) { return p.c.volume.open(name) }, func(f file) { _ = f.Close() })
	if err != nil {
		return false, err
	}
	sum, n := sha256.New(), int64(0)
	err = p.read(f, 0, p.f.Size+1, func(b []byte) error {
		n += int64(len(b))
		_, err := sum.Write(b)
		return err
	})
	return n == p.f.Size && bytes.Equal(sum.Sum(nil), p.f.SHA256[:]), err
}

// write completes the partial file.
func (p *put) write(src io.ReadSeeker) error {
	f, err := lib(p.call, func() (file, error) { return p.c.volume.create(p.part) }, func(f file) { _ = f.Close() })
	if err != nil {
		return err
	}
	q := &pieces{k: p.call}
	defer q.close(f)
	fi, err := lib(p.call, f.Stat, nil)
	if err != nil {
		return err
	}
	at, err := p.agreed(q, f, min(fi.Size(), p.f.Size), src)
	if err != nil {
		return err
	}
	p.kept.Store(at)
	if fi.Size() > at {
		if err := lib0(p.call, func() error { return f.Truncate(at) }); err != nil {
			return err
		}
	}
	if _, err := src.Seek(at, io.SeekStart); err != nil {
		return sourceError(err)
	}
	p.report(at)
	for done := at; at < p.f.Size || len(q.queue) > 0; {
		for at < p.f.Size && len(q.queue) < window {
			buf := q.buffer(min(block, p.f.Size-at))
			if _, err := io.ReadFull(src, buf); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return errShort
			} else if err != nil {
				return sourceError(err)
			}
			if p.ctx.Err() != nil {
				return p.ctx.Err()
			}
			off := at
			q.start(buf, func(b []byte) (int, error) { return f.WriteAt(b, off) })
			at += int64(len(buf))
		}
		o, err := q.oldest()
		if err != nil {
			return err
		}
		done += int64(len(o.buf))
		p.sent.Add(int64(len(o.buf)))
		p.report(done)
		q.free(o)
	}
	return lib0(p.call, f.Sync)
}

// agreed returns how much of what is in the partial file is the beginning of the
// source. Of one that was interrupted pieces in the middle may be missing.
func (p *put) agreed(q *pieces, f file, size int64, src io.Reader) (int64, error) {
	var same int64
	mine := make([]byte, min(size, block))
	err := q.read(f, 0, size, func(b []byte) error {
		if _, err := io.ReadFull(src, mine[:len(b)]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errShort
		} else if err != nil {
			return sourceError(err)
		}
		if !bytes.Equal(b, mine[:len(b)]) {
			return errDiffers
		}
		same += int64(len(b))
		return nil
	})
	for len(q.queue) > 0 { // reads of what comes after the end, or what differs
		if _, err := q.oldest(); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	if errors.Is(err, errDiffers) {
		err = nil
	}
	return same, err
}

var (
	errDiffers = errors.New("the contents differ")
	errShort   = errors.New("the file is shorter than its Size")
)

// finish describes the file that is there.
func (p *put) finish(fi os.FileInfo) (transport.FileInfo, error) {
	root, err := p.shareRoot()
	if err == nil {
		p.report(p.f.Size)
	}
	return info(root, p.file, fi), err
}

// sourceError is an error of the file that is to be sent.
func sourceError(err error) error {
	return &streamError{fmt.Errorf("reading the file to send: %w", err)}
}
