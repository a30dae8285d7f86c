package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// spawnShim starts the process that watches over a job. It does not end with the
// agent: where systemd runs it is a unit of its own, else a session of its own.
func spawnShim(h home, id string, log *slog.Logger) (<-chan struct{}, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return spawn(h, id, self, log)
}

// spawnSelf is spawnShim for a manager that is the agent: it starts this program
// anew, under the name by which that knows that it is to be Main. The file that it
// was started from may have been replaced since, by an update of its own.
func spawnSelf(h home, id string, log *slog.Logger) (<-chan struct{}, error) {
	self, err := runningProgram()
	if err != nil {
		return nil, err
	}
	// It goes with the job's directory.
	name := filepath.Join(h.jobDir(id), programName)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := linkProgram(self, name); err != nil {
		return nil, err
	}
	ended, err := spawn(h, id, name, log)
	if err != nil || !staysWhileItRuns {
		return ended, err
	}
	// Its own program it could not delete.
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		<-ended
		if rec, err := h.readRecord(id); err == nil && rec.State.Final() {
			if err := removeAll(h.jobDir(id)); err != nil {
				log.Warn("the directory of a job stays until the agent leaves", "job", id, "error", err)
			}
		}
	}()
	return cleaned, nil
}

func spawn(h home, id, self string, log *slog.Logger) (<-chan struct{}, error) {
	ctx := context.Background()
	m, err := thisSystemdHost().find(ctx)
	if err == nil {
		var ended <-chan struct{}
		if ended, err = m.spawnShim(ctx, h, id, self); err == nil {
			return ended, nil
		}
	}
	if !errors.Is(err, errNoSystemd) {
		log.Warn("systemd cannot start the shim of a job, which becomes a session of its own", "job", id, "error", err)
	}
	return startShim(h, exec.Command(self, "shim", "-job", h.jobDir(id)))
}

// shimUnit is the unit of a job. One that must not be interrupted holds up who
// stops it, and with that the shutdown of the host, which systemd limits to half
// an hour (reboot.target).
func shimUnit(h home, id, self string) unit {
	u := unit{
		name: h.jobUnit(id), description: "roundsman job " + id + " in " + string(h),
		argv: []string{self, "shim", "-job", h.jobDir(id), "-unit"}, env: baseEnv(),
		props: []string{"TimeoutStopSec=90"},
	}
	var job Job
	sh := shim{home: h, id: id}
	if err := readLimited(sh.spec(), &job, maxRecord); err == nil && job.NoKill {
		u.props = []string{"TimeoutStopSec=infinity", "SendSIGKILL=no"}
	}
	return u
}

// taken reports whether a shim has the job or had it.
func (h home) taken(id string) bool {
	rec, err := h.readRecord(id)
	return h.shimAlive(id) || err == nil && rec.State != Accepted
}

// spawnShim is spawnShim by way of systemd, whose child the process is.
func (m *systemd) spawnShim(ctx context.Context, h home, id, self string) (<-chan struct{}, error) {
	u := shimUnit(h, id, self)
	if err := m.start(ctx, u); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	st, err := m.show(ctx, u.name)
	if m.version < systemdTypeExec {
		// It was not waited for the execution.
		for end := time.Now().Add(lockWait); err == nil && !h.taken(id) && time.Now().Before(end); st, err = m.show(ctx, u.name) {
			if st.over() && !h.taken(id) {
				return nil, fmt.Errorf("%s ended at once", u.name)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	p := process{st.pid, processStart(st.pid)}
	go func() {
		defer close(ended)
		if err != nil { // not known: it has as long as a shim has to take its lock
			time.Sleep(lockWait)
		}
		for p.alive() {
			time.Sleep(shimPoll)
		}
	}()
	return ended, nil
}

// confinedText says what a process started with which this one may not part.
const confinedText = "roundsman-agent: the job object that this process is in lets nothing leave it: what it starts may end with it"

func startShim(h home, cmd *exec.Cmd) (<-chan struct{}, error) {
	log, err := openFile(h.path(LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = baseEnv(), h.workDir(), log, log
	cmd, confined, err := startDetached(cmd)
	if err != nil {
		return nil, err
	}
	if confined {
		fmt.Fprintln(log, confinedText)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // so that it does not stay a zombie; its record tells the rest
	}()
	return ended, nil
}
