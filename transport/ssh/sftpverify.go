package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"sync"
)

// readBack reads a partial file back for its digest, behind the requests that
// write it: the way back is free meanwhile. Without a second session it is read
// when it is complete.
type readBack struct {
	p    *put
	t    *transfer // of the writer
	sum  hash.Hash
	done sync.WaitGroup
	own  *transfer // nil without a second session

	mu      sync.Mutex
	changed chan struct{} // closed when one of these changes
	at      int64         // so far the file is without holes
	over    bool          // nothing more is written
	err     error
}

// backStep is how many bytes are waited for before they are read, so that many
// requests are under way.
const backStep = 8 << 20

func (p *put) readBack(t *transfer, at int64) *readBack {
	b := &readBack{p: p, t: t, sum: sha256.New(), at: at, changed: make(chan struct{})}
	c := p.k.c
	if p.f.Size < 2*backStep || c.fewSessions.Load() {
		return b
	}
	select {
	case c.sessions <- struct{}{}:
	default:
		return b
	}
	s, err := c.transferSFTP(p.k.ctx)
	if err != nil {
		<-c.sessions
		c.fewSessions.Store(true)
		return b
	}
	b.own = newTransfer(p.k, s, newStall(c.opts.StallTimeout, p.k.cancel))
	b.done.Go(func() {
		stop := context.AfterFunc(p.k.ctx, func() { s.drop(c) })
		b.follow()
		b.own.watch.stop()
		if stop() {
			s.drop(c)
		}
		<-c.sessions
	})
	return b
}

// goOn says how far the file is without holes.
func (b *readBack) goOn(at int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = at
	close(b.changed)
	b.changed = make(chan struct{})
}

// next waits until there is more to read than from, and reports how far.
func (b *readBack) next(from int64) (to int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.over || b.at-from >= backStep:
			return b.at, b.at > from
		case b.p.k.ctx.Err() != nil:
			return 0, false
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-b.p.k.ctx.Done():
		}
		b.mu.Lock()
	}
}

func (b *readBack) follow() {
	f, err := b.own.s.openFile(b.p.part)
	if err == nil {
		defer f.Close()
		var from int64
		for {
			to, ok := b.next(from)
			if !ok {
				break
			}
			if err = b.own.read(f, from, to, b.sum); err != nil {
				break
			}
			from = to
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// end reports whether the target has the content. If it was not written to the
// end, it only stops reading.
func (b *readBack) end(written bool) (bool, error) {
	b.mu.Lock()
	b.over = true
	if !written {
		b.at = 0
	}
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	b.done.Wait()
	if !written {
		return false, nil
	}
	if b.own == nil {
		f, err := b.t.s.openFile(b.p.part)
		if err != nil {
			return false, err
		}
		defer f.Close()
		if err := b.t.read(f, 0, -1, b.sum); err != nil {
			return false, err
		}
	} else if b.err != nil {
		return false, b.err
	}
	return bytes.Equal(b.sum.Sum(nil), b.p.f.SHA256[:]), nil
}
