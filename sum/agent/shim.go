package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	shimPoll  = 200 * time.Millisecond // how often a shim looks whether to cancel
	killGrace = 10 * time.Second       // between SIGTERM and SIGKILL
	drainTime = 3 * time.Second        // for output of a program that has ended
	lockWait  = 5 * time.Second        // for whoever only looks whether the lock is held
	roomPoll  = time.Second            // how often a result tries whether there is room for it
)

// shim watches over one job. It is a process of its own, unless the agent is in
// the manager's process and that cannot be started anew as a shim.
type shim struct {
	home      home
	id        string
	log       *slog.Logger
	grace     time.Duration
	found     snapshot // of the directory, when this process began
	inProcess bool     // a part of the manager's process
	// stopped, if not nil, gets a signal when the unit of the job is stopped.
	stopped   <-chan os.Signal
	stopAsked bool
	bitLocker *bitLocker // nil: that of this host

	rec  record
	job  Job
	host *hostLock // while the program runs
}

func (s *shim) dir() string    { return s.home.jobDir(s.id) }
func (s *shim) work() string   { return filepath.Join(s.dir(), "work") }
func (s *shim) spec() string   { return filepath.Join(s.dir(), "spec.json") }
func (s *shim) cancel() string { return filepath.Join(s.dir(), "cancel") }

func (s *shim) cancelled() bool {
	_, err := os.Lstat(s.cancel())
	return err == nil
}

// run does the job unless another shim does it or has done it. It returns an
// error where the job could not be started and may be tried again.
func (s *shim) run(ctx context.Context) error {
	lock, err := s.takeLock(ctx)
	if lock == nil || err != nil {
		return err
	}
	defer lock.Close()
	if s.rec, err = s.home.readRecord(s.id); err != nil {
		return err
	}
	if s.rec.State != Accepted {
		return nil
	}
	if err := s.prepare(); err != nil {
		return s.failed("prepare", err)
	}
	by, err := s.takeHost()
	if err != nil {
		return s.failed("lock", err)
	}
	defer s.leaveHost()
	if s.cancelled() {
		s.rec.State = Cancelled
		s.rec.Cancel = true
		return s.end(transport.Result{Verdict: transport.VerdictCancelled, Text: "cancelled before it began"})
	}
	if len(s.stopped) > 0 {
		s.rec.State = Cancelled
		return s.end(transport.Result{Verdict: transport.VerdictCancelled, Text: "its unit was stopped before it began"})
	}
	if by != nil {
		return s.refused(*by)
	}
	cmd, out, err := s.command()
	if err != nil {
		return s.failed("start", err)
	}
	defer out.Close()
	if err := s.suspendBitLocker(ctx, out); err != nil {
		return s.failed("bitlocker", err)
	}
	if s.job.SuspendBitLocker && s.cancelled() { // that took its time
		s.rec.State, s.rec.Cancel = Cancelled, true
		return s.end(transport.Result{Verdict: transport.VerdictCancelled, Text: "cancelled before it began"})
	}
	cmd.ExtraFiles = []*os.File{s.host.inherited()}
	// From here on a dead shim means that the program may have run.
	s.rec.State, s.rec.Started, s.rec.BootID, s.rec.Shim, s.rec.Group = Running, time.Now().UTC(), bootID(), thisProcess(), newGroup()
	if err := s.home.writeRecord(s.rec); isNoSpace(err) {
		return s.failed("start", err)
	} else if err != nil {
		return err
	}
	if s.inProcess || !pipedOutput {
		return s.executeInProcess(cmd, out)
	}
	return s.execute(cmd, out)
}

