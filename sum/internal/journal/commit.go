package journal

import (
	"context"
	"errors"
)

// maxPending bounds what waits for a slow disk; more callers wait outside.
const maxPending = 8 << 20

// batch is a group of records that share one write and one fsync.
type batch struct {
	done chan struct{}
	err  error // valid after done
}

// enqueue gives a record its number and its place in the next batch.
func (j *Journal) enqueue(ctx context.Context, r Record, b body) (*batch, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return nil, ended(ctx)
		case j.err != nil:
			return nil, j.err
		case j.ending:
			return nil, ErrEnded
		case j.closed:
			return nil, ErrClosed
		case r.Kind == kindEnded && len(j.open) > 0:
			return nil, ErrStillOpen
		}
		if j.batch == nil || len(j.pending)+len(b)+seqRoom+crcLen <= maxPending {
			break
		}
		full := j.batch
		j.mu.Unlock()
		select {
		case <-full.done:
		case <-ctx.Done():
		}
		j.mu.Lock()
	}
	if j.batch == nil {
		j.batch = &batch{done: make(chan struct{})}
	}
	j.seq++
	j.pending = b.appendLine(j.pending, j.seq)
	switch r.Op {
	case OpOpened:
		j.open[r.key()] = struct{}{}
	case OpClosed:
		delete(j.open, r.key())
	}
	j.ending = r.Kind == kindEnded
	bt := j.batch
	j.signal()
	return bt, nil
}

func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// commit writes batches until the journal is closed: while one is on its way to
// the disk, the next gathers. It owns the file.
func (j *Journal) commit() {
	defer close(j.done)
	var spare []byte
	for {
		<-j.wake
		for {
			j.mu.Lock()
			data, bt, err := j.pending, j.batch, j.err
			j.pending, j.batch = spare[:0], nil
			closed := j.closed
			j.mu.Unlock()
			if bt == nil {
				spare = data
				if closed {
					j.release = errors.Join(j.file.Close(), j.unlock())
					return
				}
				break
			}
			if err == nil {
				err = j.write(data)
			}
			bt.err = err
			close(bt.done)
			spare = data
			if cap(spare) > 4*MaxRecord {
				spare = nil
			}
		}
	}
}

// write makes a batch durable. After a failure the state of the file is
// unknown: the journal keeps the error for all later records.
func (j *Journal) write(data []byte) error {
	_, err := j.file.Write(data)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.mu.Lock()
		j.err = err
		j.mu.Unlock()
	}
	return err
}
