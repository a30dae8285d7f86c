package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// Below one base directory one job's program runs at a time, whichever agent,
// manager or script of package agentless started it. Whoever is about to start one
// puts a file into the base directory, and only then looks whether others have:
//
//	.roundsman-job-<job>.<pid>.<start>.<boot>
//
// The name says which process holds it, so that a name is never used again, and a
// file whose holder is dead can be deleted by anybody without the risk of deleting
// another's. Its lines are
//
//	{"agent":...}          HostHolder
//	held                   nobody else was there, and the program may begin;
//	held group             or, where the holder leads the program's process group
//	program <pid> <start>  the program that was started
//
// The holder has the file locked (flock), and the program inherits that. So a
// holder that was killed keeps it by the program: by its process, and until that
// is on record by the lock. Of a file of package agentless, which cannot lock, it
// is the process group. What a program leaves behind when it ends does not keep it.
const (
	HostLockPrefix = ".roundsman-job-"

	hostHeld    = "held"
	hostGroup   = "held group"
	hostProgram = "program"
)

// hostWait is how long one of two that come at the same time waits for the other
// to withdraw: the one whose file's name sorts first.
const hostWait = 5 * time.Second

// CodeHostBusy is the value of the transport.Code, of the space "agent", of a job
// that ended before its program began because another one held the host.
const CodeHostBusy = "HostBusy"

// HostHolder is the job for which a host is held: of which another agent may be
// told, and so without secrets.
type HostHolder struct {
	Agent     string    `json:"agent"` // the ID
	Job       string    `json:"job"`
	Component string    `json:"component,omitempty"`
	Version   string    `json:"version,omitempty"`
	Target    string    `json:"target,omitempty"` // as its manager names the host
	Since     time.Time `json:"since,omitzero"`
}

// String says for operators what runs.
func (h HostHolder) String() string {
	what := strings.TrimSpace(h.Component + " " + h.Version)
	if what == "" {
		what = "a program"
	}
	s := fmt.Sprintf("%.200q runs there", what)
	if !h.Since.IsZero() {
		s += " since " + h.Since.UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	if h.Agent != "" {
		s += fmt.Sprintf(" (job %.40q of agent %.130q", h.Job, h.Agent)
		if h.Target != "" {
			s += fmt.Sprintf(" on %.200q", h.Target)
		}
		s += ")"
	}
	return s
}

func (r record) hostHolder(h home) HostHolder {
	since := r.Started
	if since.IsZero() {
		since = r.Accepted
	}
	return HostHolder{Agent: h.id(), Job: r.ID, Component: r.Component, Version: r.Release, Target: r.Target, Since: since.UTC()}
}

// HostBusy returns an error that matches ErrHostBusy if the status is that of a job
// that ended before its program began because another one held the host, and else
// nil.
func (s Status) HostBusy() error {
	if s.State != Done || s.Exit != nil || s.Result.Code != (transport.Code{Space: "agent", Value: CodeHostBusy}) {
		return nil
	}
	return &Error{Op: "install", Kind: ErrHostBusy, Code: s.Result.Code, Err: errors.New(s.Result.Text), Hint: hostBusyHint}
}

const hostBusyHint = "run again when that has ended; if it brings the same version, nothing will be needed then"

// HostBusyError is the error of a job on target that by kept out. It matches
// ErrHostBusy.
func HostBusyError(op, target string, by HostHolder) *Error {
	return &Error{Op: op, Target: target, Kind: ErrHostBusy, Code: transport.Code{Space: "agent", Value: CodeHostBusy},
		Err: errors.New(by.String()), Hint: hostBusyHint}
}

// hostFault is what Install answers where another job holds the host.
func hostFault(by HostHolder) error {
	return &channel.Fault{Code: CodeHostBusy, Retryable: true, Message: by.String()}
}

// base is the directory that agents of this host share.
func (h home) base() string { return filepath.Dir(string(h)) }

// hostLock is a file by which a job holds the host.
type hostLock struct {
	file *os.File
	name string
}

// hostNew is the end of the name of a file until its first line is written: whoever
// sees one without it can say who has the host.
const hostNew = ".new"

// takeHost holds the host for a job. Where another job does, it returns that one.
// The caller has the lock of its job.
func (h home) takeHost(rec record) (lock *hostLock, by *HostHolder, err error) {
	me := thisProcess()
	name := filepath.Join(h.base(), HostLockPrefix+strings.Join([]string{rec.ID, strconv.Itoa(me.PID), me.Start, bootID()}, "."))
	file, err := os.OpenFile(name+hostNew, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: only who may write there can know that no other job runs on this host", err)
	}
	if err != nil {
		return nil, nil, err
	}
	lock = &hostLock{file, name + hostNew}
	withdraw := func(err error) error { return errors.Join(err, lock.release()) }
	if err := holdOutput(file); err != nil {
		return nil, nil, withdraw(err)
	}
	rec.Started = time.Now()
	data, err := json.Marshal(rec.hostHolder(h))
	if err != nil {
		return nil, nil, withdraw(err)
	}
	if err := lock.note(string(data)); err != nil {
		return nil, nil, withdraw(err)
	}
	if err := os.Rename(lock.name, name); err != nil {
		return nil, nil, withdraw(err)
	}
	lock.name = name
	for end := time.Now().Add(hostWait); ; time.Sleep(20 * time.Millisecond) {
		others, err := hostJobs(h.base(), filepath.Base(name))
		if err != nil {
			return nil, nil, withdraw(err)
		}
		if len(others) == 0 {
			if err := lock.note(hostHeld); err != nil {
				return nil, nil, withdraw(err)
			}
			return lock, nil, nil
		}
		for i, o := range others {
			if o.held || o.name < filepath.Base(name) || time.Now().After(end) {
				return nil, &others[i].HostHolder, withdraw(nil)
			}
		}
	}
}

// note adds a line. A full disk has no room for it, and the file holds all the same.
func (l *hostLock) note(line string) error {
	if _, err := l.file.WriteString(line + "\n"); err != nil && !isNoSpace(err) {
		return err
	}
	return nil
}

// began records the program, which has inherited the file.
func (l *hostLock) began(p process) error {
	return l.note(fmt.Sprintf("%s %d %s", hostProgram, p.PID, p.Start))
}

// release gives the host back. A nil lock holds nothing.
func (l *hostLock) release() error {
	if l == nil || l.file == nil {
		return nil
	}
	err := os.Remove(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil
	return err
}

// hostJob is a file that was found in a base directory.
type hostJob struct {
	HostHolder
	name string
	held bool
}

// hostJobs returns the files of living holders, other than the one called mine, and
// deletes those of dead ones.
func hostJobs(base, mine string) ([]hostJob, error) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, err
	}
	var out []hostJob
	for _, e := range entries {
		whole, begun := strings.CutSuffix(e.Name(), hostNew)
		holder, boot, ok := parseHostLock(whole)
		if !ok || e.Name() == mine || !e.Type().IsRegular() {
			continue
		}
		// Others who may write to the directory must not be able to hold the host.
		if fi, err := e.Info(); err != nil || !ownedByMe(fi) {
			continue
		}
		if begun && boot == bootID() && holder.alive() {
			continue // it is not there yet
		}
		name := filepath.Join(base, e.Name())
		content, err := readHostLock(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case boot != bootID(), begun:
		case holder.alive(), err != nil: // what cannot be read may be held
			out = append(out, hostJob{content.HostHolder, e.Name(), content.held})
			continue
		case content.program != process{}:
			if content.program.alive() {
				out = append(out, hostJob{content.HostHolder, e.Name(), true})
				continue
			}
		case content.group && groupAlive(holder.PID), !content.group && fileHeld(name):
			out = append(out, hostJob{content.HostHolder, e.Name(), true})
			continue
		}
		// Where it may not be deleted it stays, and holds nothing.
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
	}
	return out, nil
}

