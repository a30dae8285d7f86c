package ssh

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// lane is one way to the target: its Read is the input of a script, its Write
// takes the output.
type lane struct {
	s    *sending
	src  *source
	main bool

	// Of Read.
	head []byte // commands that are still to be read
	left int64  // bytes of the piece that are still to be read; below 0: to the end of the source
	last int64  // bytes of the read before, which have been sent by now
	sent []int  // pieces that were taken; guarded by s.mu
	gone bool   // takes no more; guarded by s.mu

	line bytes.Buffer // of Write: a line that is not complete
}

// Read gives commands, and the bytes that belong to them.
func (l *lane) Read(b []byte) (int, error) {
	if l.last > 0 {
		p := l.s.p
		p.progress(min(p.f.Size, p.kept.Load()+p.sent.Add(l.last)))
		l.last = 0
	}
	for {
		switch {
		case l.s.ctx.Err() != nil:
			return 0, io.EOF // or all might have arrived before the program is ended
		case len(l.head) > 0:
			n := copy(b, l.head)
			l.head = l.head[n:]
			return n, nil
		case l.left != 0:
			return l.content(b)
		}
		more, err := l.command()
		if err == nil && !more {
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
}

// content gives bytes of the file.
func (l *lane) content(b []byte) (int, error) {
	stream := l.left < 0
	if !stream {
		b = b[:min(int64(len(b)), l.left)]
	}
	n, err := l.src.read(b)
	l.last = int64(n)
	if !stream {
		l.left -= int64(n)
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if l.src.short() {
		l.s.set(func() { l.s.short, l.s.state = true, sendOver })
		return n, io.EOF
	}
	if stream {
		return n, io.EOF
	}
	return n, nil // commands follow
}

// command sets head and left to what is to be sent next, as soon as that is
// known. It reports false if there is nothing more.
func (l *lane) command() (bool, error) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if l.gone {
			return false, nil
		}
		switch s.state {
		case sendHeard:
			s.mu.Unlock()
			err := s.plan()
			s.mu.Lock()
			if err != nil {
				return false, err
			}
			continue
		case sendStream:
			s.p.kept.Store(s.offset)
			l.left = -1
			s.state = sendOver
			return true, l.src.seek(s.offset)
		case sendPieces:
			if ok, err := l.piece(); ok || err != nil {
				return ok, err
			}
			if !l.main && s.next == len(s.pieces) && len(s.again) == 0 {
				return false, nil
			}
		case sendDigested:
			if !l.main {
				return false, nil
			}
			l.head = []byte("remove\n")
			if s.digest == s.p.f.Digest() {
				l.head = []byte("finish\n")
			}
			s.state = sendOver
			return true, nil
		case sendOver:
			return false, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		if s.ctx.Err() != nil {
			return false, nil
		}
	}
}

// piece commands that a piece be written, or read back. The caller holds s.mu.
func (l *lane) piece() (bool, error) {
	s := l.s
	if l.main && !s.ended {
		if from, n := s.feedable(); n > 0 {
			s.fed += n
			l.head = fmt.Appendf(nil, "h %d %d\n", from, n)
			return true, nil
		}
		if s.low == len(s.pieces) {
			s.ended = true
			l.head = []byte("e 0 0\n")
			return true, nil
		}
	}
	i, ok := s.take()
	if !ok {
		return false, nil
	}
	l.sent = append(l.sent, i)
	p := s.pieces[i]
	if err := l.src.seek(p.off); err != nil {
		return false, err
	}
	l.left = p.size
	if p.size%block == 0 {
		l.head = fmt.Appendf(nil, "w %d %d\n", p.off/block, p.size/block)
	} else {
		l.head = fmt.Appendf(nil, "t %d %d\n", p.off/block, p.size)
	}
	return true, nil
}

// giveBack leaves the pieces to others of which the target has not said that it
// has them.
func (l *lane) giveBack() {
	l.s.set(func() {
		l.gone = true
		for _, i := range l.sent {
			if !l.s.pieces[i].acked {
				l.s.again = append(l.s.again, i)
			}
		}
	})
}

// Write takes what the script says.
func (l *lane) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if l.main && l.recording() {
			if l.s.record.Len()+len(b) > 64<<10 {
				return 0, protocolError(string(b))
			}
			l.s.record.Write(b)
			return n, nil
		}
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if l.line.Len()+len(line) > 4096 {
			return 0, protocolError(string(line))
		}
		l.line.Write(line)
		if !whole {
			return n, nil
		}
		if err := l.heard(l.line.String()); err != nil {
			return 0, err
		}
		l.line.Reset()
		b = rest
	}
	return n, nil
}

func (l *lane) recording() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.recording
}

// heard takes a line that the script says.
func (l *lane) heard(line string) error {
	s := l.s
	word, rest, _ := strings.Cut(line, " ")
	arg, digest, _ := strings.Cut(rest, " ")
	num, numErr := strconv.ParseInt(arg, 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	ok := numErr == nil && num >= 0
	switch {
	case word == "w" && ok && s.state >= sendPieces:
		s.acked(num)
		return nil
	case word == "f" && ok && s.state >= sendPieces:
		s.state, s.status = sendOver, int(num)
		return nil
	case !l.main:
	case word == "done" && s.state == sendAsked:
		s.p.kept.Store(s.p.f.Size)
		s.state, s.recording = sendOver, true
		return nil
	case word == "at" && s.state == sendAsked && ok && num <= s.p.f.Size:
		s.state, s.recording, s.offset = sendStream, true, num
		return nil
	case word == "pieces" && s.state == sendAsked && ok && num <= s.p.f.Size:
		s.state, s.offset = sendListed, num
		return nil
	case word == "b" && s.state == sendListed && ok && num < s.offset/s.p.k.c.bulk.check:
		s.tail[num] = digest
		return nil
	case word == "go" && s.state == sendListed:
		s.state = sendHeard
		return nil
	case word == "x" && s.ended:
		s.state, s.recording, s.digest = sendDigested, true, arg
		if len(arg) != hex.EncodedLen(sha256.Size) {
			s.state, s.status = sendOver, exitOther
		}
		return nil
	case word == "x": // an error has ended it before
		return nil
	}
	return protocolError(line)
}
