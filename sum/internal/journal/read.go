package journal

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
)

// Read yields the records of a run, the journal's own included, in the order in
// which they were written. It may read a run that is being written.
//
// A record cut short at the end yields an [*Error] that is [ErrTorn], and ends
// the sequence; for a live run it means no more than that a record is being
// written. A damaged line yields an [*Error] that is [ErrCorrupt] and names file
// and line; a caller that goes on gets the records behind it. An error of the
// file system ends the sequence.
func Read(run Run) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, err := os.Open(run.Path)
		if err != nil {
			yield(Record{}, fail("read", run.Path, err))
			return
		}
		defer f.Close()
		for r, err := range scan(f, run.Path) {
			if !yield(r, err) {
				return
			}
		}
	}
}

// Replay returns the resources that a sequence of records opened and did not
// close, each as the record that opened it last, in the order of these records.
// A record cut short at the end is no error. Any other error is returned (the
// first one) together with what the readable records say: a resource whose
// record is damaged may then be missing or be there in vain.
func Replay(records iter.Seq2[Record, error]) ([]Record, error) {
	open := map[key]Record{}
	var first error
	for r, err := range records {
		switch {
		case errors.Is(err, ErrTorn):
		case err != nil:
			if first == nil {
				first = err
			}
		case r.Op == OpOpened:
			open[r.key()] = r
		case r.Op == OpClosed:
			delete(open, r.key())
		}
	}
	out := make([]Record, 0, len(open))
	for _, r := range open {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return out, first
}

// scan reads lines in bounded memory. Its errors are as for Read.
func scan(in io.Reader, path string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		br := bufio.NewReaderSize(in, MaxRecord)
		var (
			lineNo  int
			offset  int64
			last    uint64
			damaged bool // since last: its number says how many lines were lost
		)
		for {
			lineNo++
			line, err := br.ReadSlice('\n')
			size := int64(len(line))
			tooLong := errors.Is(err, bufio.ErrBufferFull)
			for errors.Is(err, bufio.ErrBufferFull) {
				var more []byte
				more, err = br.ReadSlice('\n')
				size += int64(len(more))
			}
			at := &Error{Op: "read", Path: path, Line: lineNo, Offset: offset}
			offset += size
			switch {
			case err == io.EOF && size == 0:
				return
			case err == io.EOF:
				at.Err = ErrTorn
				yield(Record{}, at)
				return
			case err != nil:
				at.Err = err
				yield(Record{}, at)
				return
			}

			var r Record
			if tooLong {
				err = fmt.Errorf("%w: %w", ErrCorrupt, ErrTooLarge)
			} else {
				r, err = decodeLine(line[:len(line)-1])
			}
			if err == nil && (r.Seq <= last || (r.Seq != last+1 && !damaged)) {
				err = fmt.Errorf("%w: its number is %d where %d is due", ErrCorrupt, r.Seq, last+1)
			}
			if err != nil {
				at.Err = err
				if !yield(Record{}, at) {
					return
				}
				// Behind a gap the record itself is whole.
				if r.Seq <= last {
					damaged = true
					continue
				}
			}
			last, damaged = r.Seq, false
			if !yield(r, nil) {
				return
			}
		}
	}
}
