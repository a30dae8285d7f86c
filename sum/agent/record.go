package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// record is what is known of a job. Its file stays when the agent goes, so it
// tells an operator what was done, and has no environment, which may hold
// secrets. Once the job's directory exists only the holder of its lock writes it.
type record struct {
	Version   int              `json:"version"` // 1
	ID        string           `json:"id"`
	Digest    string           `json:"digest"` // of the Job; see jobDigest
	Component string           `json:"component,omitempty"`
	Release   string           `json:"component_version,omitempty"`
	Target    string           `json:"target,omitempty"` // as its manager names the host
	Argv      []string         `json:"argv"`
	Files     []JobFile        `json:"files,omitempty"`
	Profile   Profile          `json:"profile,omitempty"`
	State     State            `json:"state"`
	Accepted  time.Time        `json:"accepted"`
	Started   time.Time        `json:"started,omitzero"`
	Ended     time.Time        `json:"ended,omitzero"`
	BootID    string           `json:"boot_id,omitempty"`
	Shim      process          `json:"shim,omitzero"`
	Program   process          `json:"program,omitzero"`
	Group     string           `json:"group,omitempty"` // the name of the program's job object, on Windows
	Exit      *transport.Exit  `json:"exit,omitempty"`
	Result    transport.Result `json:"result,omitzero"`
	Cancel    bool             `json:"cancel_asked,omitempty"`
	Overdue   bool             `json:"overdue,omitempty"`
	Truncated bool             `json:"log_truncated,omitempty"`
	Tries     int              `json:"tries,omitempty"` // shims that were started for it
}

// process names a process in a way that holds when its number is used again.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start_time"`
}

func thisProcess() process { return started(os.Getpid()) }

// processStart is lookAtProcess, and "" too where it fails.
func processStart(pid int) string {
	start, _ := lookAtProcess(pid)
	return start
}

// started names a process that is known to be there. To look at it may fail for the
// moment, where too many files are open.
func started(pid int) process {
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		start, err := lookAtProcess(pid)
		if err == nil || time.Now().After(end) {
			return process{pid, start}
		}
	}
}

// alive reports whether the process may still run, in the same boot: it is dead only
// where that was found out.
func (p process) alive() bool {
	if p.PID <= 0 || p.Start == "" {
		return false
	}
	start, err := lookAtProcess(p.PID)
	return err != nil || start == p.Start
}

// sure reports whether the process is known to run, so that it can be sent a signal.
func (p process) sure() bool { return p.PID > 0 && p.Start != "" && processStart(p.PID) == p.Start }

