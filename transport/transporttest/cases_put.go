package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// source is a file whose reader calls at when a given number of bytes was read:
// the place where a line is cut or a context ends.
type source struct {
	content []byte
	after   int
	at      func() error
	once    sync.Once
	opened  atomic.Int32
}

func (s *source) file(name string) transport.File {
	f := transport.BytesFile(name, s.content)
	f.Open = func(context.Context) (io.ReadSeekCloser, error) {
		s.opened.Add(1)
		return &sourceReader{Reader: bytes.NewReader(s.content), s: s}, nil
	}
	return f
}

type sourceReader struct {
	*bytes.Reader
	s *source
}

// WriteTo is hidden so that every byte passes through Read.
func (r *sourceReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

func (r *sourceReader) Read(p []byte) (int, error) {
	pos := int(r.Size()) - r.Len()
	if pos >= r.s.after {
		var err error
		r.s.once.Do(func() { err = r.s.at() })
		if err != nil {
			return 0, err
		}
	} else if len(p) > r.s.after-pos {
		p = p[:r.s.after-pos]
	}
	return r.Reader.Read(p)
}

func (r *sourceReader) Close() error {
	r.s.opened.Add(-1)
	return nil
}

func filesOverwrite(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	name := path.Join(dir, "file")
	old, content := pattern(50_000), append([]byte("new"), pattern(300_000)...)
	if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", old), transport.PutOptions{}); err != nil {
		return err
	}
	// While the new content is on its way, everybody else sees the old.
	src := &source{content: content, after: 200_000}
	src.at = func() error {
		return e.with(ctx, func(other transport.Conn) error {
			if err := wantContent(ctx, other, name, old); err != nil {
				return fmt.Errorf("while it is being overwritten: %w", err)
			}
			return nil
		})
	}
	if _, err := transport.Put(ctx, conn, name, src.file("payload"), transport.PutOptions{}); err != nil {
		return err
	}
	f.add(wantContent(ctx, conn, name, content))
	f.add(wantNames(ctx, conn, dir, []string{"file"}))
	if n := src.opened.Load(); n != 0 {
		f.addf("the file was opened %d times more than it was closed", n)
	}
	return f.err()
}

func filesOntoDirectory(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	sub := path.Join(dir, "sub")
	f.add(transport.Mkdir(ctx, conn, sub, 0o755))
	_, err := transport.Put(ctx, conn, sub, transport.BytesFile("payload", []byte("x")), transport.PutOptions{})
	f.add(e.wantErr("put onto a directory", err))
	if fi, err := transport.Stat(ctx, conn, sub); err != nil || !fi.IsDir() {
		f.addf("after put onto a directory: %v, %v; want the directory unharmed", fi.Mode, err)
	}
	_, err = transport.Get(ctx, conn, sub, io.Discard, transport.GetOptions{})
	f.add(e.wantErr("get of a directory", err))
	return f.err()
}

func filesIntegrity(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	name := path.Join(dir, "file")
	bad := transport.BytesFile("payload", pattern(100_000))
	bad.SHA256[0] ^= 1
	_, err := transport.Put(ctx, conn, name, bad, transport.PutOptions{})
	f.add(e.wantErr("put of a file with the wrong SHA-256", err, transport.ErrIntegrity))
	f.add(e.wantMissing(ctx, conn, name))
	// What failed its check is of no use to a later Put.
	f.add(wantNames(ctx, conn, dir, nil))

	good := pattern(1000)
	_, err = transport.Put(ctx, conn, name, transport.BytesFile("payload", good), transport.PutOptions{})
	f.add(err)
	_, err = transport.Put(ctx, conn, name, bad, transport.PutOptions{})
	f.add(e.wantErr("overwriting with the wrong SHA-256", err, transport.ErrIntegrity))
	f.add(wantContent(ctx, conn, name, good))
	f.add(wantNames(ctx, conn, dir, []string{"file"}))
	return f.err()
}

