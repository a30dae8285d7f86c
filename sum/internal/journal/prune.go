package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// orphanAge is how old a lock file without a run must be before it is removed:
// a run that begins makes its lock first.
const orphanAge = time.Hour

// Prune removes ended runs: those beyond the newest o.KeepDone, and those older
// than o.KeepAge. Runs that are live or dead stay, however old. It goes on after
// an error and returns all of them.
func Prune(dir string, o Options) error {
	o = o.withDefaults()
	runs, err := Runs(dir)
	if err != nil {
		return err
	}
	var errs []error
	kept := 0
	for i := len(runs) - 1; i >= 0; i-- {
		run := runs[i]
		if run.State != Ended {
			continue
		}
		tooOld := o.KeepAge > 0 && o.Now().Sub(run.Started) > o.KeepAge
		if kept < o.KeepDone && !tooOld {
			kept++
			continue
		}
		if err := remove(run); err != nil {
			errs = append(errs, fail("prune", run.Path, err))
		}
	}
	return errors.Join(append(errs, removeOrphans(dir, o.Now()))...)
}

// remove deletes a run under its lock: whoever waits for the lock then finds
// that there is no run. The lock file goes last, because Windows cannot delete
// what is open.
func remove(run Run) error {
	lock := flock.New(lockPath(run.Path), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	if ok, err := lock.TryLock(); err != nil || !ok {
		return err // held: the next Prune does it
	}
	err := os.Remove(run.Path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, lock.Unlock())
	if err == nil {
		// What is left behind is an orphan.
		_ = os.Remove(lockPath(run.Path))
	}
	return err
}

// removeOrphans deletes lock files whose run is gone, or never began.
func removeOrphans(dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail("prune", dir, err)
	}
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), lockSuffix)
		if !isLock || !runName.MatchString(name+dataSuffix) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || now.Sub(info.ModTime()) < orphanAge {
			continue
		}
		data := filepath.Join(dir, name+dataSuffix)
		if _, err := os.Lstat(data); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if live, err := held(data); err == nil && !live {
			_ = os.Remove(lockPath(data))
		}
	}
	return nil
}
