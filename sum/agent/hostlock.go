package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// On a host one job's program runs at a time, whichever agent, manager or script of
// package agentless started it. Whoever is about to start one puts a file into its
// base directory, and only then looks whether others have: there, and where that is
// one of the default base directories, in the other ones too (see home.bases). Of
// two that are in different directories each has put its file before it looks, so at
// least one sees the other; and no directory but one's own has to be writable, so a
// host whose /var is full or noexec is held from /opt as well.
//
//	.roundsman-job-<job>.<pid>.<start>.<boot>.<ns>
//
// The name says which process holds it, and in which PID namespace its number means
// something (the last part is missing where that is not known), so that a name is
// never used again, and a file whose holder is dead can be deleted by anybody without
// the risk of deleting another's. Its lines are
//
//	{"agent":...}          HostHolder
//	held                   nobody else was there, and the program may begin;
//	held group             or, where the holder leads the program's process group
//	program <pid> <start>  the program that was started
//	restart <asked> <due>  of a restart: when it was asked and when it is due, in
//	                       seconds since 1970
//
// The holder has the file locked (flock), and the program inherits that: by a
// descriptor that it can only read. So a holder that was killed keeps it by the
// program: by its process, and until that is on record by the lock, which what the
// program has started has too. Of a file of package agentless, which cannot lock, it
// is until then the process group. What a program leaves behind when it ends does not
// keep it.
//
// A holder is dead only where that was found out. What cannot be looked at, because
// too many files are open or another user's processes are hidden (proc(5), hidepid),
// is alive. Of a process of another PID namespace, as where a container shares the
// directory, only the lock tells; without one it lives as long as the host.
//
// A restart of the host that was asked for is held by the host's first process; see
// restart.
const (
	HostLockPrefix = ".roundsman-job-"

	hostHeld    = "held"
	hostGroup   = "held group"
	hostProgram = "program"
	hostRestart = "restart"
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
	// Restart is when the host is to restart: then it is that which holds it, and no
	// job.
	Restart time.Time `json:"restart,omitzero"`
}

// String says for operators what runs.
func (h HostHolder) String() string {
	if !h.Restart.IsZero() {
		return h.restartString()
	}
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
	hint := hostBusyHint
	if !by.Restart.IsZero() {
		hint = restartHint
	}
	return &Error{Op: op, Target: target, Kind: ErrHostBusy, Code: transport.Code{Space: "agent", Value: CodeHostBusy},
		Err: errors.New(by.String()), Hint: hint}
}

// hostFault is what Install answers where another job holds the host.
func hostFault(by HostHolder) error {
	return &channel.Fault{Code: CodeHostBusy, Retryable: true, Message: by.String()}
}

// base is the directory that agents of this host share.
func (h home) base() string { return filepath.Dir(string(h)) }

// bases are the directories where what holds the host is looked for; the first is
// that of the agent.
func (h home) bases() []string {
	return basesOf(h.base(), hostBaseDirs())
}

func basesOf(own string, defaults []string) []string {
	there, err := os.Stat(own)
	isOwn := func(dir string) bool {
		fi, serr := os.Stat(dir)
		return dir == own || err == nil && serr == nil && os.SameFile(there, fi)
	}
	if !slices.ContainsFunc(defaults, isOwn) {
		return []string{own}
	}
	return append([]string{own}, slices.DeleteFunc(slices.Clone(defaults), isOwn)...)
}

// hostLock is a file by which a job holds the host.
type hostLock struct {
	file *os.File // to write
	held *os.File // has the lock; what inherits it cannot write
	name string
}

// hostNew is the end of the name of a file until its first lines are written: whoever
// sees one without it can say who has the host.
const hostNew = ".new"

// takeHost holds the host for a job. Where another job does, or a restart, it returns
// that one. The caller has the lock of its job.
func (h home) takeHost(rec record) (lock *hostLock, by *HostHolder, err error) {
	rec.Started = time.Now()
	return h.hold(h.bases(), rec.ID, thisProcess(), rec.hostHolder(h), "")
}

