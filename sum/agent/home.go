package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// home is an agent's directory.
type home string

// lockName is the file of a directory's lock.
const lockName = "lock"

func (h home) path(name string) string  { return filepath.Join(string(h), name) }
func (h home) lockPath() string         { return h.path(lockName) }
func (h home) leasePath() string        { return h.path("lease") }
func (h home) blobs() string            { return h.path("blobs") }
func (h home) jobs() string             { return h.path("jobs") }
func (h home) record(id string) string  { return filepath.Join(h.jobs(), id+".json") }
func (h home) output(id string) string  { return filepath.Join(h.jobs(), id+".log") }
func (h home) jobDir(id string) string  { return filepath.Join(h.jobs(), id) }
func (h home) jobLock(id string) string { return filepath.Join(h.jobDir(id), "lock") }

// fresh reports whether nothing of an earlier agent is known here.
func (h home) fresh() bool {
	if _, err := os.Lstat(h.leasePath()); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	ids, err := h.jobIDs()
	return len(ids) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

// check refuses a directory in which somebody else could have put something.
func (h home) check() error {
	fi, err := os.Lstat(string(h))
	if err != nil {
		return err
	}
	if !fi.IsDir() || !ownedByMe(string(h), fi) {
		return fmt.Errorf("%s %w", h, errNotOurs)
	}
	return h.checkRights()
}

// errNotOurs says of a directory that nothing in it can be believed.
var errNotOurs = errors.New("is not a directory that belongs to this user alone")

// prepare makes the directories. The agent runs programs with its own rights, so
// a directory that others can write to would give them those rights.
func (h home) prepare() error {
	if err := h.check(); err != nil {
		return err
	}
	for _, dir := range []string{string(h), h.blobs(), h.jobs()} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := keepOthersOut(dir); err != nil {
			return err
		}
	}
	return nil
}

// isLog reports whether a file of the directory stays when the agent goes. The
// name is relative, with slashes.
func isLog(name string) bool {
	if name == LogName {
		return true
	}
	base, ok := strings.CutPrefix(name, "jobs/")
	if !ok {
		return false
	}
	id, ext, ok := strings.Cut(base, ".")
	return ok && channel.ValidJobID(id) && (ext == "json" || ext == "log")
}

// logs returns the files that stay, sorted by name.
func (h home) logs() ([]string, error) {
	var out []string
	for _, dir := range []string{"", "jobs"} {
		entries, err := os.ReadDir(h.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if name := filepath.ToSlash(filepath.Join(dir, e.Name())); e.Type().IsRegular() && isLog(name) {
				out = append(out, h.path(name))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// removeSocket deletes the socket that ready.json names. One whose path would have
// been too long is elsewhere, alone in its directory; Remove does not take
// directories that hold more. The caller holds the lock.
func (h home) removeSocket() {
	var ready Ready
	if readJSON(h.path(ReadyName), &ready) != nil || ready.Network != "unix" || filepath.Base(ready.Addr) != SocketName {
		return
	}
	os.Remove(ready.Addr)
	if dir := filepath.Dir(ready.Addr); dir != string(h) {
		os.Remove(dir)
	}
}

// clear deletes everything but logs, and on Windows the program of this process, which
// cannot be deleted while it runs, and returns the logs that stay. Where no job ever ran
// and the log says nothing of note that is nothing, and the directory goes too. The
// caller holds the lock, whose file goes last: until then nobody else can begin here.
func (h home) clear() (left []string, err error) {
	werr := sweepWalls(context.Background())
	left, err = h.clearFiles(context.Background())
	return left, errors.Join(werr, err)
}

// clearFiles is clear without the firewall. When ctx ends it leaves the rest. Where
// something cannot be deleted the lock's file stays, by which the next agent knows that
// this is an agent's.
func (h home) clearFiles(ctx context.Context) (left []string, err error) {
	var errs []error
	h.removeSocket()
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == lockName, name == "jobs" && e.IsDir(), isLog(name) && e.Type().IsRegular():
		default:
			errs = append(errs, removeWithin(ctx, h.path(name)))
		}
	}
	jobs, err := os.ReadDir(h.jobs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range jobs {
		if !e.Type().IsRegular() || !isLog("jobs/"+e.Name()) {
			errs = append(errs, removeWithin(ctx, filepath.Join(h.jobs(), e.Name())))
		}
	}
	os.Remove(h.jobs()) // if it is empty
	if h.quiet() {
		errs = append(errs, removeFile(h.path(LogName)))
	}
	// What holders that were killed left is deleted by whoever looks.
	_, _ = hostJobs(h.bases(), "")
	if errors.Join(errs...) == nil {
		errs = append(errs, ignoreNotExist(removeFile(h.lockPath())))
	}
	os.Remove(string(h)) // if it is empty
	left, err = h.logs()
	return left, errors.Join(append(errs, err)...)
}

// snapshot says when the files of a directory were last written.
type snapshot map[string]time.Time

func (h home) snapshot() snapshot {
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return nil
	}
	out := make(snapshot, len(entries))
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			out[e.Name()] = fi.ModTime()
		}
	}
	return out
}

// beingPrepared reports whether a manager is putting files here for another
// start: deleting them would fail that start. What was there when this process
// began, such as its own program, does not count until it is written again.
func (h home) beingPrepared(found snapshot) bool {
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return false
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case ReadyName, LogName, SocketName, lockName, "lease":
			continue
		}
		fi, err := e.Info()
		if err != nil || strings.HasPrefix(e.Name(), tempPrefix) || !fi.Mode().IsRegular() {
			continue
		}
		if was, ok := found[e.Name()]; ok && was.Equal(fi.ModTime()) {
			continue
		}
		// A file that nobody came back for does not count either.
		if age := time.Since(fi.ModTime()); age > -time.Minute && age < time.Minute {
			return true
		}
	}
	return false
}
