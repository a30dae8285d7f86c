package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// put is one Put.
type put struct {
	k         *call
	abs, part string
	f         transport.File
	opts      transport.PutOptions

	turn   turn // guards these, and reads from src
	src    io.ReadSeekCloser
	closed bool
	offset int64 // of src
	ended  bool  // src ended before f.Size

	kept atomic.Int64
	sent atomic.Int64
	info transport.FileInfo

	progressing turn // guards these, and calls of Progress
	reported    int64
	silent      bool // Put has returned
}

var errShort = errors.New("the file is shorter than its Size")

// open opens the source. Errors are ready to be returned.
func (p *put) open() error {
	src, err := p.f.Open(p.k.ctx)
	if err != nil {
		return p.k.source(err)
	}
	p.src = src
	return nil
}

// source is an error of the file that is to be sent.
func (k *call) source(err error) error {
	if k.ctx.Err() != nil {
		return k.fail(err)
	}
	return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Err: err, Hint: "reading the file to send"}
}

// close waits for a read that is going on: afterwards nobody uses the source.
func (p *put) close() {
	p.progressing.lock()
	p.silent = true
	p.progressing.unlock()
	p.turn.lock()
	defer p.turn.unlock()
	p.closed = true
	_ = p.src.Close()
}

// seek goes to where the target wants to go on.
func (p *put) seek(offset int64) error {
	p.turn.lock()
	defer p.turn.unlock()
	if p.closed {
		return io.ErrClosedPipe
	}
	if _, err := p.src.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	p.offset = offset
	return nil
}

// read fills b from the source, as far as f.Size goes.
func (p *put) read(b []byte) (int, error) {
	p.turn.lock()
	defer p.turn.unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	left := p.f.Size - p.offset
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := p.src.Read(b[:min(int64(len(b)), left)])
	p.offset += int64(n)
	if errors.Is(err, io.EOF) && p.offset < p.f.Size {
		p.ended = true
	}
	return n, err
}

func (p *put) progress(done int64) {
	p.progressing.lock()
	defer p.progressing.unlock()
	if p.opts.Progress != nil && !p.silent && done > p.reported {
		p.reported = done
		p.opts.Progress(done)
	}
}

// conversation is both sides of putScript: its output says where to start, which
// its input waits for.
type conversation struct {
	p     *put
	ctx   context.Context
	buf   bytes.Buffer // output: the first line, then the record
	ready chan struct{}
	said  bool
	err   error // guarded by ready
	last  int64 // bytes of the last read, which Write has then sent
}

// Write takes the output of the script.
func (v *conversation) Write(b []byte) (int, error) {
	if v.buf.Len()+len(b) > 64<<10 {
		return 0, errors.New("too much output")
	}
	v.buf.Write(b)
	if line, _, ok := bytes.Cut(v.buf.Bytes(), []byte("\n")); ok && !v.said {
		v.said = true
		v.err = v.start(string(line))
		close(v.ready)
	}
	return len(b), nil
}

func (v *conversation) start(line string) error {
	if line == "done" {
		v.p.kept.Store(v.p.f.Size)
		return io.EOF
	}
	var offset int64
	if _, err := fmt.Sscanf(line, "at %d", &offset); err != nil || offset < 0 || offset > v.p.f.Size {
		return fmt.Errorf("unexpected answer %.80q", line)
	}
	v.p.kept.Store(offset)
	return v.p.seek(offset)
}

// Read gives the bytes from where the script wants to go on.
func (v *conversation) Read(b []byte) (int, error) {
	select {
	case <-v.ready:
	case <-v.ctx.Done():
		return 0, io.EOF
	}
	if v.err != nil {
		return 0, v.err
	}
	if v.last > 0 { // the bytes of the read before have been written
		v.p.progress(v.p.kept.Load() + v.p.sent.Add(v.last))
		v.last = 0
	}
	n, err := v.p.read(b)
	v.last = int64(n)
	return n, err
}

// shell sends the file through the shell, in one command.
func (p *put) shell(watch *stall) error {
	k := p.k
	dir := p.abs[:max(1, lastSlash(p.abs))]
	var errs head
	errs.limit = 4096
	// Its context ends with the command, so that a script which says nothing does
	// not leave the input waiting.
	ctx, cancel := context.WithCancel(k.ctx)
	v := &conversation{p: p, ctx: ctx, ready: make(chan struct{})}
	exit, err := k.exec(task{
		script: scriptWith(putScript, p.abs, p.part, strconv.FormatInt(p.f.Size, 10), p.f.Digest(), dir, octal(p.opts.Mode)),
		stdin:  v, stdout: v, stderr: &errs, buf: 256 << 10, stallIn: watch,
	})
	cancel()
	p.turn.lock()
	ended := p.ended
	p.turn.unlock()
	switch {
	case err != nil:
		return err
	case exit.Code == exitShort && ended:
		_, _ = k.script(removeScript, p.part)
		return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Kind: transport.ErrIntegrity, Err: errShort}
	case exit.Code == exitShort:
		return k.fail(k.c.explain(k.ctx, &transport.Error{Kind: transport.ErrProtocol, Code: exitCode(exit),
			Err: errors.New("bytes were lost on the way")}))
	case exit.Code == exitNoHash:
		return p.finishByReading()
	case exit != (transport.Exit{}):
		return k.exitError(exit, errs.String())
	}
	_, rec, _ := bytes.Cut(v.buf.Bytes(), []byte("\n"))
	// A predecessor may have finished the same file in the meantime.
	rec = bytes.TrimPrefix(rec, []byte("done\n"))
	return p.took(string(rec))
}

// took takes the record of the finished file.
func (p *put) took(rec string) error {
	info, err := p.k.oneRecord(rec, p.abs)
	if err != nil {
		return err
	}
	p.info = info
	p.sent.Store(p.f.Size - p.kept.Load())
	p.progress(p.f.Size)
	return nil
}

// finishByReading checks the partial file by reading it back, where the target
// has no tool for SHA-256.
func (p *put) finishByReading() error {
	k := p.k
	watch := newStall(k.c.opts.StallTimeout, k.cancel)
	defer watch.stop()
	sum := sha256.New()
	if err := k.shellGet(p.part, sum, transport.GetOptions{}, watch); err != nil {
		return err
	}
	if [sha256.Size]byte(sum.Sum(nil)) != p.f.SHA256 {
		_, err := k.script(removeScript, p.part)
		return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Kind: transport.ErrIntegrity, Err: err}
	}
	rec, err := k.script(finishScript, p.abs, p.part, octal(p.opts.Mode))
	if err != nil {
		return err
	}
	return p.took(rec)
}

func lastSlash(s string) int { return bytes.LastIndexByte([]byte(s), '/') }

// counter counts what a writer took.
type counter struct {
	w io.Writer
	n atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(max(0, n)))
	return n, err
}

func (c *counter) sum() int64 { return c.n.Load() }