// hold puts a file in the name of a process into the first of the directories and
// looks for others in all. With restart, a line of the file, it is for one.
func (h home) hold(bases []string, id string, me process, what HostHolder, restart string) (lock *hostLock, by *HostHolder, err error) {
	boot := bootID()
	if me.Start == "" || boot == "" {
		return nil, nil, errors.New("the system does not say what this process, or this boot, is known by")
	}
	parts := []string{id, strconv.Itoa(me.PID), me.Start, boot}
	if ns := pidNamespace(); ns != "" {
		parts = append(parts, ns)
	}
	name := filepath.Join(bases[0], HostLockPrefix+strings.Join(parts, "."))
	file, err := openFile(name+hostNew, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: only who may write there can know that no other job runs on this host", err)
	}
	if err != nil {
		return nil, nil, err
	}
	lock = &hostLock{file: file, name: name + hostNew}
	withdraw := func(err error) error { return errors.Join(err, lock.release()) }
	if err := lock.lock(); err != nil {
		return nil, nil, withdraw(err)
	}
	data, err := json.Marshal(what)
	if err != nil {
		return nil, nil, withdraw(err)
	}
	if restart == "" {
		err = lock.note(string(data))
	} else {
		// Without its line it would hold the host until that restarts.
		_, err = file.WriteString(string(data) + "\n" + restart + "\n")
	}
	if err != nil {
		return nil, nil, withdraw(err)
	}
	if err := renameFile(lock.name, name); err != nil {
		return nil, nil, withdraw(err)
	}
	lock.name = name
	for end := time.Now().Add(hostWait); ; time.Sleep(20 * time.Millisecond) {
		others, err := hostJobs(bases, filepath.Base(name))
		if err != nil {
			return nil, nil, withdraw(err)
		}
		if restart != "" { // it may be put off, or brought forward
			others = slices.DeleteFunc(others, func(o hostJob) bool { return !o.Restart.IsZero() })
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

// lock locks the file, so that the program can inherit that.
func (l *hostLock) lock() error {
	held, err := holdHost(l.file)
	l.held = held
	return err
}

// inherited is what the program gets, so that it keeps the lock.
func (l *hostLock) inherited() *os.File {
	if l.held != nil {
		return l.held
	}
	return l.file
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
	err := removeFile(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.close())
}

// close ends the lock. The file stays.
func (l *hostLock) close() error {
	err := l.file.Close()
	if l.held != nil {
		err = errors.Join(err, l.held.Close())
	}
	l.file, l.held = nil, nil
	return err
}

// hostJob is a file that was found in a base directory.
type hostJob struct {
	HostHolder
	name string // without the directory
	held bool
}

// hostJobs returns the files of living holders in base directories, other than the one
// called mine, and deletes those of dead ones. The first directory must be there.
func hostJobs(bases []string, mine string) ([]hostJob, error) {
	boot := bootID()
	if boot == "" {
		return nil, errors.New("the system does not say what this boot is known by, and so not who still holds the host")
	}
	var out []hostJob
	for i, base := range bases {
		entries, err := os.ReadDir(base)
		if i > 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking whether another job runs on this host: %w", err)
		}
		for _, e := range entries {
			if e.Name() == mine || !e.Type().IsRegular() {
				continue
			}
			// Others who may write to the directory must not be able to hold the host.
			if fi, err := e.Info(); err != nil || !ownedByMe(filepath.Join(base, e.Name()), fi) {
				continue
			}
			if job := lookAtHolder(base, e.Name(), boot); job != nil {
				out = append(out, *job)
			}
		}
	}
	return out, nil
}

// lookAtHolder returns what one file holds the host for. One of a dead holder it
// deletes; where that may not be deleted it stays, and holds nothing.
func lookAtHolder(base, file, boot string) *hostJob {
	whole, begun := strings.CutSuffix(file, hostNew)
	by, ok := parseHostLock(whole)
	if !ok {
		return nil
	}
	name := filepath.Join(base, file)
	foreign := by.ns != "" && by.ns != pidNamespace()
	if by.boot != boot || begun && !foreign && !by.process.alive() {
		_ = os.Remove(name)
		return nil
	}
	if begun {
		return nil // it is not there yet
	}
	content, err := readHostLock(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	job := &hostJob{content.HostHolder, file, content.held}
	alive := by.process.alive
	switch {
	case err != nil: // what cannot be read may be held
		return job
	case content.restart != restart{}:
		if foreign {
			return nil // of a container, or of what this container runs on
		}
		if !content.restart.pending(time.Now(), systemdRun) {
			alive = func() bool { return false }
		}
	case foreign:
		alive = func() bool { return content.group || fileHeld(name) }
	}
	if alive() {
		return job
	}
	// The holder is gone. Its program?
	job.held = true
	switch {
	case foreign, content.restart != restart{}:
	case content.program != process{}:
		if content.program.alive() {
			return job
		}
	case content.group && groupAlive(by.PID), !content.group && fileHeld(name):
		return job
	}
	_ = os.Remove(name)
	return nil
}

// hostName is what the name of a file says.
type hostName struct {
	process
	boot, ns string
}

// parseHostLock reads the name of a file.
func parseHostLock(name string) (by hostName, ok bool) {
	rest, ok := strings.CutPrefix(name, HostLockPrefix)
	f := strings.Split(rest, ".")
	if !ok || len(f) < 4 || len(f) > 5 || !channel.ValidJobID(f[0]) {
		return by, false
	}
	if len(f) == 5 {
		if by.ns = f[4]; by.ns == "" || strings.Trim(by.ns, "0123456789") != "" {
			return by, false
		}
	}
	if strings.Trim(f[1], "0123456789") != "" {
		return by, false
	}
	pid, err := strconv.Atoi(f[1])
	by.process, by.boot = process{pid, f[2]}, f[3]
	return by, err == nil && pid > 0 && f[2] != "" && f[3] != ""
}

// hostContent is what the lines of a file say.
type hostContent struct {
	HostHolder
	held, group bool
	program     process
	restart     restart
}

func readHostLock(name string) (c hostContent, err error) {
	fi, err := os.Stat(name)
	if err != nil {
		return c, err
	}
	if fi.Size() > maxFile {
		return c, fmt.Errorf("%s: %d bytes are too many", name, fi.Size())
	}
	data, err := readFile(name)
	if err != nil {
		return c, err
	}
	c = parseHostContent(data)
	if c.Since.IsZero() {
		c.Since = fi.ModTime()
	}
	return c, nil
}

// parseHostContent reads the lines of a file, which may be anything.
func parseHostContent(data []byte) (c hostContent) {
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
		case strings.HasPrefix(text, hostRestart+" "):
			c.restart = parseRestart(text)
			c.Restart = time.Unix(c.restart.due, 0).UTC()
		}
	}
	return c
}

// hostHolder returns the job of another agent that holds the host, or the restart, or
// nil.
func (h home) hostHolder() (*HostHolder, error) {
	jobs, err := hostJobs(h.bases(), "")
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
