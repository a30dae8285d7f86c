package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// What agents of other managers left that were killed, and whose managers do not come back,
// is deleted by the next agent that begins below the same base directory. Who is dead shows
// by its lock, which ends with its process on every system. How long it has been so is taken
// from the times of its files, which are by this host's clock, as the time of now is: an
// agent that serves touches the file of its lease (service.note), and whoever fills a
// directory writes there.

const (
	// leftoverMargin is how much longer than twice its lease a dead agent is left alone: a
	// lease is touched only now and then, and somebody may be about to come back.
	leftoverMargin = 2 * time.Minute
	// leftoverTime bounds the work of one start, but for a call of the system that takes
	// longer. What is not looked at then is by one of the next, which begin anywhere.
	leftoverTime = 5 * time.Second
)

// reconcile deletes, of each dead agent beside this one whose lease has been over for a
// while, all but records and logs, and on Windows its service. One that a process serves,
// has a job running, or was written to lately stays, as does a directory that holds
// anything that agents do not have, or that others can enter or own. It returns the
// directories and services that it took away; what cannot be is logged, and is nobody's
// failure. It ends with ctx, and when leftoverTime is over.
func (h home) reconcile(ctx context.Context, log *slog.Logger) (swept []string) {
	now := time.Now()
	ctx, cancel := context.WithTimeout(ctx, leftoverTime)
	defer cancel()
	entries, err := os.ReadDir(h.base())
	if err != nil {
		log.Warn("what dead agents left could not be looked at", "dir", h.base(), "error", err)
		return nil
	}
	if n := len(entries); n > 0 { // so that one that takes long does not keep the same ones from their turn each time
		first := rand.IntN(n)
		entries = append(entries[first:n:n], entries[:first]...)
	}
	for _, e := range entries {
		if !e.IsDir() || !isAgentID(e.Name()) || e.Name() == h.id() {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		other := home(filepath.Join(h.base(), e.Name()))
		switch done, err := other.takeAway(ctx, now); {
		case err != nil:
			log.Warn("what a dead agent left could not be removed", "dir", string(other), "error", err)
		case done:
			swept = append(swept, string(other))
			log.Info("removed what a dead agent left, whose lease is over", "dir", string(other))
		}
	}
	if len(swept) > 0 && ctx.Err() == nil {
		if err := sweepWalls(ctx); err != nil {
			log.Warn("what dead agents left in the firewall could not be removed", "error", err)
		}
	}
	names, err := h.forgetOrphans(ctx, now.Add(-minAge))
	if err != nil {
		log.Warn("services of agents that are gone could not be removed", "error", err)
	}
	for _, name := range names {
		swept = append(swept, "service "+name)
		log.Info("removed the service of an agent that is gone", "service", name)
	}
	if ctx.Err() != nil {
		log.Warn("what dead agents left is not all looked at: the next agent that begins goes on", "dir", h.base())
	}
	return swept
}

// takeAway deletes what a dead agent left, if it may, and reports whether it did.
func (h home) takeAway(ctx context.Context, now time.Time) (done bool, err error) {
	// Before anything that is there is read, or opened: it may not be ours.
	if ok, err := h.private(); !ok {
		return false, ignoreNotExist(err)
	}
	if ok, err := h.over(ctx, now); !ok {
		return false, err
	}
	return h.takeLocked(ctx, now)
}

// takeLocked is the part of takeAway under the lock of the directory.
func (h home) takeLocked(ctx context.Context, now time.Time) (done bool, err error) {
	// As long as this process has the lock no agent begins there.
	lock, err := lockFile(h.lockPath(), true)
	if lock == nil || err != nil {
		return false, ignoreNotExist(err)
	}
	defer lock.Close()
	if ok, err := h.over(ctx, now); !ok { // somebody has come meanwhile, or was here first
		// An empty one is no agent's: it was made just now.
		if fi, serr := lock.Stat(); serr == nil && fi.Size() == 0 {
			err = errors.Join(err, ignoreNotExist(removeFile(h.lockPath())))
			_ = os.Remove(string(h)) // if it is empty
		}
		return false, err
	}
	h.abandon()
	// The directory last: while it is there the next agent finds what failed here.
	if err := h.forgetServices(); err != nil {
		return false, err
	}
	_, err = h.clearFiles(ctx)
	return err == nil, err
}

// private reports whether a directory is of this user, and nobody else can put anything
// there. Another user's agent cleans up what that one left.
func (h home) private() (bool, error) {
	if err := h.check(); err != nil {
		if errors.Is(err, errNotOurs) {
			err = nil
		}
		return false, err
	}
	fi, err := os.Lstat(string(h))
	if err != nil {
		return false, err
	}
	// On Windows others may look at what a manager has put there before an agent begins, and
	// check has seen that they may no more.
	return runtime.GOOS == "windows" || keepsOthersOut(string(h), fi), nil
}

// over reports whether a directory holds what a dead agent left, and has done so for long
// enough. Who has its lock the caller has to find out.
func (h home) over(ctx context.Context, now time.Time) (bool, error) {
	wait, err := h.leftover()
	if wait == 0 || err != nil {
		return false, ignoreNotExist(err)
	}
	written, err := h.lastWritten(ctx)
	switch {
	case err != nil:
		return false, ignoreNotExist(err)
	case now.Sub(written) <= wait: // a time to come is of a clock that was set back
		return false, nil
	case written.Before(firstLog) && now.After(firstLog): // and this of one that was wrong
		return false, nil
	case len(h.busy()) > 0:
		return false, nil
	}
	err = h.known()
	return err == nil, err
}

// known is an error where a job was begun of which there is no record that can be read:
// its program may run, and its directory must not go. One without record and lock
// was never begun.
func (h home) known() error {
	entries, err := os.ReadDir(h.jobs())
	if err != nil {
		return ignoreNotExist(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		_, err := h.readRecord(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(h.jobLock(e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("what became of a job there is not known, whose program may run: %w", err)
		}
	}
	return nil
}

// leftover returns how long nothing must have been written to a directory that holds more
// than logs and nothing but what agents have there, and 0 of any other. There must be
// something that shows for sure that it is an agent's: names of directories do not, unless
// they are all that is there, and empty, as a manager makes them first. The caller knows that
// the directory is private.
func (h home) leftover() (wait time.Duration, err error) {
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return 0, err
	}
	sure, more, bare := false, false, true
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return 0, err
		}
		name := e.Name()
		if !ownedByMe(h.path(name), fi) {
			return 0, nil
		}
		switch {
		case name == "blobs" && fi.IsDir():
			blobs, err := h.onlyOurs(h.blobs(), ofStore)
			if blobs < 0 || err != nil {
				return 0, err
			}
			more, bare = true, bare && blobs == 0
			continue
		case name == "jobs" && fi.IsDir():
			sureJob := func(name string, fi fs.FileInfo) bool {
				sure = sure || strings.HasSuffix(name, ".json")
				more = more || !isLog("jobs/"+name)
				return ofJobs(name, fi)
			}
			jobs, err := h.onlyOurs(h.jobs(), sureJob)
			if jobs < 0 || err != nil {
				return 0, err
			}
			bare = bare && jobs == 0
			continue
		case name == SocketName && fi.Mode().Type() == fs.ModeSocket:
			more = true
		case name == lockName:
			if !fi.Mode().IsRegular() {
				return 0, fmt.Errorf("%s is no file", h.lockPath())
			}
			sure = true
		case !fi.Mode().IsRegular():
			return 0, nil
		case name == LogName:
		case ofAgent(name):
			more, sure = true, sure || !strings.HasPrefix(name, tempPrefix)
		default:
			return 0, nil
		}
		bare = false
	}
	if !more || !sure && !bare {
		return 0, nil
	}
	wait = 2*h.noteInForce() + leftoverMargin
	if _, err := os.Lstat(h.leasePath()); errors.Is(err, fs.ErrNotExist) {
		wait = max(wait, minAge) // no agent has begun here yet
	}
	return wait, nil
}

// onlyOurs counts what is in a directory. It is -1 where something of it is not this
// user's, or not what agents have there.
func (h home) onlyOurs(dir string, ours func(name string, fi fs.FileInfo) bool) (n int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1, err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return -1, err
		}
		if !ownedByMe(filepath.Join(dir, e.Name()), fi) || !ours(e.Name(), fi) {
			return -1, nil
		}
	}
	return len(entries), nil
}

