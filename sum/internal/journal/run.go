package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// State is what has become of a run.
type State string

const (
	// Live: a process holds the run, or is recovering it.
	Live State = "live"
	// Dead: the run was not retired, and nobody holds it.
	Dead State = "dead"
	// Ended: the run was retired.
	Ended State = "ended"
)

// Owner is the process that began a run. The lock, not the owner, decides
// whether a run is alive: this is for people.
type Owner struct {
	PID          int       `json:"pid"`
	ProcessStart time.Time `json:"process_start,omitzero"` // zero where the system does not tell
	Host         string    `json:"host,omitempty"`
}

// self describes this process.
func self() Owner {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return Owner{PID: os.Getpid(), ProcessStart: processStart().UTC(), Host: host}
}

// Run is a run in a journal directory, as it was when it was listed.
type Run struct {
	Path    string // its file
	ID      string
	Started time.Time
	State   State
	Owner   Owner // zero when the first record is missing or damaged
}

// Open returns the resources that the run opened and did not close; see
// [Replay].
func (r Run) Open() ([]Record, error) { return Replay(Read(r)) }

const (
	dataSuffix = ".jsonl"
	lockSuffix = ".lock"
)

var runName = regexp.MustCompile(`^run-([0-9]{8}T[0-9]{6}\.[0-9]{9}Z)-([0-9a-f]{16})\.jsonl$`)

func lockPath(path string) string { return strings.TrimSuffix(path, dataSuffix) + lockSuffix }

// Runs returns the runs in a directory, oldest first. Where there is no
// directory there are no runs. It fails with ErrUnsafe where other users can
// write the directory.
func Runs(dir string) ([]Run, error) {
	if err := checkDir(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fail("read", dir, err)
	}
	entries, err := os.ReadDir(dir) // sorted by name, and so by time
	if err != nil {
		return nil, fail("read", dir, err)
	}
	var runs []Run
	for _, e := range entries {
		m := runName.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		started, err := time.Parse(timeLayout, m[1])
		if err != nil {
			continue
		}
		run := Run{Path: filepath.Join(dir, e.Name()), ID: m[2], Started: started}
		switch err := run.look(); {
		case errors.Is(err, fs.ErrNotExist): // pruned meanwhile
		case err != nil:
			return nil, fail("read", run.Path, err)
		default:
			runs = append(runs, run)
		}
	}
	return runs, nil
}

// look fills in the state and the owner.
func (r *Run) look() error {
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	for rec, err := range scan(f, r.Path) {
		var b begin
		if err == nil && rec.Kind == kindBegin && json.Unmarshal(rec.Data, &b) == nil {
			r.Owner = b.Owner
		}
		break
	}
	ended, err := endsRetired(f)
	if err != nil {
		return err
	}
	if ended {
		r.State = Ended
		return nil
	}
	live, err := held(r.Path)
	if err != nil {
		return err
	}
	if live && r.holderIsGone(f) {
		// A process that is killed while it starts another leaves its lock to that
		// one until it executes its program.
		for end := time.Now().Add(forkWait); live && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
			if live, err = held(r.Path); err != nil {
				return err
			}
		}
	}
	r.State = Dead
	if live {
		r.State = Live
	}
	return nil
}

// holderIsGone reports whether the process that took the run last is known to be
// no more.
func (r *Run) holderIsGone(f *os.File) bool {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false
	}
	last := r.Owner
	for rec, err := range scan(f, r.Path) {
		var by adopted
		if err == nil && rec.Kind == kindAdopted && json.Unmarshal(rec.Data, &by) == nil {
			last = by.Owner
		}
	}
	return last.PID > 0 && last.Host == self().Host && isGone(last.PID)
}

// forkWait is how long a child may take to execute its program.
const forkWait = 5 * time.Second

// endsRetired reports whether the last record of a file is the one that Retire
// writes, which is short: its own end is enough.
func endsRetired(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	size := min(info.Size(), 4096)
	tail := make([]byte, size)
	if _, err := f.ReadAt(tail, info.Size()-size); err != nil && err != io.EOF {
		return false, err
	}
	tail, whole := bytes.CutSuffix(tail, []byte("\n"))
	if !whole {
		return false, nil
	}
	r, err := decodeLine(tail[bytes.LastIndexByte(tail, '\n')+1:])
	return err == nil && r.Kind == kindEnded, nil
}

// held reports whether somebody holds the run's lock. It asks with a shared
// lock, so that two who ask at once do not take each other for a live run.
func held(path string) (bool, error) {
	lock := flock.New(lockPath(path), flock.SetFlag(os.O_RDONLY))
	ok, err := lock.TryRLock()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if ok {
		return false, lock.Unlock()
	}
	return true, nil
}
