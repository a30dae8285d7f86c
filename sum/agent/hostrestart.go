package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// restart is a restart of the host that was asked for, in seconds since 1970: the
// clock by which shutdown(8) waits, too. From before it is asked until the host
// restarts no job begins: a file among those by which jobs hold the host (see
// hostlock.go) is held by the host's first process. So it outlives whoever asked, and
// means nothing after the boot.
//
// It is void where the restart does not come: restartGrace after it was due, and where
// systemd runs, which keeps a file of what is scheduled, as soon as an administrator
// has cancelled it (shutdown -c). Elsewhere who cancels it has to delete the file.
type restart struct{ asked, due int64 }

const (
	restartGrace = 10 * time.Minute // for services to end
	restartAsked = time.Minute      // between the file and what systemd knows
	restartHint  = "run again after the restart"

	systemdRun = "/run/systemd"
)

// pending reports whether the host may still restart. run is systemdRun.
func (r restart) pending(now time.Time, run string) bool {
	due := time.Unix(r.due, 0)
	if now.After(due.Add(restartGrace)) {
		return false
	}
	if !now.Before(due) || !now.After(time.Unix(r.asked, 0).Add(restartAsked)) {
		return true
	}
	if _, err := os.Lstat(filepath.Join(run, "system")); err != nil { // sd_booted(3)
		return true
	}
	_, err := os.Lstat(filepath.Join(run, "shutdown/scheduled"))
	return !errors.Is(err, fs.ErrNotExist)
}

func (r restart) String() string { return fmt.Sprintf("%s %d %d", hostRestart, r.asked, r.due) }

// parseRestart reads a line of a file. What cannot be read is long over.
func parseRestart(line string) (r restart) {
	if f := strings.Fields(line); len(f) == 3 {
		r.asked, _ = strconv.ParseInt(f[1], 10, 64)
		r.due, _ = strconv.ParseInt(f[2], 10, 64)
	}
	return restart{max(r.asked, 1), max(r.due, 1)}
}

func (h HostHolder) restartString() string {
	s := "a restart of the host is due at " + h.Restart.UTC().Format(time.RFC3339)
	if h.Agent != "" {
		s += fmt.Sprintf(" (asked by agent %.130q", h.Agent)
		if h.Target != "" {
			s += fmt.Sprintf(" on %.200q", h.Target)
		}
		s += ")"
	}
	return s
}

// holdForRestart keeps jobs out until the host has restarted, if none holds it.
func (h home) holdForRestart(target string, delay time.Duration) (lock *hostLock, by *HostHolder, err error) {
	now := time.Now()
	r := restart{now.Unix(), now.Add(delay).Unix()}
	// Later than those that are there, also within the same second: of restarts that
	// were asked one after the other only the last is to remain.
	for _, at := range h.restarts() {
		if at.asked >= r.asked && at.asked < now.Add(restartAsked).Unix() {
			r.asked = at.asked + 1
		}
	}
	first := process{firstProcess, processStart(firstProcess)}
	if first.Start == "" {
		first.Start = "0" // it is hidden from this user, for whom it always lives
	}
	return h.hold(h.bases(), channel.NewJobID(), first, HostHolder{
		Agent: h.id(), Target: target, Since: now.UTC().Truncate(time.Second), Restart: time.Unix(r.due, 0).UTC(),
	}, r.String())
}

// keepForRestart leaves the file to the host, in the place of those of earlier
// restarts. Of those that are asked for at the same time none deletes a later one, so
// the last remains, whatever the order in which they come here.
func (h home) keepForRestart(lock *hostLock) error {
	name := lock.name
	err := lock.close()
	mine, rerr := readHostLock(name)
	if rerr != nil {
		return err // the others are void some day
	}
	for other, at := range h.restarts() {
		if cmp.Or(cmp.Compare(at.asked, mine.restart.asked), cmp.Compare(filepath.Base(other), filepath.Base(name))) < 0 {
			_ = os.Remove(other)
		}
	}
	return err
}

// restarts returns those of this system that were asked for, by the names of their
// files.
func (h home) restarts() map[string]restart {
	found := make(map[string]restart)
	for _, base := range h.bases() {
		files, _ := filepath.Glob(filepath.Join(base, HostLockPrefix+"*"))
		for _, name := range files {
			by, ok := parseHostLock(filepath.Base(name))
			if !ok || by.ns != "" && by.ns != pidNamespace() {
				continue // not in its place yet, or of another system
			}
			if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() || !ownedByMe(name, fi) {
				continue
			}
			if c, err := readHostLock(name); err == nil && c.restart != (restart{}) {
				found[name] = c.restart
			}
		}
	}
	return found
}
