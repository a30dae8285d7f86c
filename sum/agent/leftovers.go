package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
	// leftoverTime bounds the work of one start. What is not looked at then is by the next.
	leftoverTime = 5 * time.Second
)

// reconcile deletes, of each dead agent beside this one whose lease has been over for a
// while, all but records and logs, and on Windows its service. One that a process serves,
// has a job running, or was written to lately stays, as does a directory that holds
// anything that agents do not have, or that belongs to somebody else. It returns the
// directories and services that it took away; what cannot be is logged, and is nobody's
// failure.
func (h home) reconcile(log *slog.Logger) (swept []string) {
	now := time.Now()
	entries, err := os.ReadDir(h.base())
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if !e.IsDir() || !isAgentID(e.Name()) || e.Name() == h.id() {
			continue
		}
		if time.Since(now) > leftoverTime {
			log.Warn("what dead agents left is not all looked at: the next agent that begins goes on", "dir", h.base())
			return swept
		}
		other := home(filepath.Join(h.base(), e.Name()))
		switch done, err := other.takeAway(now); {
		case err != nil:
			log.Warn("what a dead agent left could not be removed", "dir", string(other), "error", err)
		case done:
			swept = append(swept, string(other))
			log.Info("removed what a dead agent left, whose lease is over", "dir", string(other))
		}
	}
	names, err := h.forgetOrphans(now.Add(-minAge))
	if err != nil {
		log.Warn("services of agents that are gone could not be removed", "error", err)
	}
	for _, name := range names {
		swept = append(swept, "service "+name)
		log.Info("removed the service of an agent that is gone", "service", name)
	}
	return swept
}

// takeAway deletes what a dead agent left, if it may, and reports whether it did.
func (h home) takeAway(now time.Time) (done bool, err error) {
	may := func() (bool, error) {
		wait, err := h.leftover()
		if wait == 0 || err != nil {
			return false, ignoreNotExist(err)
		}
		written, err := h.lastWritten()
		// A time to come is of a clock that was set back.
		return err == nil && now.Sub(written) > wait && len(h.busy()) == 0, ignoreNotExist(err)
	}
	if ok, err := may(); !ok {
		return false, err
	}
	if err := h.check(); err != nil {
		if errors.Is(err, errNotOurs) {
			err = nil // another user's agent cleans that up
		}
		return false, ignoreNotExist(err)
	}
	// As long as this process has the lock no agent begins there.
	lock, err := lockFile(h.lockPath(), true)
	if lock == nil || err != nil {
		return false, ignoreNotExist(err)
	}
	defer lock.Close()
	if ok, err := may(); !ok { // somebody has come meanwhile
		return false, err
	}
	h.abandon()
	// The directory last: while it is there the next agent finds what failed here.
	if err := h.forgetServices(); err != nil {
		return false, err
	}
	_, err = h.clear()
	return err == nil, err
}

// leftover returns how long nothing must have been written to a directory that holds more
// than logs and nothing but what agents have there, and 0 of any other.
func (h home) leftover() (wait time.Duration, err error) {
	entries, err := os.ReadDir(string(h))
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == LogName, name == lockName, name == "jobs" && e.IsDir():
		case ofAgent(name):
			wait = 2*h.noteInForce() + leftoverMargin
		default:
			return 0, nil
		}
	}
	if jobs, err := os.ReadDir(h.jobs()); err == nil && slices.ContainsFunc(jobs, func(e os.DirEntry) bool { return !isLog("jobs/" + e.Name()) }) {
		wait = 2*h.noteInForce() + leftoverMargin
	}
	if _, err := os.Lstat(h.leasePath()); wait > 0 && errors.Is(err, fs.ErrNotExist) {
		wait = max(wait, minAge) // no agent has begun here yet
	}
	return wait, nil
}

// ofAgent reports whether a file of an agent's directory goes with the agent.
func ofAgent(name string) bool {
	switch name {
	case programName, BootstrapName, ReadyName, SocketName, "lease", "blobs":
		return true
	}
	return strings.HasPrefix(name, tempPrefix) || isTransfer(name, programName) || isTransfer(name, BootstrapName)
}

// isTransfer reports whether a file is what transports have of another beside it: one that
// is on its way, or one that was put aside for it.
func isTransfer(name, of string) bool { return strings.HasPrefix(name, "."+of+".") }

// lastWritten is when a directory, or what is in it, was last written, but for the file of
// its lock.
func (h home) lastWritten() (last time.Time, err error) {
	note := func(fi fs.FileInfo) {
		if t := fi.ModTime(); t.After(last) {
			last = t
		}
	}
	for _, dir := range []string{string(h), h.blobs(), h.jobs()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && dir != string(h) {
				continue
			}
			return last, err
		}
		for _, e := range entries {
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return last, err
			}
			if dir != string(h) || e.Name() != lockName {
				note(fi)
			}
		}
	}
	if last.IsZero() {
		err = fmt.Errorf("nothing is in %s", h)
	}
	return last, err
}
