package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
)

// request is one read or write of a transfer that is under way.
type request struct {
	buf  []byte
	n    int
	err  error
	done chan struct{}
}

// transfer is a file and the session in which it is moved. Its methods end early
// when the session is dropped; one is called at a time.
type transfer struct {
	k     *call
	s     *sftpClient
	watch *stall
	spare chan []byte // buffers of requests that are over
}

func newTransfer(k *call, s *sftpClient, watch *stall) *transfer {
	return &transfer{k: k, s: s, watch: watch, spare: make(chan []byte, s.window)}
}

// buffer returns one for a request.
func (t *transfer) buffer() []byte {
	select {
	case b := <-t.spare:
		return b
	default:
		return make([]byte, t.s.packet)
	}
}

func (t *transfer) giveBack(b []byte) {
	select {
	case t.spare <- b[:cap(b)]:
	default:
	}
}

// inTransfer runs f with a session of its own, which ends when the call does.
func (k *call) inTransfer(watch *stall, f func(t *transfer) error) error {
	select {
	case k.c.sessions <- struct{}{}:
	case <-k.ctx.Done():
		return k.fail(k.ctx.Err())
	}
	defer func() { <-k.c.sessions }()
	s, err := k.c.transferSFTP(k.ctx)
	if err != nil {
		return k.fail(err)
	}
	defer s.drop(k.c)
	defer context.AfterFunc(k.ctx, func() { s.drop(k.c) })()
	_, err = do(k.ctx, k.c, func() (struct{}, error) { return struct{}{}, f(newTransfer(k, s, watch)) }, nil)
	return k.sftpFail(s, err)
}

// read copies the bytes from..to of f, or to its end if to is below 0, to w, in
// order, with many requests under way.
func (t *transfer) read(f *sftp.File, from, to int64, w io.Writer) error {
	pending := make(chan *request, t.s.window-1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		defer close(pending)
		for to < 0 || from < to {
			size := int64(t.s.packet)
			if to >= 0 {
				size = min(size, to-from)
			}
			r := &request{buf: t.buffer()[:size], done: make(chan struct{})}
			select {
			case pending <- r:
			case <-stop:
				return
			}
			at := from
			wg.Go(func() {
				defer close(r.done)
				r.n, r.err = f.ReadAt(r.buf, at)
			})
			from += size
		}
	})
	for r := range pending {
		t.watch.touch()
		<-r.done
		t.watch.pause()
		if r.n > 0 {
			if _, err := w.Write(r.buf[:r.n]); err != nil {
				t.k.cancel(&sinkError{err})
				return err
			}
		}
		t.giveBack(r.buf)
		if errors.Is(r.err, io.EOF) {
			return nil
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// write sends what src has to f from an offset on, in order and with so many
// requests under way that at most maxWindow bytes at the end of the file can have
// holes when the line breaks. Done is told how far the file is without holes.
func (t *transfer) write(f *sftp.File, at int64, src func([]byte) (int, error), done func(int64)) error {
	pending := make(chan *request, t.s.window-1)
	stop := make(chan struct{})
	var srcErr error
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		defer close(pending)
		for off := at; ; {
			buf := t.buffer()
			n, err := readFull(src, buf)
			if n > 0 {
				r := &request{buf: buf[:n], done: make(chan struct{})}
				select {
				case pending <- r:
				case <-stop:
					return
				}
				pos := off
				wg.Go(func() {
					defer close(r.done)
					r.n, r.err = f.WriteAt(r.buf, pos)
				})
				off += int64(n)
			}
			if err != nil {
				srcErr = err
				return
			}
		}
	})
	for r := range pending {
		t.watch.touch()
		<-r.done
		t.watch.pause()
		if r.err != nil {
			return r.err
		}
		t.giveBack(r.buf)
		at += int64(r.n)
		done(at)
	}
	if !errors.Is(srcErr, io.EOF) {
		t.k.cancel(&sinkError{srcErr})
		return srcErr
	}
	return nil
}

func readFull(src func([]byte) (int, error), buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = src(buf[n:])
		n += m
	}
	return n, err
}

func (k *call) sftpGet(abs string, w io.Writer, opts transport.GetOptions, watch *stall) error {
	g := newGate(w)
	defer g.shut()
	return k.inTransfer(watch, func(t *transfer) error {
		f, err := t.s.openFile(abs)
		if err != nil {
			return err
		}
		defer f.Close()
		to := int64(-1)
		if opts.Limit > 0 {
			to = opts.Offset + opts.Limit
		}
		return t.read(f, opts.Offset, to, g)
	})
}

// sftp sends the file where there is SFTP alone.
func (p *put) sftp(watch *stall) error {
	return p.k.inTransfer(watch, p.transfer)
}

