package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// bulkSizes say from which sizes on a Put takes more trouble, in bytes.
type bulkSizes struct {
	large  int64 // a file that goes in pieces
	piece  int64 // a piece; a multiple of block
	second int64 // what is left to send if a second connection is to help
	check  int64 // a part under one digest when a Put is continued; a multiple of block
}

const (
	block      = 64 << 10  // bytes that dd writes at a time
	ahead      = 3         // pieces that may be under way, or lacking before others
	sendBuffer = 256 << 10 // bytes of one read from the source
)

func (b bulkSizes) orDefault() bulkSizes {
	if b == (bulkSizes{}) {
		return bulkSizes{large: 32 << 20, piece: 64 << 20, second: 192 << 20, check: 4 << 20}
	}
	return b
}

// tail is how many bytes at the end of a partial file may lack pieces.
func (b bulkSizes) tail() int64 { return ahead * b.piece }

// piece is a part of the file: whole blocks, or the end that is less than one.
type piece struct {
	off, size int64
	acked     bool
}

// sending is a file on its way through the shell, in a stream or in pieces.
type sending struct {
	p     *put
	ctx   context.Context
	stop  context.CancelFunc
	first *lane
	help  sync.WaitGroup // for the second lane

	mu      sync.Mutex
	changed chan struct{} // closed when one of these changes
	state   sendState
	offset  int64            // where a stream begins, or the size of the partial file
	tail    map[int64]string // by number, the digests of parts of bulkSizes.check
	pieces  []piece
	next    int   // the first piece that nobody took
	again   []int // pieces that a lane took and lost
	low     int   // the pieces before it are on the target
	fed     int64 // blocks that went into the digest
	ended   bool  // the end was commanded
	digest  string
	status  int  // exit status of what failed in a lane
	short   bool // the source ended early
	joined  bool // nobody may begin to help

	recording bool         // what the first script says is the record now
	record    bytes.Buffer // about the finished file
}

// sendState says how far the conversation with the first script is.
type sendState int

const (
	sendAsked    sendState = iota // it has said nothing yet
	sendListed                    // it takes pieces, and tells what it has
	sendHeard                     // it has told everything
	sendStream                    // it takes a stream
	sendPieces                    // the pieces are laid out
	sendDigested                  // the script has read everything back
	sendOver                      // nothing more is to be sent
)

func newSending(ctx context.Context, p *put) *sending {
	s := &sending{p: p, changed: make(chan struct{}), tail: map[int64]string{}}
	s.ctx, s.stop = context.WithCancel(ctx)
	s.first = &lane{s: s, src: p.src, main: true}
	return s
}

// set changes what mu guards and wakes who waits for that.
func (s *sending) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wake()
}

func (s *sending) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sending) isShort() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.short
}

// join waits for the second lane, which has nothing left to do if all went well.
func (s *sending) join(well bool) {
	if well {
		defer time.AfterFunc(killGrace, s.stop).Stop()
	} else {
		s.stop()
	}
	s.mu.Lock()
	s.joined = true
	s.mu.Unlock()
	s.help.Wait()
	s.stop()
}

// plan lays out the pieces that the target lacks. What it has, it has told by
// size and, for the end, by digests.
func (s *sending) plan() error {
	size, sizes := s.p.f.Size, s.p.k.c.bulk
	kept, err := s.common()
	if err != nil {
		return err
	}
	s.p.kept.Store(kept)
	var pieces []piece
	whole := size / block * block
	for off := kept; off < whole; off += sizes.piece {
		pieces = append(pieces, piece{off: off, size: min(sizes.piece, whole-off)})
	}
	if whole < size {
		pieces = append(pieces, piece{off: whole, size: size - whole})
	}
	c := s.p.k.c
	s.set(func() {
		s.state, s.pieces = sendPieces, pieces
		if c.second != nil && !c.opts.OneConnection && size-kept >= sizes.second && !s.joined {
			s.help.Go(s.secondLane)
		}
	})
	return nil
}

// common returns how many bytes at the start of the partial file need not be
// sent: a multiple of bulkSizes.check.
func (s *sending) common() (int64, error) {
	size := s.p.k.c.bulk.check
	kept := s.offset / size
	first := kept
	for k := range s.tail {
		first = min(first, k)
	}
	buf := make([]byte, size)
	for k := first; k < kept; k++ {
		if err := s.p.src.seek(k * size); err != nil {
			return 0, err
		}
		if _, err := readFull(s.p.src.read, buf); err != nil {
			return 0, err
		}
		if sum := sha256.Sum256(buf); hex.EncodeToString(sum[:]) != s.tail[k] {
			kept = k
		}
	}
	return kept * size, nil
}

// acked notes that the piece which begins at a block is on the target. The caller
// holds mu.
func (s *sending) acked(at int64) {
	for i := s.low; i < s.next; i++ {
		if s.pieces[i].off == at*block {
			s.pieces[i].acked = true
		}
	}
	for s.low < s.next && s.pieces[s.low].acked {
		s.low++
	}
}

// take gives a lane a piece to send, if there is one within reach. The caller
// holds mu.
func (s *sending) take() (int, bool) {
	if n := len(s.again); n > 0 {
		i := s.again[n-1]
		s.again = s.again[:n-1]
		return i, true
	}
	if s.next < len(s.pieces) && s.next < s.low+ahead {
		s.next++
		return s.next - 1, true
	}
	return 0, false
}

// feedable returns the blocks that are on the target and not in the digest yet.
// The caller holds mu.
func (s *sending) feedable() (from, n int64) {
	size := s.p.f.Size
	end := (size + block - 1) / block
	if s.low < len(s.pieces) {
		end = s.pieces[s.low].off / block
	}
	return s.fed, end - s.fed
}

// secondLane sends pieces over a connection of its own. If that fails, they are
// left to the first lane.
func (s *sending) secondLane() {
	p := s.p
	c, err := p.k.c.second(s.ctx)
	if err != nil {
		return
	}
	defer c.Close(s.ctx)
	src, err := p.open(s.ctx)
	if err != nil {
		return
	}
	defer src.close()
	l := &lane{s: s, src: src}
	defer l.giveBack()
	k, err := c.begin(s.ctx, p.k.op, p.k.path)
	if err != nil {
		return
	}
	defer k.end()
	watch := newStall(c.opts.StallTimeout, k.cancel)
	defer watch.stop()
	dir := p.abs[:max(1, lastSlash(p.abs))]
	_, _ = k.exec(task{script: scriptWith(laneScript, p.part, fmt.Sprint(p.f.Size), dir),
		stdin: l, stdout: l, buf: sendBuffer, stallIn: watch})
}

// protocolError is an answer of a script that makes no sense.
func protocolError(line string) error {
	return &transport.Error{Kind: transport.ErrProtocol, Err: fmt.Errorf("unexpected answer %.80q", line)}
}
