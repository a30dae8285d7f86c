package ssh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
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
const maxNoise = 8 << 10

// awaitToken reads until the token and a word that is good have gone by, and the
// end of their line, and returns the word and what came afterwards. What is before
// the token is dropped; look is called after every read with the end of it. A
// server that prints the command it was given prints the token as well, but other
// words behind it.
func awaitToken(r io.Reader, token string, good func(word string) bool, look func(pending []byte)) (word string, rest []byte, err error) {
	var pending []byte
	buf := make([]byte, 4096)
	for {
		n, rerr := r.Read(buf)
		pending = append(pending, buf[:n]...)
		if look != nil {
			look(pending)
		}
		for after := pending; ; {
			var ok bool
			if _, after, ok = bytes.Cut(after, []byte(token)); !ok {
				break
			}
			if word, rest, ok := bytes.Cut(after, []byte("\n")); ok && good(string(word)) {
				return string(word), rest, nil
			}
		}
		if rerr != nil {
			return "", nil, rerr
		}
		if cut := len(pending) - maxNoise; cut > 0 {
			pending = append(pending[:0], pending[cut:]...)
		}
	}
}

// alone stands behind the number of a process that leads no process group.
const alone = "alone"

// isPIDs reports whether a line ends with numbers of processes. The first is what
// the login shell has become.
func isPIDs(word string) bool {
	word = strings.Replace(word, alone, "", 1)
	return word != "" && strings.Trim(word, " 0123456789") == ""
}

func isEmpty(word string) bool { return word == "" }

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
	_, rest, err := awaitToken(p.ch, p.token, isEmpty, nil)
	if err == nil {
		p.copyTo(p.out, rest, p.ch, p.t.stallOut)
	}
}

// pumpStderr also sees from standard error when the script begins, and when sudo
// asks for the password.
func (p *process) pumpStderr() {
	r := p.ch.Stderr()
	pids, rest, err := awaitToken(r, "\n"+p.token+" ", isPIDs, p.beforeStart)
	if err != nil {
		return
	}
	p.pids.Store(pids)
	p.begun()
	p.copyTo(p.err, rest, r, nil)
}

// begun says that the script proper begins, or never will.
func (p *process) begun() {
	p.start.Do(func() {
		if p.onStart != nil {
			p.onStart()
		}
		close(p.started)
	})
}

// beforeStart looks at what came on standard error before the script began.
func (p *process) beforeStart(pending []byte) {
	p.words.set(pending)
	if !p.as.sudo {
		return
	}
	reached, sudo, behind := outerLines(pending, p.token)
	if n := int32(reached); n > p.outer.Load() { // the first ones may be gone from pending
		p.outer.Store(n)
	}
	// What comes before sudo may print the command, and with it the prompt.
	last := int32(1)
	if p.as.terminal {
		last = 2
	}
	if p.as.prompt == "" || p.outer.Load() < last {
		return
	}
	for n := int32(bytes.Count(behind, []byte(p.as.prompt))); p.asked.Load() < n; {
		if p.asked.Add(1) == 1 {
			_, _ = io.WriteString(p.ch, p.c.opts.SudoPassword.Reveal()+"\n")
		} else {
			p.c.bg.Go(func() { p.endSudo(sudo) })
		}
	}
}

// outerLines counts the lines with the outer token, and returns the number of the
// process in the last one and what is behind that.
func outerLines(b []byte, token string) (n int, pid string, behind []byte) {
	behind = b
	for {
		_, after, ok := bytes.Cut(b, []byte(outerToken(token)+" "))
		if !ok {
			return n, pid, behind
		}
		b = after
		if word, rest, ok := bytes.Cut(after, []byte("\n")); ok && isPIDs(string(word)) {
			n, pid, behind = n+1, string(word), rest
		}
	}
}

// endSudo ends sudo when it asks for the password again, because the first one
// was wrong. At the end of its input it would give up, too, but count that as
// another failed attempt, of which accounts have few (pam_faillock(8)). While it
// asks it may be killed by the user who called it.
func (p *process) endSudo(pid string) {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	_, _ = p.c.run(ctx, func(error) {}, task{script: "kill -KILL " + pid, unkillable: true, asUser: true})
	p.within(ctx, killGrace, p.done)
	p.closeInput()
}

func (p *process) pumpStdin() {
	defer p.closeInput()
	if _, err := io.WriteString(p.ch, p.first); err != nil {
		return
	}
	if p.t.stdin != nil || p.as.prompt != "" || p.t.private != "" {
		// Until then the input is sudo's, and start files of the login shell may
		// read some of it.
		<-p.started
		if p.pids.Load() == nil {
			return
		}
	}
	if _, err := io.WriteString(p.ch, p.t.private); err != nil || p.t.stdin == nil {
		return
	}
	size := p.t.buf
	if size == 0 {
		size = maxPacket
	}
	buf := make([]byte, size)
	for !p.deaf.Load() {
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
