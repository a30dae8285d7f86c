package smb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is the connection below the SMB library. It frames what comes in (MS-SMB2,
// section 2.1, or RFC 1002, section 4.3.1, which agree as far as the library goes),
// and stands between a server and what version 1.1.0 of the library gets wrong:
//
//   - Of a server that requires signing the library refuses interim replies, which are
//     never signed (MS-SMB2, sections 3.2.5.1.3 and 3.3.4.2). line hands them over in a form
//     whose signature it does not ask for. What they say cannot be trusted, but is no
//     more than "later"; the reply that follows is signed and checked.
//   - It takes lengths and offsets of a reply as they are, and would go down with the
//     whole program: line ends the connection instead. While the session is set up it
//     lets through the one reply that is waited for, and nothing else.
//   - It accepts another dialect than was offered, and that a server makes it a guest,
//     whose replies nobody signs.
//   - It hides what the server says of itself: see [greeting].
//   - It loses codes of refusals: see [openings].
type line struct {
	net.Conn
	heard   func(frame) error // is told of replies to NEGOTIATE and SESSION_SETUP
	sealed  func() bool       // reports whether there are keys to decrypt with
	moved   atomic.Int64      // when a byte last came in, in nanoseconds
	started time.Time

	pending []byte // what the library gets before anything else
	left    int    // bytes of the frame that go to the library as they come
	header  [4 + headerSize]byte

	out      []byte // the beginning of a frame that the library sends
	outLeft  int    // bytes of it that follow
	opening  bool   // they are kept, too: openings looks at them
	openings openings

	mu       sync.Mutex
	asked    *request // of the set-up of the session, and not answered
	granted  bool     // the session is set up
	greeted  bool     // and the library uses it
	whyEnded error
}

// request is what a reply belongs to.
type request struct {
	command uint16
	id      uint64 // MessageId
}

// Constants of MS-SMB2, section 2.2.1, and of the transform header, section 2.2.41.
const (
	headerSize    = 64
	transformSize = 52
	// maxGreeting bounds what is read into memory of a reply to NEGOTIATE or
	// SESSION_SETUP.
	maxGreeting = 64 << 10
	// maxFrame bounds any frame: the library never asks for more than 1 MiB at once.
	maxFrame = 2 << 20

	flagAsync  = 0x2
	flagSigned = 0x8

	commandNegotiate    = 0
	commandSessionSetup = 1
)

// frame is one message of the server, as far as it is in memory: the header, and of
// a greeting all.
type frame []byte

func (f frame) status() uint32   { return binary.LittleEndian.Uint32(f[8:]) }
func (f frame) command() uint16  { return binary.LittleEndian.Uint16(f[12:]) }
func (f frame) flags() uint32    { return binary.LittleEndian.Uint32(f[16:]) }
func (f frame) next() uint32     { return binary.LittleEndian.Uint32(f[20:]) }
func (f frame) structure() int   { return int(binary.LittleEndian.Uint16(f[4:])) }
func (f frame) isInterim() bool  { return f.status() == statusPending && f.flags()&flagAsync != 0 }
func (f frame) isSigned() bool   { return f.flags()&flagSigned != 0 }
func (f frame) message() uint64  { return binary.LittleEndian.Uint64(f[24:]) }
func (f frame) isGreeting() bool { return f.command() <= commandSessionSetup }
func (f frame) isPlain() bool    { return string(f[:4]) == "\xfeSMB" }

// isOpening reports whether the frame is one that openings looks at.
func (f frame) isOpening() bool {
	switch f.command() {
	case commandCreate, commandClose, commandSetInfo:
		return f.isPlain()
	}
	return false
}

// newLine wraps a connection, of a server that says g of itself.
func newLine(conn net.Conn, g *greeting) *line {
	return &line{Conn: conn, heard: g.hear, sealed: g.canEncrypt, started: time.Now()}
}

// Write implements net.Conn for the one goroutine of the library that writes. What it
// asks while the session is set up is noted.
func (l *line) Write(p []byte) (int, error) {
	for b := p; len(b) > 0; {
		if l.outLeft > 0 {
			n := min(l.outLeft, len(b))
			l.outLeft -= n
			if l.opening {
				l.out = append(l.out, b[:n]...)
			}
			b = b[n:]
			if l.opening && l.outLeft == 0 {
				l.openings.asks(l.out[4:])
				l.out, l.opening = l.out[:0], false
			}
			continue
		}
		n := min(4+headerSize-len(l.out), len(b))
		l.out = append(l.out, b[:n]...)
		b = b[n:]
		if len(l.out) == 4+headerSize {
			l.sends(l.out[4:])
			l.outLeft = max(0, int(binary.BigEndian.Uint32(l.out))-headerSize)
			if l.opening = l.outLeft > 0 && frame(l.out[4:]).isOpening(); !l.opening {
				l.out = l.out[:0]
			}
		}
	}
	return l.Conn.Write(p)
}

// sends notes a request, before it is sent.
func (l *line) sends(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.granted: // the library has taken the reply that grants the session
		l.greeted, l.asked = true, nil
	case f.isGreeting():
		l.asked = &request{f.command(), f.message()}
	}
}

// setUp says whether the library uses its session, and else what it waits for.
func (l *line) setUp() (done bool, asked *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.greeted, l.asked
}

// errFrame is what a server sent that no server sends.
type errFrame struct{ text string }

func (e *errFrame) Error() string { return e.text }

