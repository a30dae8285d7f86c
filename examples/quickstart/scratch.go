package main

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// scratch is the directory of a run. Beside it is a file that the run has locked as long
// as it lives: the lock of a process that was killed is nobody's.
type scratch struct {
	dir  string
	lock *flock.Flock
}

const (
	scratchPrefix = "roundsman-quickstart-"
	lockSuffix    = ".lock"
)

// newScratch makes a directory for this run, after it has removed those of runs that were
// killed.
func newScratch() (*scratch, error) {
	sweep()
	for {
		dir := filepath.Join(os.TempDir(), scratchPrefix+rand.Text())
		s := &scratch{dir, flock.New(dir+lockSuffix, flock.SetPermissions(0o600))}
		locked, err := s.lock.TryLock()
		if err != nil {
			return nil, err
		}
		if !locked {
			continue // a run that sweeps has found it
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errors.Join(err, s.remove())
		}
		return s, nil
	}
}

func (s *scratch) remove() error {
	// The file is last: without it nobody would find the directory. Windows deletes none
	// that is open.
	if err := errors.Join(os.RemoveAll(s.dir), s.lock.Unlock()); err != nil {
		return err
	}
	return os.Remove(s.lock.Path())
}

// sweep removes the directories of runs that were killed. Those of other users are left to
// them.
func sweep() {
	locks, _ := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*"+lockSuffix))
	for _, file := range locks {
		if fi, err := os.Lstat(file); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		s := &scratch{strings.TrimSuffix(file, lockSuffix), flock.New(file)}
		if locked, err := s.lock.TryLock(); err == nil && locked {
			_ = s.remove()
		}
	}
}
