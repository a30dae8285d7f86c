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
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Put implements transport.FileStore. What is on the target is always read back, and the
// partial file gets its name when it has the right SHA-256. PutOptions.Mode means nothing
// here: the file gets the access rights of its directory. A file of that name that has
// the content already stays; another one goes when the new one is complete: see
// [replaceFile]. So does a program that runs, which goes on with what it was started from.
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
		// Another Put of the same has the same partial file.
		turn := make(chan struct{})
		for {
			other, taken := c.puts.LoadOrStore(strings.ToLower(p.part), turn)
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
		defer c.puts.Delete(strings.ToLower(p.part))
		return p.run()
	})
	p.hush()
	return transport.PutResult{Info: fi, Sent: p.sent.Load(), Kept: p.kept.Load()}, err
}

// partName is the name of the partial file: the same for the same name and content.
func partName(file string, f transport.File) string {
	return beside(file, strconv.FormatInt(f.Size, 10)+"\x00"+string(f.SHA256[:]), ".part")
}

// oldName is the name that a file has while another one takes its place.
func oldName(file string) string { return beside(file, "old", ".old") }

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
	stale      bool // there is something under oldName, which is of no use
	progress
}

func (p *put) run() (transport.FileInfo, error) {
	src, err := p.f.Open(p.ctx)
	if err != nil {
		return transport.FileInfo{}, sourceError(err)
	}
	defer src.Close()
	old, err := p.old()
	switch {
	case err == nil && old.IsDir() && !isLink(old):
		return transport.FileInfo{}, &transport.Error{Kind: fs.ErrExist, Err: errors.New("there is a directory of this name")}
	case err == nil && old.Mode().IsRegular() && old.Size() == p.f.Size:
		if there, err := p.holds(p.file); err != nil {
			return transport.FileInfo{}, err
		} else if there {
			_ = lib0(p.call, func() error { return p.c.volume.remove(p.part) })
			p.kept.Store(p.f.Size)
			return p.finish()
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
		return transport.FileInfo{}, err
	}
	if !ok {
		return transport.FileInfo{}, p.discard(errors.New("what was read back has another SHA-256"))
	}
	if err := p.rename(); err != nil {
		return transport.FileInfo{}, err
	}
	return p.finish()
}

// discard removes a partial file that is of no use.
func (p *put) discard(why error) error {
	err := p.insist(func() error { return p.c.volume.remove(p.part) })
	return &transport.Error{Kind: transport.ErrIntegrity, Err: errors.Join(why, err)}
}

// holds reports whether a file of the target has the content.
func (p *put) holds(name string) (bool, error) {
	f, err := p.open(name)
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

func (p *put) finish() (transport.FileInfo, error) {
	fi, err := p.stat(p.file)
	if err == nil {
		p.report(p.f.Size)
	}
	return fi, err
}

// sourceError is an error of the file that is to be sent.
func sourceError(err error) error {
	return &streamError{fmt.Errorf("reading the file to send: %w", err)}
}