func badFrame(format string, args ...any) error { return &errFrame{fmt.Sprintf(format, args...)} }

// Read implements net.Conn for the one goroutine of the library that reads.
func (l *line) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(l.pending) == 0 && l.left == 0 {
		if err := l.next(); err != nil {
			return 0, l.end(err)
		}
	}
	if len(l.pending) > 0 {
		n := copy(p, l.pending)
		l.pending = l.pending[n:]
		return n, nil
	}
	n, err := l.Conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	l.touch(n)
	if err != nil {
		err = l.end(err)
	}
	return n, err
}

func (l *line) touch(n int) {
	if n > 0 {
		l.moved.Store(int64(time.Since(l.started)))
	}
}

// silence is how long nothing has come in.
func (l *line) silence() time.Duration {
	return time.Since(l.started) - time.Duration(l.moved.Load())
}

// end notes why the connection is of no use any more. The library passes the error
// on as text in places.
func (l *line) end(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.whyEnded == nil {
		l.whyEnded = err
	}
	return err
}

func (l *line) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whyEnded
}

// hangUp ends the connection for the reason given.
func (l *line) hangUp(why error) {
	_ = l.end(why)
	_ = l.Conn.Close()
}

// next reads the beginning of the next frame.
func (l *line) next() error {
	h := l.header[:4]
	for {
		if _, err := io.ReadFull(l.Conn, h); err != nil {
			return err
		}
		l.touch(1)
		// SESSION KEEP ALIVE, RFC 1002, section 4.3.6, has no content and no answer.
		if h[0] == sessionKeepAlive && h[1]|h[2]|h[3] == 0 {
			continue
		}
		break
	}
	if h[0] != 0 {
		return badFrame("a frame of type %#x", h[0])
	}
	size := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	if size < headerSize || size > maxFrame {
		return badFrame("a frame of %d bytes", size)
	}
	f := frame(l.header[4:])
	if _, err := io.ReadFull(l.Conn, f); err != nil {
		return err
	}
	l.touch(1)
	l.left = size - headerSize
	l.pending = l.header[:]
	done, asked := l.setUp()
	switch {
	case bytes.Equal(f[:4], []byte("\xfdSMB")):
		if !done || !l.sealed() {
			return badFrame("an encrypted message, for which there is no key")
		}
		// The smallest message that can be in it is a header.
		if size < transformSize+headerSize {
			return badFrame("an encrypted message of %d bytes", size)
		}
		return nil
	case !bytes.Equal(f[:4], []byte("\xfeSMB")):
		return badFrame("a message that is not of SMB 2 or 3, but begins with %q", f[:4])
	case f.structure() != headerSize:
		return badFrame("a header of %d bytes", f.structure())
	case f.next() != 0:
		return badFrame("several replies in one message, which nobody asked for")
	case done && f.isGreeting():
		return badFrame("a reply to command %d, which nobody waits for", f.command())
	case !done && (asked == nil || *asked != request{f.command(), f.message()}):
		return badFrame("a reply to command %d, which nobody waits for, while the session is set up", f.command())
	case !done:
		return l.greeting(size)
	case f.isInterim() && !f.isSigned():
		return l.interim(size)
	case f.command() == commandCreate && f.status() == 0 && size <= maxOpening:
		return l.whole(size, maxOpening, func(f frame) error { l.openings.answered(f); return nil })
	case f.isOpening():
		l.openings.answered(f)
	}
	return nil
}

// interim hands an interim reply over as the second of two messages. Of the first,
// a notice of which nobody waits, the library checks the session and no signature; the
// second then has neither, and only its message ID counts.
func (l *line) interim(size int) error {
	if size > maxGreeting {
		return badFrame("an interim reply of %d bytes", size)
	}
	out := make([]byte, 4+headerSize+size)
	binary.BigEndian.PutUint32(out, uint32(headerSize+size))
	notice, reply := out[4:4+headerSize], out[4+headerSize:]
	copy(notice, l.header[4:])
	copy(reply, l.header[4:])
	if _, err := io.ReadFull(l.Conn, reply[headerSize:]); err != nil {
		return err
	}
	l.left = 0
	le := binary.LittleEndian
	le.PutUint32(notice[16:], le.Uint32(notice[16:])&^flagAsync)
	le.PutUint32(notice[20:], headerSize) // NextCommand
	le.PutUint64(notice[24:], 1<<64-1)    // MessageId: of no request
	le.PutUint64(notice[32:], 0)          // process and tree
	le.PutUint64(reply[40:], 0)           // SessionId
	l.pending = out
	return nil
}

// greeting reads the whole of a reply that belongs to the set-up of the session.
func (l *line) greeting(size int) error {
	return l.whole(size, maxGreeting, func(f frame) error {
		if err := l.heard(f); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asked = nil
		l.granted = f.command() == commandSessionSetup && f.status() == 0
		return nil
	})
}

// whole reads the whole of a reply, which may have limit bytes, and has look see it before
// the library does.
func (l *line) whole(size, limit int, look func(frame) error) error {
	if size > limit {
		return badFrame("a reply to command %d of %d bytes", frame(l.header[4:]).command(), size)
	}
	out := make([]byte, 4+size)
	copy(out, l.header[:])
	if _, err := io.ReadFull(l.Conn, out[len(l.header):]); err != nil {
		return err
	}
	l.left = 0
	l.pending = out
	return look(out[4:])
}
