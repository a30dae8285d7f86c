package smb

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A transfer keeps so many requests of so many bytes under way: one alone leaves the
// line idle for a round trip after each. 1 MiB is as much as Windows takes at once.
const (
	window = 4
	block  = 1 << 20
)

// counter counts what a writer took.
type counter struct {
	w io.Writer
	n atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(max(0, n)))
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// piece is one request of a transfer.
type piece struct {
	buf  []byte
	n    int
	err  error
	done chan struct{}
}

// pieces are the requests of a transfer that are under way. The goroutine of each
// ends with its request; whoever gives up does not wait for them.
type pieces struct {
	k     *call
	under sync.WaitGroup
	queue []*piece // in their order
	spare [][]byte
}

// buffer returns room for a piece.
func (p *pieces) buffer(n int64) []byte {
	if i := len(p.spare) - 1; i >= 0 {
		b := p.spare[i]
		p.spare = p.spare[:i]
		return b[:n]
	}
	return make([]byte, n)
}

// start begins a request.
func (p *pieces) start(buf []byte, f func([]byte) (int, error)) {
	q := &piece{buf: buf, done: make(chan struct{})}
	p.queue = append(p.queue, q)
	p.under.Add(1)
	p.k.c.lib.Go(func() {
		defer p.under.Done()
		defer close(q.done)
		q.n, q.err = guard(func() (int, error) { return f(buf) })
	})
}

// oldest waits for the request that was started first.
func (p *pieces) oldest() (*piece, error) {
	q := p.queue[0]
	var stalled <-chan time.Time
	if limit := p.k.c.opts.StallTimeout; limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		stalled = timer.C
	}
	select {
	case <-q.done:
	case <-p.k.ctx.Done():
		return nil, p.k.ctx.Err()
	case <-stalled:
		p.k.cancel(errStalled)
		return nil, errStalled
	}
	p.queue = p.queue[1:]
	return q, q.err
}

// free takes the room of a piece that is done with.
func (p *pieces) free(q *piece) {
	if cap(q.buf) >= block {
		p.spare = append(p.spare, q.buf)
	}
}

// close closes the file when no request uses it any more, and waits for that while the
// call lasts: what is open cannot be renamed or removed.
func (p *pieces) close(f file) { p.k.closeAfter(&p.under, f) }

// read reads from one offset to another, several requests at a time, hands what comes
// to take, in order, and closes the file. A file that ends earlier is no error.
func (k *call) read(f file, from, to int64, take func([]byte) error) error {
	p := &pieces{k: k}
	defer p.close(f)
	return p.read(f, from, to, take)
}

func (p *pieces) read(f file, from, to int64, take func([]byte) error) error {
	for at := from; ; {
		for ; at < to && len(p.queue) < window; at += block {
			off := at
			p.start(p.buffer(min(block, to-at)), func(b []byte) (int, error) { return readFull(f, b, off) })
		}
		if len(p.queue) == 0 {
			return nil
		}
		q, err := p.oldest()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if cerr := p.k.ctx.Err(); cerr != nil {
			return cerr // nobody waits for it any more
		}
		if terr := take(q.buf[:q.n]); terr != nil {
			return terr
		}
		if err != nil || q.n < len(q.buf) {
			return nil
		}
		p.free(q)
	}
}

// readFull reads until b is full or the file ends, which is io.EOF.
func readFull(f io.ReaderAt, b []byte, off int64) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = f.ReadAt(b[n:], off+int64(n))
		n += max(0, m)
		if m <= 0 && err == nil {
			err = io.EOF
		}
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

// progress is how far a Put is.
type progress struct {
	kept, sent atomic.Int64

	mu       sync.Mutex
	reported int64
	silent   bool // Put has returned
}

// hush ends calls of PutOptions.Progress: Put is about to return.
func (p *progress) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
}

// report tells the caller how many bytes are on the target.
func (p *put) report(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opts.Progress != nil && !p.silent && done > p.reported {
		p.reported = done
		p.opts.Progress(done)
	}
}