// jobDigest tells whether two jobs have the same contents.
func jobDigest(j Job) string {
	data, err := json.Marshal(j)
	if err != nil {
		panic(err) // a struct of strings, numbers and slices
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (h home) readRecord(id string) (record, error) {
	var r record
	err := readLimited(h.record(id), &r, maxRecord)
	if err == nil && r.ID != id {
		err = fmt.Errorf("%s is the record of another job", h.record(id))
	}
	return r, err
}

// programAlive reports whether the job's program is known to run.
func (r record) programAlive() bool {
	boot := bootID()
	return r.State == Running && (r.BootID == boot || boot == "") && r.Program.alive()
}

// programRuns is programAlive, or that the program runs whose shim, a manager,
// died before it could record it.
func (h home) programRuns(r record) bool {
	return r.programAlive() || r.State == Running && r.Program == process{} && h.outputHeld(r.ID)
}

// orphan returns a job whose program runs on without its shim, or "".
func (h home) orphan() string {
	entries, err := os.ReadDir(h.jobs())
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if !e.IsDir() || !channel.ValidJobID(e.Name()) {
			continue
		}
		if r, err := h.readRecord(e.Name()); err == nil && h.programRuns(r) && !r.Shim.alive() {
			return e.Name()
		}
	}
	return ""
}

func (h home) writeRecord(r record) error { return writeJSON(h.record(r.ID), r) }

// jobIDs lists the jobs that have a record.
func (h home) jobIDs() ([]string, error) {
	entries, err := os.ReadDir(h.jobs())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && channel.ValidJobID(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// busy returns the jobs that keep an agent here: those with a living shim, and
// those whose program lives on after its shim was killed.
func (h home) busy() []string {
	entries, err := os.ReadDir(h.jobs())
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range entries {
		if !e.IsDir() || !channel.ValidJobID(e.Name()) {
			continue
		}
		r, err := h.readRecord(e.Name())
		if err == nil && r.State.Final() {
			continue // a shim that lives is about to delete the directory
		}
		if h.shimAlive(e.Name()) || err == nil && h.programRuns(r) {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

func (h home) shimAlive(id string) bool {
	lock, err := lockFile(h.jobLock(id), false)
	if err != nil {
		return false
	}
	if lock == nil {
		return true
	}
	lock.Close()
	return false
}

// settle reads a job's record and corrects one that says that a program runs
// which is gone and whose shim is dead: what became of it nobody saw. A program
// that has lost its shim is Running until it ends.
func (h home) settle(id string) (record, error) {
	r, err := h.readRecord(id)
	if err != nil || r.State != Running || h.programRuns(r) {
		return r, err
	}
	lock, err := lockFile(h.jobLock(id), false)
	switch {
	case err == nil && lock == nil:
		return r, nil // its shim lives
	case err == nil:
		defer lock.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return r, err
	}
	// The shim may have ended the job just now, or recorded its program.
	if r, err = h.readRecord(id); err != nil || r.State != Running || h.programRuns(r) {
		return r, err
	}
	r.State, r.Ended = Interrupted, time.Now().UTC()
	r.Result = transport.Result{Text: "the process that watched over the job died: " +
		"the program may have run to its end, or not"}
	if r.BootID != bootID() {
		r.Result.Text = "the host was restarted while the job ran"
	}
	return r, h.writeEnd(r)
}

// tidy deletes the directories of jobs that are over, which a shim that was
// killed could not do itself.
func (h home) tidy() {
	ids, err := h.jobIDs()
	if err != nil {
		return
	}
	busy := h.busy()
	for _, id := range ids {
		if r, err := h.settle(id); err == nil && r.State.Final() && !slices.Contains(busy, id) {
			removeAll(h.jobDir(id))
		}
	}
}

// abandon marks what was accepted and never began, before everything is deleted.
func (h home) abandon() {
	ids, err := h.jobIDs()
	if err != nil {
		return
	}
	for _, id := range ids {
		r, err := h.settle(id)
		if err != nil || r.State != Accepted {
			continue
		}
		r.State, r.Ended = Cancelled, time.Now().UTC()
		r.Result = transport.Result{Verdict: transport.VerdictCancelled, Text: "the agent was removed before the job began"}
		h.writeEnd(r)
	}
}

// Check says what is wrong with a job that could not run. Agents refuse such a job
// before they record it.
func (j Job) Check() error {
	if !channel.ValidJobID(j.ID) {
		return errors.New("the job's ID must be 32 lower-case hexadecimal digits")
	}
	if len(j.Argv) == 0 || j.Argv[0] == "" {
		return errors.New("the job has no command")
	}
	if !j.Profile.Known() {
		return fmt.Errorf("profile %q is not known to this agent", j.Profile)
	}
	names := make(map[string]JobFile, len(j.Files))
	for _, f := range j.Files {
		if f.Name == "." || !fs.ValidPath(f.Name) || strings.ContainsAny(f.Name, "\\\x00") {
			return fmt.Errorf("file name %q is not a clean relative path", f.Name)
		}
		if _, twice := names[f.Name]; twice {
			return fmt.Errorf("file name %q is given twice", f.Name)
		}
		if !channel.ValidSHA256(f.SHA256) || f.Size < 0 {
			return fmt.Errorf("file %q: bad digest or size", f.Name)
		}
		names[f.Name] = f
	}
	if runtime.GOOS == "windows" {
		if err := checkWindowsNames(j.Files); err != nil {
			return err
		}
	}
	for _, a := range j.Argv {
		if strings.ContainsRune(a, 0) {
			return errors.New("an argument contains a NUL character")
		}
	}
	prog := j.Argv[0]
	if rel, ok := strings.CutPrefix(prog, "./"); ok {
		if f, ok := names[path.Clean(rel)]; !ok || !f.Executable {
			return fmt.Errorf("the program %q is not among the job's executable files", prog)
		}
	} else if strings.Contains(prog, "/") && !filepath.IsAbs(prog) && !strings.HasPrefix(prog, dirMark+"/") {
		return fmt.Errorf("the program %q must be an absolute path, a name, or begin with ./", prog)
	}
	return checkEnv(j.Env)
}
