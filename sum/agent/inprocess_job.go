package agent

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"time"
)

// spawnInProcess makes this process the shim of a job.
func spawnInProcess(h home, id string) (<-chan struct{}, error) {
	// A log of its own: the agent's may be closed before the job ends.
	file, err := openFile(h.path(LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &shim{home: h, id: id, grace: killGrace, inProcess: true, log: slog.New(slog.NewTextHandler(file, nil)).With("pid", os.Getpid())}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer file.Close()
		if err := s.run(context.Background()); err != nil {
			s.log.Error("watching over a job", "job", id, "error", err)
		}
	}()
	return ended, nil
}

// executeInProcess is execute without a process between the program and the
// manager. The program must not depend on that one: it has a session of its own,
// which no terminal of the manager's reaches, and no pipe, whose end would end it.
func (s *shim) executeInProcess(cmd *exec.Cmd, file *os.File) error {
	detach(cmd)
	cmd.Stdout, cmd.Stderr = file, file
	// Were this process killed before the program is on record, this would tell
	// that it runs.
	also, err := holdProgramOutput(file)
	if err != nil {
		return s.failed("start", err)
	}
	if also != nil {
		defer also.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, also)
	}
	cmd, release, err := startFree(cmd, s.rec.Group)
	if err != nil {
		return s.failed("start", err)
	}
	defer release()
	s.rec.Program = started(cmd.Process.Pid)
	s.holdByProgram()
	s.save()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	out := &outputFile{name: file.Name(), max: maxOutput}
	why := s.watch(cmd.Process.Pid, ended, out)
	if why != reasonNone {
		s.awaitInstaller(installerRuns)
	}
	file.Sync()
	s.conclude(cmd.ProcessState, why, out)
	return s.end(s.rec.Result)
}

// busyTime is how long a program may be open for writing.
const busyTime = 5 * time.Second

// startFree starts a program with the umask that installers expect. It may have
// been written just now, and another goroutine may be starting a process, which
// holds the file open for a moment (go.dev/issue/22315).
func startFree(proto *exec.Cmd, group string) (cmd *exec.Cmd, release func(), err error) {
	for end := time.Now().Add(busyTime); ; time.Sleep(5 * time.Millisecond) {
		cmd := &exec.Cmd{Path: proto.Path, Args: proto.Args, Env: proto.Env, Dir: proto.Dir,
			Stdout: proto.Stdout, Stderr: proto.Stderr, ExtraFiles: proto.ExtraFiles, SysProcAttr: proto.SysProcAttr}
		release, err := startProgram(cmd, group)
		if err == nil || !isBusy(err) || time.Now().After(end) {
			return cmd, release, err
		}
	}
}

// jobOutput is what a shim knows of the output of its program: whether some of it
// was dropped, and the last of it.
type jobOutput interface {
	state() (truncated bool, last []byte)
}

// outputFile is a log that the program writes itself. It is cut when somebody
// looks.
type outputFile struct {
	name      string
	max       int64
	truncated bool
	last      []byte
}

func (o *outputFile) state() (bool, []byte) {
	f, err := openFile(o.name, os.O_RDWR, 0)
	if err != nil {
		return o.truncated, o.last
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return o.truncated, o.last
	}
	// What was cut off before is not in the file any more.
	from := int64(0)
	if o.truncated {
		from = o.max
	}
	if size := fi.Size(); size > from {
		buf := make([]byte, min(size-from, 2*maxText))
		if n, err := f.ReadAt(buf, size-int64(len(buf))); err == nil {
			if !o.truncated {
				o.last = nil
			}
			o.last = append(o.last, buf[:n]...)
			o.last = o.last[max(0, len(o.last)-2*maxText):]
		}
		if size > o.max {
			o.truncated = f.Truncate(o.max) == nil || o.truncated
		}
	}
	return o.truncated, o.last
}
