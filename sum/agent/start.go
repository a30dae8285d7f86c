package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startTime is how long start waits for the agent to listen. It covers the time
// that an older agent may take to leave.
const startTime = 25 * time.Second

// start runs serve in the background and waits until it is ready.
func start(h home) error {
	var boot Bootstrap
	if err := readJSON(h.path(BootstrapName), &boot); err != nil {
		return err
	}
	err := launch(h, boot.Nonce)
	if err != nil {
		err = h.whyNotStarted(err)
	}
	if err != nil && h.waitsFor(boot.Nonce) {
		// Whatever went wrong, the keys do not stay in a file.
		os.Remove(h.path(BootstrapName))
	}
	return err
}

// startRoom is more than what a service writes until it is ready, in bytes.
const startRoom = 64 << 10

// whyNotStarted adds to err that there is no room. The service cannot say so, because
// what it has to say goes to a file on the same disk.
func (h home) whyNotStarted(err error) error {
	name := h.path(tempPrefix + "room")
	full := takeRoom(name, startRoom)
	_ = os.Remove(name)
	if !isNoSpace(full) {
		return err
	}
	var cause *fs.PathError
	if errors.As(full, &cause) {
		full = cause.Err
	}
	free, _ := freeSpace(string(h))
	return fmt.Errorf("%s has %d bytes free, too few for the service: %w (%w)", h, free, full, err)
}

// waitsFor reports whether the bootstrap with this nonce is there, which a service
// deletes once it has come so far that it must not be started again.
func (h home) waitsFor(nonce string) bool {
	var boot Bootstrap
	return readJSON(h.path(BootstrapName), &boot) == nil && boot.Nonce == nonce
}

// launch runs serve and waits until its ready file has the nonce: as a unit of
// systemd, and where that cannot be as a session of its own, which belongs to
// whatever this process belongs to.
func launch(h home, nonce string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	file, err := openFile(h.path(LogName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	before, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(file, nil)).With("pid", os.Getpid())
	env := baseEnv()
	if tmp := os.Getenv("TMPDIR"); filepath.IsAbs(tmp) {
		env = append(env, "TMPDIR="+tmp)
	}
	s := &launching{home: h, nonce: nonce, self: self, env: env, file: file, before: before, log: log, limit: startTime}
	ctx := context.Background()
	m, err := thisSystemdHost().find(ctx)
	if err == nil {
		err = s.asUnit(ctx, m, thisSELinux())
		if err == nil || !h.waitsFor(nonce) {
			return err
		}
	}
	if !errors.Is(err, errNoSystemd) {
		log.Warn("systemd cannot start the agent, which becomes a session of its own", "error", err)
	}
	return s.asSession()
}

// launching is the start of one service.
type launching struct {
	home   home
	nonce  string
	self   string
	env    []string
	file   *os.File // agent.log
	before int64    // its length at the start
	log    *slog.Logger
	limit  time.Duration
}

// asUnit starts serve as a unit. SELinux may let a login execute a program that
// systemd may not (203/EXEC): then the program gets another label.
func (l *launching) asUnit(ctx context.Context, m *systemd, se selinux) error {
	u := unit{
		name: l.home.unit(), description: "roundsman agent in " + string(l.home),
		argv: []string{l.self, "serve", "-dir", string(l.home), "-unit"}, env: l.env,
		props: []string{"TimeoutStopSec=15"},
	}
	if err := m.makeRoom(ctx, u); err != nil {
		return err
	}
	err := l.runUnit(ctx, m, u)
	if err == nil || !l.home.waitsFor(l.nonce) {
		return err
	}
	if done, lerr := se.relabel(l.self); lerr != nil {
		l.log.Error("the program keeps its SELinux label", "file", l.self, "error", lerr)
	} else if done {
		l.log.Info("the program got the SELinux type that systemd may execute", "file", l.self, "type", execType, "error", err)
		err = l.runUnit(ctx, m, u)
	}
	return err
}

// makeRoom ends the agent that has the unit's name, if it is an older one of the
// same directory: it would leave anyway, when it is asked for the lock.
func (m *systemd) makeRoom(ctx context.Context, u unit) error {
	st, err := m.show(ctx, u.name)
	if err != nil || st.over() {
		return err
	}
	if st.description != u.description {
		return fmt.Errorf("%s is taken: %.200q", u.name, st.description)
	}
	return m.stop(ctx, u.name)
}

func (l *launching) runUnit(ctx context.Context, m *systemd, u unit) error {
	if err := m.start(ctx, u); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended, watched := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			if st, err := m.show(ctx, u.name); err == nil && st.over() {
				ended <- errors.New("the unit is " + st.active)
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-watched
	}()
	return l.await(ended, func() { _ = m.kill(ctx, u.name) })
}

// asSession starts serve as the leader of a session of its own.
func (l *launching) asSession() error {
	cmd := exec.Command(l.self, "serve", "-dir", string(l.home))
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = l.env, l.home.workDir(), l.file, l.file
	cmd, confined, err := startDetached(cmd)
	if err != nil {
		return err
	}
	if confined {
		fmt.Fprintln(l.file, confinedText)
	}
	ended := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		ended <- cmd.Wait()
	}()
	return l.await(ended, func() {
		cmd.Process.Kill()
		<-over
	})
}

// await waits until the service is ready, has ended, or takes too long: then it is
// killed.
func (l *launching) await(ended <-chan error, kill func()) error {
	limit := time.After(l.limit)
	for {
		var ready Ready
		if readJSON(l.home.path(ReadyName), &ready) == nil && ready.Nonce == l.nonce {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-ended:
			return fmt.Errorf("the service ended at once (%v): %s", err, since(l.file, l.before))
		case <-limit:
			kill()
			return fmt.Errorf("the service did not listen within %v: %s", l.limit, since(l.file, l.before))
		}
	}
}

// since returns the last of what was written to a log after an offset.
func since(log *os.File, offset int64) string {
	fi, err := log.Stat()
	if err != nil {
		return err.Error()
	}
	if fi.Size() < offset {
		offset = 0 // it was shortened
	}
	offset = max(offset, fi.Size()-maxText)
	data, err := io.ReadAll(io.NewSectionReader(log, offset, maxText))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(data))
}