func filesWrongSize(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	for _, delta := range []int64{-1, 1, 100_000} {
		name := path.Join(dir, "file")
		bad := transport.BytesFile("payload", pattern(100_000))
		bad.Size += delta
		err := e.within("put", func() error {
			_, err := transport.Put(ctx, conn, name, bad, transport.PutOptions{})
			return err
		})
		f.add(e.wantErr(fmt.Sprintf("put of a file whose Size is %+d off", delta), err, transport.ErrIntegrity, transport.ErrInvalid))
		f.add(e.wantMissing(ctx, conn, name))
	}
	for what, file := range map[string]transport.File{
		"without Open":         {Name: "payload"},
		"with a negative size": {Name: "payload", Size: -1, Open: transport.BytesFile("", nil).Open},
	} {
		before := e.requests()
		_, err := transport.Put(ctx, conn, path.Join(dir, "file"), file, transport.PutOptions{})
		f.add(e.wantErr("put of a file "+what, err, transport.ErrInvalid))
		if n := e.requests() - before; n != 0 {
			f.addf("put of a file %s sent %d requests", what, n)
		}
	}
	return f.err()
}

func filesSourceFails(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	errDisk := errors.New("the manager's disk failed")
	name := path.Join(dir, "file")
	bad := transport.BytesFile("payload", pattern(1000))
	bad.Open = func(context.Context) (io.ReadSeekCloser, error) { return nil, errDisk }
	_, err := transport.Put(ctx, conn, name, bad, transport.PutOptions{})
	f.add(e.wantErr("put of a file that does not open", err, errDisk))
	f.add(wantNames(ctx, conn, dir, nil)) // there is nothing to continue

	src := &source{content: pattern(300_000), after: 150_000, at: func() error { return errDisk }}
	_, err = transport.Put(ctx, conn, name, src.file("payload"), transport.PutOptions{})
	f.add(e.wantErr("put of a file that fails half-way", err, errDisk))
	f.add(e.wantMissing(ctx, conn, name))
	if n := src.opened.Load(); n != 0 {
		f.addf("the file was opened %d times more than it was closed", n)
	}
	// It is readable again: what arrived may be used, the result must be right.
	_, err = transport.Put(ctx, conn, name, src.file("payload"), transport.PutOptions{})
	f.add(err)
	f.add(wantContent(ctx, conn, name, src.content))
	f.add(wantNames(ctx, conn, dir, []string{"file"}))
	return f.err()
}

func filesSinkFails(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	errFull := errors.New("the manager's disk is full")
	name := path.Join(dir, "file")
	content := pattern(300_000)
	if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{}); err != nil {
		return err
	}
	w := &failingWriter{left: 100_000, err: errFull}
	var n int64
	err := e.within("get", func() (err error) {
		n, err = transport.Get(ctx, conn, name, w, transport.GetOptions{})
		return err
	})
	f.add(e.wantErr("get into a writer that fails", err, errFull))
	if n != 100_000 {
		f.addf("get into a writer that took 100000 bytes returned %d", n)
	}
	f.add(wantContent(ctx, conn, name, content))
	return f.err()
}

type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, w.err
	}
	w.left -= len(p)
	return len(p), nil
}

func filesProgress(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	const size = 3 << 20
	var mu sync.Mutex
	var last int64
	calls := 0
	_, err := transport.Put(ctx, conn, path.Join(dir, "file"), transport.BytesFile("payload", pattern(size)), transport.PutOptions{
		Progress: func(done int64) {
			if !mu.TryLock() {
				f.addf("Progress was called from two goroutines at the same time")
				return
			}
			defer mu.Unlock()
			if done < last || done > size {
				f.addf("Progress went from %d to %d of %d bytes", last, done, size)
			}
			last = done
			calls++
		},
	})
	f.add(err)
	if calls == 0 {
		f.addf("Progress was never called for a file of %d bytes", size)
	}
	return f.err()
}

