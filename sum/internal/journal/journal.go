package journal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Options is what a caller may choose. The zero value is useful.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// KeepDone is how many ended runs Open leaves in the directory: 0 means
	// 100, a negative number none.
	KeepDone int
	// KeepAge is how long Open leaves an ended run: 0 means 90 days, a negative
	// duration for ever.
	KeepAge time.Duration
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.KeepDone == 0 {
		o.KeepDone = 100
	}
	if o.KeepAge == 0 {
		o.KeepAge = 90 * 24 * time.Hour
	}
	return o
}

// logFile is what a Journal needs of *os.File.
type logFile interface {
	Write([]byte) (int, error)
	Sync() error
	Close() error
}

// Journal is the journal of one run, held for writing. Its methods are safe for
// concurrent use.
type Journal struct {
	path   string
	id     string
	now    func() time.Time
	file   logFile
	unlock func() error

	wake chan struct{} // to the committer; one pending signal is enough
	done chan struct{} // closed when the committer has given everything back

	mu      sync.Mutex
	seq     uint64
	pending []byte
	batch   *batch // of pending; nil when that is empty
	open    map[key]struct{}
	err     error // sticky
	ending  bool  // Retire has taken the last record
	closed  bool
	release error // of closing file and lock; valid after done
}

// timeLayout sorts as text, and is a legal file name everywhere.
const timeLayout = "20060102T150405.000000000Z"

// Open begins a run: it creates the directory and the run's file, and holds the
// run's lock until Close, Retire or the end of the process. Before that it
// removes ended runs as [Prune] does; an error of that is not reported.
//
// It fails with ErrUnsafe where other users can write the directory.
func Open(dir string, o Options) (*Journal, error) {
	o = o.withDefaults()
	if err := makeDir(dir); err != nil {
		return nil, fail("open", dir, err)
	}
	// Whoever cannot remove old files can still write a new one.
	_ = Prune(dir, o)

	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fail("open", dir, err)
	}
	id := hex.EncodeToString(random[:])
	path := filepath.Join(dir, "run-"+o.Now().UTC().Format(timeLayout)+"-"+id+dataSuffix)

	// The lock comes first: a file without a held lock is a dead run's.
	lock := flock.New(lockPath(path), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	if ok, err := lock.TryLock(); err != nil || !ok {
		if err == nil {
			err = ErrLive
		}
		return nil, fail("open", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fail("open", path, errors.Join(err, lock.Unlock()))
	}
	j := &Journal{path: path, id: id, now: o.Now, file: f, unlock: lock.Unlock}
	if err := j.begin(kindBegin, begin{Format: format, Owner: self()}); err != nil {
		return nil, fail("open", path, errors.Join(err, f.Close(), lock.Unlock()))
	}
	return j, nil
}

// format is the version of the file's form.
const format = 1

// begin is the data of the first record.
type begin struct {
	Format int `json:"format"`
	Owner
}

// begin writes the record with which a process takes over the file, makes it
// durable with its directory entry, and starts the committer.
func (j *Journal) begin(kind string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return err
	}
	b, err := Record{Time: j.now().UTC(), Kind: kind, Data: raw}.body()
	if err != nil {
		return err
	}
	j.seq++
	if _, err := j.file.Write(b.appendLine(nil, j.seq)); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	j.start()
	return nil
}

func (j *Journal) start() {
	j.wake = make(chan struct{}, 1)
	j.done = make(chan struct{})
	if j.open == nil {
		j.open = map[key]struct{}{}
	}
	go j.commit()
}

// ID returns the run's identity: 16 hexadecimal digits.
func (j *Journal) ID() string { return j.id }

// Path returns the run's file.
func (j *Journal) Path() string { return j.path }

// Append writes a record and returns nil once it is durable. Seq is ignored and
// given anew; a zero Time is set.
//
// When ctx ends while the record is on its way to the disk, the error wraps the
// context's error and its cause, and the record may or may not be written. An error that is ErrRecord or ErrTooLarge concerns this record only.
// After any other error the journal is unusable, and returns it again.
func (j *Journal) Append(ctx context.Context, r Record) error {
	if err := r.valid(); err != nil {
		return fail("append", j.path, err)
	}
	return j.append(ctx, "append", r)
}

func (j *Journal) append(ctx context.Context, op string, r Record) error {
	if r.Time.IsZero() {
		r.Time = j.now().UTC()
	}
	b, err := r.body()
	if err != nil {
		return fail(op, j.path, err)
	}
	bt, err := j.enqueue(ctx, r, b)
	if err != nil {
		return fail(op, j.path, err)
	}
	select {
	case <-bt.done:
	case <-ctx.Done():
		return fail(op, j.path, ended(ctx))
	}
	if bt.err != nil {
		return fail(op, j.path, bt.err)
	}
	return nil
}

// Retire marks the run as ended, so that no recovery looks at it again, and
// closes the journal. While a resource is open it fails with ErrStillOpen and
// changes nothing: what cannot be closed must be given up by appending Closed
// for it.
func (j *Journal) Retire(ctx context.Context) error {
	if err := j.append(ctx, "retire", Record{Kind: kindEnded}); err != nil {
		return err
	}
	return j.Close(ctx)
}

// closeGrace is how long Close waits for the disk on a context that has ended.
const closeGrace = 10 * time.Second

// Close waits until records under way are written and gives the run's lock
// back. Unless the run was retired, it is then dead, and for a recovery. Close
// may be called more than once.
//
// On a context that ends, Close returns after 10 seconds at most with the
// context's error; the lock is then given back when the disk answers.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.signal()
	select {
	case <-j.done:
	case <-ctx.Done():
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-j.done:
		case <-grace.C:
			return fail("close", j.path, ended(ctx))
		}
	}
	if j.release != nil {
		return fail("close", j.path, j.release)
	}
	return nil
}