// parseHostLock reads the name of a file.
func parseHostLock(name string) (holder process, boot string, ok bool) {
	rest, ok := strings.CutPrefix(name, HostLockPrefix)
	f := strings.Split(rest, ".")
	if !ok || len(f) != 4 || !channel.ValidJobID(f[0]) {
		return process{}, "", false
	}
	pid, err := strconv.Atoi(f[1])
	return process{pid, f[2]}, f[3], err == nil && pid > 0 && f[2] != ""
}

// hostContent is what the lines of a file say.
type hostContent struct {
	HostHolder
	held, group bool
	program     process
}

func readHostLock(name string) (c hostContent, err error) {
	fi, err := os.Stat(name)
	if err != nil {
		return c, err
	}
	if fi.Size() > maxFile {
		return c, fmt.Errorf("%s: %d bytes are too many", name, fi.Size())
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return c, err
	}
	c.Since = fi.ModTime()
	for line := range bytes.Lines(data) {
		text, whole := strings.CutSuffix(string(line), "\n")
		if !whole {
			break // it is being written
		}
		switch {
		case strings.HasPrefix(text, "{"):
			_ = json.Unmarshal(line, &c.HostHolder)
		case text == hostHeld, text == hostGroup:
			c.held, c.group = true, text == hostGroup
		case strings.HasPrefix(text, hostProgram+" "):
			if f := strings.Fields(text); len(f) == 3 {
				c.program.PID, _ = strconv.Atoi(f[1])
				c.program.Start = f[2]
			}
		}
	}
	return c, nil
}

// hostHolder returns the job of another agent that holds the host, or nil.
func (h home) hostHolder() (*HostHolder, error) {
	jobs, err := hostJobs(h.base(), "")
	if err != nil || len(jobs) == 0 {
		return nil, err
	}
	return &jobs[0].HostHolder, nil
}

// takeHost holds the host for the job's program, or returns who does.
func (s *shim) takeHost() (by *HostHolder, err error) {
	s.host, by, err = s.home.takeHost(s.rec)
	return by, err
}

// holdByProgram records the program in the file by which the job holds the host.
func (s *shim) holdByProgram() {
	if err := s.host.began(s.rec.Program); err != nil {
		s.log.Error("recording the program that holds the host", "job", s.id, "error", err)
	}
}

func (s *shim) leaveHost() {
	if err := s.host.release(); err != nil {
		s.log.Error("giving the host back", "job", s.id, "error", err)
	}
}

// refused ends a job whose program never began because another job holds the host.
func (s *shim) refused(by HostHolder) error {
	s.rec.State = Done
	return s.end(transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "agent", Value: CodeHostBusy}, Text: by.String()})
}
