package ssh

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// errShut is what a gate says to the goroutine that came too late.
var errShut = errors.New("nobody listens any more")

// turn is a mutex for what may take long, such as code of the caller's: one can
// wait for it together with other events, and on the clock of a test.
type turn chan struct{}

func newTurn() turn    { return make(turn, 1) }
func (t turn) lock()   { t <- struct{}{} }
func (t turn) unlock() { <-t }

// gate stands before a writer of the caller's, who may not be written to once the
// call has returned.
type gate struct {
	turn turn
	w    io.Writer // nil: dropped
	gone atomic.Bool
}

func newGate(w io.Writer) *gate { return &gate{turn: newTurn(), w: w} }

func (g *gate) Write(p []byte) (int, error) {
	g.turn.lock()
	defer g.turn.unlock()
	if g.gone.Load() {
		return 0, errShut
	}
	if g.w == nil {
		return len(p), nil
	}
	return g.w.Write(p)
}

// shut lets nothing through any more and waits for the write that is going on,
// though not for ever: a writer that hangs is its owner's.
func (g *gate) shut() {
	g.gone.Store(true)
	t := time.NewTimer(killGrace)
	defer t.Stop()
	select {
	case g.turn <- struct{}{}:
		g.turn.unlock()
	case <-t.C:
	}
}

// maxNoise bounds what is kept of a login shell's chatter while the token is
// being looked for.
const maxNoise = 64 << 10

// awaitToken reads until a line "token" or "token word" has gone by, and returns
// the word and what came after the line. The bytes before it go to noise; look is
// called after every read with what is not yet known to be noise.
func awaitToken(r io.Reader, token string, noise io.Writer, look func(pending []byte)) (word string, rest []byte, err error) {
	var pending []byte
	buf := make([]byte, 4096)
	for {
		n, rerr := r.Read(buf)
		pending = append(pending, buf[:n]...)
		if look != nil {
			look(pending)
		}
		if i := bytes.Index(pending, []byte(token)); i >= 0 {
			after := pending[i+len(token):]
			if end := bytes.IndexByte(after, '\n'); end >= 0 {
				_, _ = noise.Write(pending[:i])
				return string(after[:end]), after[end+1:], nil
			}
		}
		if rerr != nil {
			_, _ = noise.Write(pending)
			return "", nil, rerr
		}
		if cut := len(pending) - maxNoise; cut > 0 {
			_, _ = noise.Write(pending[:cut])
			pending = pending[cut:]
		}
	}
}

// copyTo passes a stream on. The caller's writer, if it fails, ends the call.
func (p *process) copyTo(g *gate, first []byte, r io.Reader, watch *stall) {
	buf := make([]byte, 32<<10)
	for b, rerr := first, error(nil); ; {
		if len(b) > 0 {
			n, err := g.Write(b)
			if err == nil && n < len(b) {
				err = io.ErrShortWrite
			}
			if err != nil {
				if !errors.Is(err, errShut) {
					p.cancel(&sinkError{err})
				}
				_, _ = io.Copy(io.Discard, r)
				return
			}
		}
		if rerr != nil {
			return
		}
		watch.touch()
		var n int
		n, rerr = r.Read(buf)
		watch.pause()
		b = buf[:n]
	}
}

func (p *process) pumpStdout() {
	_, rest, err := awaitToken(p.ch, p.token, io.Discard, nil)
	if err == nil {
		p.copyTo(p.out, rest, p.ch, p.t.stallOut)
	}
}

// pumpStderr also sees from standard error when the script begins, and when sudo
// asks for the password.
func (p *process) pumpStderr() {
	r := p.ch.Stderr()
	answered := 0
	look := func(pending []byte) {
		if bytes.Contains(pending, []byte(outerToken(p.token))) {
			p.outer.Store(true)
		}
		if p.prompt == "" {
			return
		}
		for n := bytes.Count(pending, []byte(p.prompt)); answered < n; answered++ {
			if p.asked.Add(1) == 1 {
				_, _ = io.WriteString(p.ch, p.c.opts.SudoPassword.Reveal()+"\n")
			} else {
				_ = p.ch.CloseWrite() // the password was wrong; sudo gives up at the end of input
			}
		}
	}
	pid, rest, err := awaitToken(r, "\n"+p.token+" ", &p.noise, look)
	if err != nil {
		return
	}
	p.outer.Store(true)
	p.pid.Store(pid)
	p.start.Do(func() { close(p.started) })
	p.copyTo(p.err, rest, r, nil)
}

func (p *process) pumpStdin() {
	defer p.ch.CloseWrite()
	if p.prompt != "" {
		<-p.started // until then the input is sudo's
		if p.pid.Load() == nil {
			return
		}
	}
	if p.t.stdin == nil {
		return
	}
	size := p.t.buf
	if size == 0 {
		size = maxPacket
	}
	buf := make([]byte, size)
	for {
		n, err := p.t.stdin.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			part := b[:min(len(b), maxPacket)]
			p.t.stallIn.touch()
			_, werr := p.ch.Write(part)
			p.t.stallIn.pause()
			if werr != nil {
				return // the program does not want it
			}
			b = b[len(part):]
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			p.cancel(&sinkError{err})
			return
		}
	}
}

// maxPacket is the number of bytes that every server takes in one message
// (RFC 4253, section 6.1).
const maxPacket = 32 << 10