// interrupted puts content until part of it is on the target, then calls
// interrupt and returns the error of the Put.
func (e *env) interrupted(ctx context.Context, conn transport.Conn, name string, content []byte, interrupt func()) error {
	arrived := make(chan struct{})
	var once sync.Once
	src := &source{content: content, after: len(content) * 3 / 4}
	src.at = func() error {
		// What was read is in flight; something must have arrived for there to be
		// anything to continue.
		_ = e.within("progress", func() error { <-arrived; return nil })
		interrupt()
		return nil
	}
	err := e.within("put", func() error {
		_, err := transport.Put(ctx, conn, name, src.file("payload"), transport.PutOptions{
			Progress: func(done int64) {
				if done > 0 {
					once.Do(func() { close(arrived) })
				}
			},
		})
		return err
	})
	if n := src.opened.Load(); n != 0 && !errors.Is(err, errHung) {
		err = errors.Join(err, fmt.Errorf("the file was opened %d times more than it was closed", n))
	}
	return err
}

const resumeSize = 8 << 20

func filesResume(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	return e.resume(ctx, conn, dir, nil)
}

func filesResumeOverOld(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	return e.resume(ctx, conn, dir, []byte("the old content"))
}

// resume cuts the line in a Put and has a second connection finish it.
func (e *env) resume(ctx context.Context, conn transport.Conn, dir string, old []byte) error {
	if e.Cut == nil {
		return e.missing("Cut")
	}
	var f failures
	name := path.Join(dir, "file")
	if old != nil {
		if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", old), transport.PutOptions{}); err != nil {
			return err
		}
	}
	content := pattern(resumeSize)
	err := e.interrupted(ctx, conn, name, content, e.Cut)
	f.add(e.wantErr("put during which the line was cut", err, transport.ErrConnLost))
	f.add(e.with(ctx, func(conn transport.Conn) error {
		var f failures
		if old == nil {
			f.add(e.wantMissing(ctx, conn, name))
		} else {
			f.add(wantContent(ctx, conn, name, old))
		}
		res, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{})
		if err != nil {
			f.addf("put again: %w", err)
			return f.err()
		}
		if res.Kept <= 0 || res.Sent+res.Kept != resumeSize {
			f.addf("put again: Sent %d, Kept %d of %d bytes; want the rest sent and the beginning kept", res.Sent, res.Kept, resumeSize)
		}
		f.add(wantContent(ctx, conn, name, content))
		f.add(wantNames(ctx, conn, dir, []string{"file"}))
		return f.err()
	}))
	return f.err()
}

// filesResumeOther: the beginning of one content is not continued with another,
// not even of the same size and under the same name.
func filesResumeOther(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	if e.Cut == nil {
		return e.missing("Cut")
	}
	var f failures
	name := path.Join(dir, "file")
	content := pattern(resumeSize)
	err := e.interrupted(ctx, conn, name, content, e.Cut)
	f.add(e.wantErr("put during which the line was cut", err, transport.ErrConnLost))
	other := bytes.Clone(content)
	other[0] ^= 0xff
	f.add(e.with(ctx, func(conn transport.Conn) error {
		res, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", other), transport.PutOptions{})
		if err != nil {
			return fmt.Errorf("put of other content: %w", err)
		}
		if res.Kept != 0 {
			return fmt.Errorf("put of other content kept %d bytes of what came before", res.Kept)
		}
		return wantContent(ctx, conn, name, other)
	}))
	return f.err()
}

func filesCancel(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	name := path.Join(dir, "file")
	content := pattern(resumeSize)
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	err := e.interrupted(cancelled, conn, name, content, cancel)
	f.add(e.wantErr("put whose context ended half-way", err, context.Canceled))
	f.add(e.wantMissing(ctx, conn, name))
	res, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{})
	f.add(err)
	if err == nil && (res.Kept <= 0 || res.Sent+res.Kept != resumeSize) {
		f.addf("put again: Sent %d, Kept %d of %d bytes; want the rest sent and the beginning kept", res.Sent, res.Kept, resumeSize)
	}
	f.add(wantContent(ctx, conn, name, content))

	// The same for the way back.
	cancelled, cancel = context.WithCancel(ctx)
	defer cancel()
	err = e.within("get", func() error {
		_, err := transport.Get(cancelled, conn, name, writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }), transport.GetOptions{})
		return err
	})
	f.add(e.wantErr("get whose context ended half-way", err, context.Canceled))
	f.add(wantNames(ctx, conn, dir, []string{"file"}))
	return f.err()
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }
