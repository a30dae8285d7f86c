package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// put is one Put.
type put struct {
	k         *call
	abs, part string
	f         transport.File
	opts      transport.PutOptions
	src       *source

	kept atomic.Int64
	sent atomic.Int64
	info transport.FileInfo

	progressing turn // guards these, and calls of Progress
	reported    int64
	silent      bool // Put has returned
}

var errShort = errors.New("the file is shorter than its Size")

// source is the file to send, opened once. Reads end when it is closed.
type source struct {
	size int64

	turn   turn // guards these, and reads from src
	src    io.ReadSeekCloser
	closed bool
	offset int64
	ended  bool // src ended before size
}

// open opens the source. Errors are ready to be returned.
func (p *put) open(ctx context.Context) (*source, error) {
	src, err := p.f.Open(ctx)
	if err != nil {
		return nil, p.k.source(err)
	}
	return &source{size: p.f.Size, turn: newTurn(), src: src}, nil
}

// source is an error of the file that is to be sent.
func (k *call) source(err error) error {
	if k.ctx.Err() != nil {
		return k.fail(err)
	}
	return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Err: err, Hint: "reading the file to send"}
}

// close waits for a read that is going on: afterwards nobody uses the source.
func (s *source) close() {
	s.turn.lock()
	defer s.turn.unlock()
	s.closed = true
	_ = s.src.Close()
}

// seek goes to where the target wants to go on.
func (s *source) seek(offset int64) error {
	s.turn.lock()
	defer s.turn.unlock()
	if s.closed {
		return io.ErrClosedPipe
	}
	if _, err := s.src.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	s.offset = offset
	return nil
}

// read fills b from the source, as far as its size goes.
func (s *source) read(b []byte) (int, error) {
	s.turn.lock()
	defer s.turn.unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	left := s.size - s.offset
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := s.src.Read(b[:min(int64(len(b)), left)])
	s.offset += int64(n)
	if errors.Is(err, io.EOF) && s.offset < s.size {
		s.ended = true
	}
	return n, err
}

// short reports whether the source ended early.
func (s *source) short() bool {
	s.turn.lock()
	defer s.turn.unlock()
	return s.ended
}

// hush ends calls of Progress: Put is about to return.
func (p *put) hush() {
	p.progressing.lock()
	p.silent = true
	p.progressing.unlock()
}

func (p *put) progress(done int64) {
	p.progressing.lock()
	defer p.progressing.unlock()
	if p.opts.Progress != nil && !p.silent && done > p.reported {
		p.reported = done
		p.opts.Progress(done)
	}
}

// shell sends the file through the shell. A small one takes one command and one
// stream; a large one takes pieces.
func (p *put) shell(watch *stall) error {
	k := p.k
	script, args := putScript, []string{p.abs, p.part, strconv.FormatInt(p.f.Size, 10), p.f.Digest(), p.abs[:max(1, lastSlash(p.abs))], octal(p.opts.Mode)}
	large := p.f.Size >= k.c.bulk.large
	if large {
		script = piecesScript
		args = append(args, strconv.FormatInt(k.c.bulk.check, 10), strconv.FormatInt(k.c.bulk.tail(), 10))
	}
	var errs head
	errs.limit = 4096
	// Its context ends with the command, so that a script which says nothing does
	// not leave the input waiting.
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	t := newSending(ctx, p)
	exit, err := k.exec(task{script: scriptWith(script, args...), stdin: t.first, stdout: t.first, stderr: &errs,
		buf: sendBuffer, stallIn: watch})
	t.join(err == nil && exit == transport.Exit{})
	switch {
	case err != nil:
		return err
	case t.isShort():
		_, _ = k.script(removeScript, p.part)
		return &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Kind: transport.ErrIntegrity, Err: errShort}
	case t.status != 0:
		return k.exitError(transport.Exit{Code: t.status}, errs.String())
	case exit.Code == exitShort:
		return k.fail(k.c.explain(k.ctx, &transport.Error{Kind: transport.ErrProtocol, Code: exitCode(exit),
			Err: errors.New("bytes were lost on the way")}))
	case exit.Code == exitNoHash:
		return p.finishByReading()
	case exit != (transport.Exit{}):
		return k.exitError(exit, errs.String())
	}
	// A predecessor may have finished the same file in the meantime.
	return p.took(strings.TrimPrefix(t.record.String(), "done\n"))
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