func (p *put) transfer(t *transfer) error {
	dir, base := path.Split(p.abs)
	if fi, err := t.s.Stat(p.abs); err == nil {
		if fi.IsDir() {
			return &transport.Error{Kind: fs.ErrExist, Hint: "something of another kind has this name"}
		}
		if same, err := p.there(t); err != nil {
			return err
		} else if same {
			if err := t.s.Chmod(p.abs, p.opts.Mode.Perm()); err != nil {
				return err
			}
			_ = t.s.Client.Remove(p.part)
			p.kept.Store(p.f.Size)
			return p.finished(t, dir, base)
		}
	}
	f, size, err := p.partial(t)
	if err != nil {
		return err
	}
	defer f.Close()
	kept, err := p.continueAt(t, size)
	if err != nil {
		return err
	}
	p.kept.Store(kept)
	if err := p.src.seek(kept); err != nil {
		return err
	}
	back := p.readBack(t, kept)
	err = t.write(f, kept, p.src.read, func(at int64) {
		p.sent.Store(at - kept)
		p.progress(at)
		back.goOn(at)
	})
	same, rerr := back.end(err == nil)
	if err != nil {
		return t.s.noSpace(p.part, p.f.Size-kept-p.sent.Load(), err)
	}
	if _, ok := t.s.HasExtension("fsync@openssh.com"); ok { // as putEnd does
		if err := f.Sync(); err != nil {
			return t.s.noSpace(p.part, 1, err)
		}
	}
	if err := f.Close(); err != nil {
		return t.s.noSpace(p.part, 1, err)
	}
	if p.src.short() {
		_ = t.s.Client.Remove(p.part)
		return &transport.Error{Kind: transport.ErrIntegrity, Err: errShort}
	}
	if rerr != nil {
		return rerr
	}
	if !same {
		_ = t.s.Client.Remove(p.part)
		return &transport.Error{Kind: transport.ErrIntegrity}
	}
	if err := t.s.Chmod(p.part, p.opts.Mode.Perm()); err != nil {
		return err
	}
	if err := t.s.rename(p.part, p.abs); err != nil {
		return err
	}
	return p.finished(t, dir, base)
}

// partial opens the partial file, and says how long it is.
func (p *put) partial(t *transfer) (*sftp.File, int64, error) {
	fi, err := t.s.Lstat(p.part)
	if err == nil && (fi.Size() > p.f.Size || !p.own(t, fi)) {
		if err := t.s.Client.Remove(p.part); err != nil {
			return nil, 0, err
		}
		err = fs.ErrNotExist
	}
	if err == nil {
		f, err := t.s.OpenFile(p.part, os.O_RDWR)
		return f, fi.Size(), err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	f, err := t.s.OpenFile(p.part, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, 0, t.s.noSpace(p.part, 1, err)
	}
	if err := t.s.Chmod(p.part, 0o600); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, 0, nil
}

// continueAt says from where on a partial file of this size lacks bytes: its end
// may have holes, so it is compared with the source.
func (p *put) continueAt(t *transfer, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	from := max(0, size-maxWindow)
	same, err := p.compare(t, p.part, from, size, &comparer{src: p.src.read})
	return from + same, err
}

// there reports whether the file has the content already, and is our own.
func (p *put) there(t *transfer) (bool, error) {
	fi, err := t.s.Lstat(p.abs)
	if err != nil || fi.Size() != p.f.Size || !p.own(t, fi) {
		return false, nil // replacing it says what is wrong, if anything is
	}
	size := fi.Size()
	c := &comparer{src: p.src.read, sum: sha256.New()}
	same, err := p.compare(t, p.abs, 0, size, c)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	return err == nil && same == size && bytes.Equal(c.sum.Sum(nil), p.f.SHA256[:]), err
}

// errDiffers ends a comparison.
var errDiffers = errors.New("differs")

// compare returns how many bytes of a file of the target, from an offset on, are
// those of the source.
func (p *put) compare(t *transfer, name string, from, to int64, c *comparer) (int64, error) {
	f, err := t.s.openFile(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := p.src.seek(from); err != nil {
		return 0, err
	}
	quiet := newTransfer(&call{c: t.k.c, ctx: t.k.ctx, cancel: func(error) {}}, t.s, t.watch)
	if err := quiet.read(f, from, to, c); err != nil && !errors.Is(err, errDiffers) {
		return 0, err
	}
	return c.same, c.err
}

// comparer compares what is written to it with a source.
type comparer struct {
	src  func([]byte) (int, error)
	buf  []byte
	same int64
	err  error     // of the source
	sum  hash.Hash // of what is the same, if set
}

func (c *comparer) Write(b []byte) (int, error) {
	if len(c.buf) < len(b) {
		c.buf = make([]byte, len(b))
	}
	n, err := readFull(c.src, c.buf[:len(b)])
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = &sinkError{err}
		return 0, errDiffers
	}
	for i := range n {
		if c.buf[i] != b[i] {
			c.same += int64(i)
			return i, errDiffers
		}
	}
	c.same += int64(n)
	if c.sum != nil {
		_, _ = c.sum.Write(b[:n])
	}
	if n < len(b) {
		return n, errDiffers
	}
	return n, nil
}

func (p *put) finished(t *transfer, dir, base string) error {
	fi, err := t.s.Lstat(p.abs)
	if err != nil {
		return err
	}
	p.info = infoOf(dir, base, fi)
	p.sent.Store(p.f.Size - p.kept.Load())
	p.progress(p.f.Size)
	return nil
}
