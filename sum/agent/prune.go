package agent

import (
	"bufio"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// DefaultKeepLogs is how long logs stay on a target if nothing else is said.
const DefaultKeepLogs = 30 * 24 * time.Hour

// keepLogs is the retention in force; false is for ever.
func keepLogs(d time.Duration) (time.Duration, bool) {
	if d == 0 {
		d = DefaultKeepLogs
	}
	return d, d > 0
}

// maxPruned bounds the work of one start.
const maxPruned = 1000

// isAgentID reports whether a name has the form of the IDs that package sum gives
// to agents: 16 lower-case hexadecimal digits.
func isAgentID(name string) bool {
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// minAge is how old a directory is at least before it is pruned, however short logs
// are kept: a manager that begins makes one, and is a while in filling it.
const minAge = time.Hour

// prune deletes the directories of agents that have left, beside this one, in which
// nothing was written for as long as logs are kept. It takes those of this user
// alone, with the name of an ID that package sum gives, that hold logs and the
// records of jobs and nothing else: no program, no job, no marker, no lock that
// somebody holds. A record may be another manager's, which has not asked for it yet:
// those stay for DefaultKeepLogs at least, whatever this one wants.
func (h home) prune(keep time.Duration, log *slog.Logger) {
	keep, prunes := keepLogs(keep)
	if !prunes {
		return
	}
	base, err := os.OpenRoot(h.base())
	if err != nil {
		return
	}
	defer base.Close()
	dir, err := base.Open(".")
	if err != nil {
		return
	}
	entries, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return
	}
	now := time.Now()
	logs, records, n := now.Add(-max(keep, minAge)), now.Add(-max(keep, DefaultKeepLogs)), 0
	for _, e := range entries {
		if !e.IsDir() || !isAgentID(e.Name()) || e.Name() == h.id() {
			continue
		}
		switch done, err := pruneDir(base, e.Name(), logs, records); {
		case err != nil:
			log.Warn("old logs could not be removed", "dir", h.base()+"/"+e.Name(), "error", err)
		case done:
			n++
		}
		if n == maxPruned {
			break
		}
	}
	if n > 0 {
		log.Info("removed logs that were kept long enough", "directories", n, "kept", keep)
	}
}

// pruneDir deletes one directory if it may go. Links are not followed: to none out
// of the base directory, and to none that is in the place of one of ours.
func pruneDir(base *os.Root, name string, logs, records time.Time) (bool, error) {
	fi, err := base.Lstat(name)
	if err != nil || !fi.IsDir() || !ownedByMe(filepath.Join(base.Name(), name), fi) || !keepsOthersOut(filepath.Join(base.Name(), name), fi) {
		return false, ignoreNotExist(err)
	}
	root, err := base.OpenRoot(name)
	if err != nil {
		return false, ignoreNotExist(err)
	}
	defer root.Close()
	if there, err := root.Stat("."); err != nil || !os.SameFile(fi, there) {
		return false, ignoreNotExist(err)
	}
	if files, err := prunable(root, logs, records, false); err != nil || files == nil {
		return false, ignoreNotExist(err)
	}
	// As long as this process has the lock no agent begins there.
	lock, err := lockRoot(root)
	if lock == nil || err != nil {
		return false, ignoreNotExist(err)
	}
	defer lock.Close()
	// Again: somebody may have begun meanwhile. The lock's file itself has just made
	// the directory young.
	files, err := prunable(root, logs, records, true)
	if err != nil || files == nil {
		return false, errors.Join(ignoreNotExist(err), root.Remove(lockName))
	}
	for _, f := range append(files, lockName) {
		if err := root.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	// Somebody may be putting files there: what is not empty stays.
	if err := base.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// lockRoot takes the lock of a directory, or is nil where somebody has it.
func lockRoot(root *os.Root) (*os.File, error) {
	f, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if !tryLock(f) {
		return nil, f.Close()
	}
	mine, err := f.Stat()
	there, terr := root.Lstat(lockName)
	if err != nil || terr != nil || !os.SameFile(mine, there) {
		return nil, f.Close() // whoever had it has removed it
	}
	return f, nil
}

// prunable is onlyLogs, with what is asked of records.
func prunable(root *os.Root, logs, records time.Time, locked bool) ([]string, error) {
	files, err := onlyLogs(root, logs, locked)
	if err == nil && slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(f, "jobs/") }) {
		return onlyLogs(root, records, locked)
	}
	return files, err
}

// onlyLogs returns what is to be deleted of a directory that holds nothing but logs
// last written before a time, its directories last, and nil of any other. The file of
// its lock is not counted among them, and where that is locked has no age.
func onlyLogs(root *os.Root, before time.Time, locked bool) ([]string, error) {
	files := []string{}
	var dirs []string
	for _, dir := range []string{".", "jobs"} {
		fi, err := root.Lstat(dir)
		if dir == "jobs" && errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil || !fi.IsDir() || !ownedByMe(filepath.Join(root.Name(), dir), fi) || !older(fi, before) && !(locked && dir == ".") {
			return nil, err
		}
		f, err := root.Open(dir)
		if err != nil {
			return nil, err
		}
		entries, err := f.ReadDir(-1)
		f.Close()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if name == "jobs" || name == lockName && locked {
				continue
			}
			fi, err := e.Info()
			if name == lockName && err == nil && fi.Mode().IsRegular() && ownedByMe(filepath.Join(root.Name(), name), fi) && older(fi, before) {
				continue
			}
			if err != nil || !fi.Mode().IsRegular() || !isLog(name) || !ownedByMe(filepath.Join(root.Name(), name), fi) || !older(fi, before) {
				return nil, err
			}
			files = append(files, name)
		}
		if dir != "." {
			dirs = append(dirs, dir)
		}
	}
	return append(files, dirs...), nil
}

// firstLog is when no log of ours was written yet: a time before that is of a host
// whose clock was wrong.
var firstLog = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func older(fi fs.FileInfo, before time.Time) bool {
	return fi.ModTime().Before(before) && fi.ModTime().After(firstLog)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// quiet reports whether no job ever ran here and agent.log has nothing that anybody
// would look for: its lines tell, of each, that it is no warning and no error.
func (h home) quiet() bool {
	entries, err := os.ReadDir(h.jobs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for _, e := range entries {
		if id, _, _ := strings.Cut(e.Name(), "."); channel.ValidJobID(id) {
			return false
		}
	}
	fi, err := os.Lstat(h.path(LogName))
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(h.path(LogName))
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// slog.TextHandler: time=... level=INFO msg=...
		_, rest, _ := strings.Cut(lines.Text(), " ")
		level, _, _ := strings.Cut(rest, " ")
		if level != "level="+slog.LevelInfo.String() && level != "level="+slog.LevelDebug.String() {
			return false
		}
	}
	return lines.Err() == nil
}
