package journal

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// adopted is the data of the record with which a recoverer takes over a run.
type adopted struct {
	Owner
	TornBytes    int64 `json:"torn_bytes,omitempty"`    // cut off the end
	DamagedLines int   `json:"damaged_lines,omitempty"` // left where they are
}

// adoptWait is how long Adopt tries: someone who only lists the runs holds each
// lock for an instant.
const adoptWait = time.Second

// Adopt takes over a dead run, so that its resources can be closed, recorded as
// closed, and the run retired. Of several that adopt the same run at once one
// succeeds; the others get ErrLive. A run that was retired gives ErrEnded, one
// that was removed an error that is [fs.ErrNotExist].
//
// A record that was cut short is removed from the end of the file. Damaged
// lines stay; [Run.Open] reports them, and it is for the caller to decide
// whether to retire the run nevertheless. Only Now is used of the options.
func Adopt(ctx context.Context, run Run, o Options) (*Journal, error) {
	o = o.withDefaults()
	if ctx.Err() != nil {
		return nil, fail("adopt", run.Path, ended(ctx))
	}
	// Without this the lock of a pruned run would be made anew.
	if _, err := os.Stat(run.Path); err != nil {
		return nil, fail("adopt", run.Path, err)
	}
	lock := flock.New(lockPath(run.Path), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	wait, cancel := context.WithTimeout(ctx, adoptWait)
	defer cancel()
	ok, err := lock.TryLockContext(wait, 10*time.Millisecond)
	switch {
	case ctx.Err() != nil && !ok:
		return nil, fail("adopt", run.Path, ended(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fail("adopt", run.Path, ErrLive)
	case err != nil:
		return nil, fail("adopt", run.Path, err)
	}
	j, err := takeOver(run, o, lock)
	if err != nil {
		return nil, fail("adopt", run.Path, errors.Join(err, lock.Unlock()))
	}
	return j, nil
}

// takeOver opens the file of a run whose lock is held, for writing at its end.
func takeOver(run Run, o Options, lock *flock.Flock) (_ *Journal, err error) {
	f, err := os.OpenFile(run.Path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if ended, err := endsRetired(f); err != nil {
		return nil, err
	} else if ended {
		return nil, ErrEnded
	}

	j := &Journal{path: run.Path, id: run.ID, now: o.Now, file: f, unlock: lock.Unlock, open: map[key]struct{}{}}
	note := adopted{Owner: self()}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	for r, err := range scan(f, run.Path) {
		var at *Error
		switch {
		case err == nil:
			j.seq = r.Seq
			switch r.Op {
			case OpOpened:
				j.open[r.key()] = struct{}{}
			case OpClosed:
				delete(j.open, r.key())
			}
		case errors.Is(err, ErrTorn) && errors.As(err, &at):
			note.TornBytes = end - at.Offset
			if err := f.Truncate(at.Offset); err != nil {
				return nil, err
			}
		case errors.Is(err, ErrCorrupt):
			note.DamagedLines++
		default:
			return nil, err
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if err := j.begin(kindAdopted, note); err != nil {
		return nil, err
	}
	return j, nil
}