// ofStore reports whether a file is one of a store.
func ofStore(name string, fi fs.FileInfo) bool {
	digest, _ := strings.CutSuffix(name, ".part")
	return fi.Mode().IsRegular() && channel.ValidSHA256(digest)
}

// ofJobs reports whether a file or directory is one of those that jobs have.
func ofJobs(name string, fi fs.FileInfo) bool {
	if fi.IsDir() {
		return channel.ValidJobID(name)
	}
	return fi.Mode().IsRegular() && (isLog("jobs/"+name) || strings.HasPrefix(name, tempPrefix))
}

// ofAgent reports whether a file of an agent's directory goes with the agent, but for its
// socket.
func ofAgent(name string) bool {
	switch name {
	case programName, BootstrapName, ReadyName, "lease":
		return true
	}
	return strings.HasPrefix(name, tempPrefix) || isTransfer(name, programName) || isTransfer(name, BootstrapName)
}

// isTransfer reports whether a file is what transports have of another beside it: one that
// is on its way, or one that was put aside for it.
func isTransfer(name, of string) bool { return strings.HasPrefix(name, "."+of+".") }

// lastWritten is when a directory, or what is in it, was last written, but for the file of
// its lock.
func (h home) lastWritten(ctx context.Context) (last time.Time, err error) {
	err = filepath.WalkDir(string(h), func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == string(h) || name == h.lockPath() {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.ModTime().After(last) {
			last = fi.ModTime()
		}
		return ignoreNotExist(err)
	})
	if err == nil && last.IsZero() {
		err = fmt.Errorf("nothing is in %s", h)
	}
	return last, err
}