// takeLock waits a little for the job's lock. It is nil where another shim has it
// or had it.
func (s *shim) takeLock(ctx context.Context) (*os.File, error) {
	for end := time.Now().Add(lockWait); ; {
		lock, err := lockFile(s.home.jobLock(s.id), true)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the job is over, and its directory gone
		}
		if lock != nil || err != nil {
			return lock, err
		}
		if time.Now().After(end) {
			return nil, nil
		}
		select {
		case <-time.After(shimPoll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// prepare lays out the job's files.
func (s *shim) prepare() error {
	if err := readLimited(s.spec(), &s.job, maxRecord); err != nil {
		return err
	}
	if jobDigest(s.job) != s.rec.Digest {
		return errors.New("the job is not the one that was recorded")
	}
	if err := s.home.reserve(s.rec); err != nil {
		return err
	}
	if err := removeAll(s.work()); err != nil {
		return err
	}
	if err := os.Mkdir(s.work(), 0o700); err != nil {
		return err
	}
	st := newStore(s.home.blobs())
	for _, f := range s.job.Files {
		if err := st.place(f, s.work()); err != nil {
			return err
		}
	}
	return nil
}

// command makes the program's command and opens its log.
func (s *shim) command() (*exec.Cmd, *os.File, error) {
	args := placeArgs(s.job.Argv, s.work())
	env := jobEnv(s.work(), s.job.Env)
	prog := args[0]
	if rel, ok := strings.CutPrefix(prog, "./"); ok {
		prog = filepath.Join(s.work(), filepath.FromSlash(rel))
	} else {
		var err error
		if prog, err = lookPath(prog, searchPath(os.Getenv("PATH"))); err != nil {
			return nil, nil, err
		}
	}
	cmd := &exec.Cmd{Path: prog, Args: args, Env: env, Dir: s.work()}
	setCommandLine(cmd)
	ownGroup(cmd)
	out, err := openFile(s.home.output(s.id), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	return cmd, out, err
}

// failed ends a job whose program never began.
func (s *shim) failed(what string, err error) error {
	code := transport.Code{Space: "agent", Value: what}
	if c := systemCode(err); !c.IsZero() {
		code = c
	} else if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = transport.Code{Space: "errno", Value: "ENOENT"}
	}
	s.rec.State = Done
	return s.end(transport.Result{Verdict: transport.VerdictFailed, Code: code,
		Text: tail([]byte("the program was not started: "+err.Error()), maxText)})
}

// execute runs the program and records how it ended.
func (s *shim) execute(cmd *exec.Cmd, file *os.File) error {
	out := &outputLog{w: file, left: maxOutput}
	r, w, err := os.Pipe()
	if err != nil {
		return s.failed("start", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if s.job.NoKill {
		// Were this process killed, the program's next line of output would end
		// it: so it gets the reading end of its own pipe.
		if spare := spareReader(r); spare != nil {
			defer spare.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, spare)
		}
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return s.failed("start", err)
	}
	s.rec.Program = started(cmd.Process.Pid)
	s.holdByProgram()
	s.save()

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(out, r)
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	why := s.watch(cmd.Process.Pid, ended, out)

	// What the program left running in the background may hold the pipe.
	select {
	case <-drained:
	case <-time.After(drainTime):
		r.SetReadDeadline(time.Now())
		<-drained
	}
	r.Close()
	file.Sync()
	s.conclude(cmd.ProcessState, why, out)
	return s.end(s.rec.Result)
}

// Reasons for which watch ends a program.
const (
	reasonNone    = ""
	reasonCancel  = "cancelled"
	reasonTimeout = "timed out"
	reasonStopped = "its unit was stopped"
)

// watch waits for the program's end, and brings it about where the job was
// cancelled or takes too long, unless it must not be interrupted.
func (s *shim) watch(pid int, ended <-chan error, out jobOutput) (why string) {
	tick := time.NewTicker(shimPoll)
	defer tick.Stop()
	var timeout, kill <-chan time.Time
	if s.job.Timeout > 0 {
		t := time.NewTimer(s.job.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	end := func(reason string) {
		if why != reasonNone {
			return
		}
		why = reason
		s.log.Info("ending the program", "job", s.id, "reason", reason)
		if err := endGroup(pid, s.rec.Group, false); err != nil {
			s.log.Error("ending the program", "job", s.id, "error", err)
		}
		t := time.NewTimer(s.grace)
		kill = t.C
	}
	for {
		select {
		case <-ended:
			if why != reasonNone {
				endGroup(pid, s.rec.Group, true) // its children, which may not have listened
			}
			return why
		case <-timeout:
			if s.job.NoKill {
				s.rec.Overdue = true
				s.save()
			} else {
				end(reasonTimeout)
			}
		case <-s.stopped:
			s.stopAsked = true
			if s.job.NoKill {
				s.log.Info("the unit of a job was stopped, which must not be interrupted and goes on", "job", s.id)
			} else {
				end(reasonStopped)
			}
		case <-kill:
			if err := endGroup(pid, s.rec.Group, true); err != nil {
				s.log.Error("killing the program", "job", s.id, "error", err)
			}
		case <-tick.C:
			truncated, _ := out.state()
			asked := s.cancelled()
			if truncated != s.rec.Truncated || asked != s.rec.Cancel {
				s.rec.Truncated, s.rec.Cancel = truncated, asked
				s.save()
			}
			if asked && !s.job.NoKill {
				end(reasonCancel)
			}
		}
	}
}

// conclude writes into the record how the program ended.
func (s *shim) conclude(ps *os.ProcessState, why string, out jobOutput) {
	var last []byte
	s.rec.Truncated, last = out.state()
	exit := transport.Exit{}
	exit.Code, exit.Signal = exitOf(ps)
	s.rec.State, s.rec.Exit = Done, &exit
	s.rec.Result = s.job.Profile.Judge(exit)
	note := s.rec.Result.Text
	if why != reasonNone && exit.Code != 0 {
		// A program that ends well in spite of the signal has done its work.
		note = fmt.Sprintf("timed out after %v", s.job.Timeout)
		s.rec.Result.Verdict, s.rec.Result.Activation = transport.VerdictFailed, transport.ActivationNone
		switch why {
		case reasonCancel:
			note = "cancelled"
			s.rec.State = Cancelled
			s.rec.Result.Verdict = transport.VerdictUnknown // it had begun
		case reasonStopped:
			note = "systemd stopped its unit, as an administrator asked or the host shut down"
			s.rec.State = Interrupted
			s.rec.Result.Verdict = transport.VerdictUnknown
		}
	}
	last = printed(last)
	s.rec.Result.Text = tail(last, maxText)
	if note != "" {
		s.rec.Result.Text = strings.TrimSpace(note + "\n" + tail(last, maxText-len(note)-1))
	}
}

// save updates the record of a running job. A failure is not the program's
// business; for the end there is room.
func (s *shim) save() {
	if err := s.home.writeRecord(s.rec); err != nil {
		s.log.Error("writing the record", "job", s.id, "error", err)
	}
}

// end records the job's end and deletes its directory. Room for the record was
// taken before the program began. Where that does not help, what the job has laid out
// goes, and the end waits for room: the result of a program that has ended must not
// be lost. It waits for nothing else that stands in the way, as a disk that fails or
// became read-only does not recover by itself; nor when systemd stops the unit, as it
// does when the host goes down, or somebody has deleted the directory that the record
// is in.
func (s *shim) end(res transport.Result) error {
	// Before the record: whoever sees that the job is over may start the next.
	s.leaveHost()
	s.rec.Result, s.rec.Ended = res, time.Now().UTC()
	err := s.home.writeEnd(s.rec)
	if err != nil {
		if err = s.awaitRoom(err); err != nil {
			return err
		}
	}
	s.log.Info("job ended", "job", s.id, "state", s.rec.State, "verdict", s.rec.Result.Verdict, "code", s.rec.Result.Code.String())
	if err := removeAll(s.dir()); err != nil {
		// What the installer left in the background may have it as its directory.
		s.log.Warn("the directory of a job stays until the agent leaves or another comes", "job", s.id, "error", err)
	}
	return nil
}

// installerTime bounds the wait for what an installer that was ended had begun.
const installerTime = 30 * time.Minute

// awaitInstaller holds the host while what the program asked for is still done, or taken
// back, by another process: to end msiexec.exe does not end the installation, which the
// service of Windows Installer does.
func (s *shim) awaitInstaller(runs func() bool) {
	if !runs() {
		return
	}
	s.log.Warn("the program was ended, but Windows Installer goes on: the host is held until that is over", "job", s.id)
	for end := time.Now().Add(installerTime); runs(); {
		if time.Now().After(end) {
			s.log.Error("Windows Installer does not come to an end", "job", s.id, "waited", installerTime)
			return
		}
		select {
		case <-time.After(shimPoll):
		case <-s.stopped:
			s.stopAsked = true
			return
		}
	}
	s.log.Info("Windows Installer has come to an end", "job", s.id)
}

// awaitRoom is the end of end where the disk is full, as err says.
func (s *shim) awaitRoom(err error) error {
	begun := time.Now()
	for first := true; err != nil; first = false {
		if _, gone := os.Lstat(s.home.jobs()); s.stopAsked || errors.Is(gone, fs.ErrNotExist) || !mayPass(err) {
			s.log.Error("the result of a job is lost", "job", s.id, "error", err)
			return err
		}
		if first {
			s.log.Error("the result of a job waits for room to be recorded", "job", s.id, "error", err)
			removeAll(s.work())
		}
		select {
		case <-time.After(roomPoll):
		case <-s.stopped:
			return err
		}
		err = s.home.writeEnd(s.rec)
	}
	// The log may have had no room either.
	s.log.Warn("the result of a job had to wait for room to be recorded", "job", s.id, "waited", time.Since(begun))
	return nil
}

// janitor does for a dead agent what that would have done at the end of its
// lease, which does not run during a job. It returns as soon as an agent lives
// here or there is nothing more to do.
func (s *shim) janitor(ctx context.Context) error {
	length := s.home.noteInForce()
	over := time.Now().Add(length)
	for {
		lock, err := lockFile(s.home.lockPath(), false)
		if errors.Is(err, fs.ErrNotExist) || err == nil && lock == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if len(s.home.busy()) > 0 {
			over = time.Now().Add(length)
		} else if time.Now().After(over) && !s.home.beingPrepared(s.found) {
			defer lock.Close()
			s.home.abandon()
			_, err := s.home.clear()
			err = errors.Join(err, s.home.forgetService(), s.home.leaveRest())
			s.log.Info("removed what a dead agent left", "error", err)
			return err
		}
		lock.Close()
		select {
		case <-time.After(pollOf(length)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
