package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// windowsSweep is one Sweep of a Windows target.
//
// A service that is stopped says nothing of the programs that it started: where something
// in the directory is a sign of life, the agent's own command remove has the word, as a
// service of its own that runs once. It refuses while a job runs. What was not in use
// then is deleted over the connection, the program last.
type windowsSweep struct {
	in     *Installer
	conn   transport.Conn
	place  agent.Place
	target string
}

func (s *windowsSweep) fail(kind, err error, hint string) error {
	return &agent.Error{Op: "sweep", Target: s.target, Kind: kind, Code: transport.CodeOf(err), Err: err, Hint: hint}
}

func (s *windowsSweep) run(ctx context.Context) ([]string, error) {
	if err := sweepCheck(ctx, s.conn); err != nil {
		return nil, s.fail(nil, err, "the service "+checkService+" is left")
	}
	d, err := readDir(ctx, s.conn, s.place.Dir)
	if err != nil {
		return nil, s.fail(nil, err, "")
	}
	service := agent.ServiceName(s.place.ID)
	if len(d.Jobs) == 0 {
		// In order: one that is idle ends by itself. It may have got a job since.
		if err := removeService(ctx, s.conn, service); err != nil {
			return nil, s.fail(nil, err, "")
		}
		if d, err = readDir(ctx, s.conn, s.place.Dir); err != nil {
			return nil, s.fail(nil, err, "")
		}
	}
	if d.Lock || d.ready || len(d.Jobs) > 0 {
		if err := s.askProgram(ctx, d); err != nil {
			return nil, err
		}
		if d, err = readDir(ctx, s.conn, s.place.Dir); err != nil {
			return nil, s.fail(nil, err, "")
		}
	}
	for _, name := range []string{service, agent.RemoveServiceName(s.place.ID)} {
		if err := removeService(ctx, s.conn, name); err != nil {
			return nil, s.fail(nil, err, "the service "+name+" is left")
		}
		s.gone(ctx, name)
	}
	if err := s.files(ctx, d); err != nil {
		return nil, err
	}
	if len(d.Logs) == 0 {
		if err := s.dirs(ctx); err != nil {
			return nil, err
		}
	}
	s.in.log().InfoContext(ctx, "agent removed", "target", s.target, "dir", s.place.Dir, "logs", len(d.Logs))
	return d.Logs, nil
}

// goneTime is how long a service that was deleted is waited for.
const goneTime = 2 * time.Second

// gone waits until a service that was deleted is gone. That somebody else keeps it open,
// as with services.msc, is that one's to end.
func (s *windowsSweep) gone(ctx context.Context, name string) {
	for end := time.Now().Add(goneTime); ; {
		if _, err := transport.QueryService(ctx, s.conn, name); err != nil {
			return
		}
		if time.Now().After(end) {
			s.in.log().WarnContext(ctx, "a service that was deleted goes when somebody closes it who has it open", "target", s.target, "service", name)
			return
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}

// removeTime is how long the command remove may take: an agent that does not listen is
// ended by it after some seconds.
const removeTime = 2 * time.Minute

// askProgram runs the agent's command remove, and returns nil too where it could not run,
// and so nothing else of it does.
func (s *windowsSweep) askProgram(ctx context.Context, d contents) error {
	unknown := func(err error) error {
		if len(d.Jobs) > 0 {
			return s.fail(agent.ErrStart, err, "a job may be using "+s.place.Dir+"/jobs, and without the agent's program nobody can tell")
		}
		s.in.log().DebugContext(ctx, "sweeping without the agent's program", "target", s.target, "dir", s.place.Dir, "err", err)
		return nil
	}
	if !d.Binary {
		if err := s.in.sendAgain(ctx, s.conn, s.place, s.target); err != nil {
			if lineLost(ctx, err) {
				return s.fail(nil, err, "")
			}
			return unknown(err)
		}
	}
	native, err := nativePath(ctx, s.conn, s.place.Dir, "")
	if err != nil {
		return s.fail(nil, err, "")
	}
	name := agent.RemoveServiceName(s.place.ID)
	if err := createService(ctx, s.conn, transport.ServiceConfig{
		Name: name, DisplayName: "Roundsman removal of " + s.place.ID,
		Argv: []string{native + `\` + agent.WindowsBinaryName, "remove", "-dir", native, "-service", name},
	}); err != nil {
		return s.fail(nil, err, "")
	}
	exit, err := s.once(ctx, name)
	if rerr := removeService(ctx, s.conn, name); err == nil && rerr != nil {
		return s.fail(nil, rerr, "the service "+name+" is left")
	}
	switch {
	case err != nil && (lineLost(ctx, err) || errors.Is(err, transport.ErrTimeout)):
		return s.fail(nil, err, "")
	case err != nil:
		return unknown(err)
	}
	log := "see " + native + `\` + agent.LogName
	switch exit {
	case transport.Code{}:
		return nil
	case serviceCode(agent.ExitJobRunning):
		return s.fail(agent.ErrJobRunning, nil, "")
	case serviceCode(agent.ExitNoSpace):
		return &agent.Error{Op: "sweep", Target: s.target, Kind: transport.ErrNoSpace, Code: exit, Hint: log}
	}
	return &agent.Error{Op: "sweep", Target: s.target, Code: exit, Err: errors.New("the command remove failed"), Hint: log}
}

// once starts a service that does its work and stops, and returns its exit code.
func (s *windowsSweep) once(ctx context.Context, name string) (transport.Code, error) {
	if err := transport.StartService(ctx, s.conn, name); err != nil && transport.CodeOf(err) != codeRunning {
		return transport.Code{}, err
	}
	end := time.Now().Add(removeTime)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		st, err := transport.QueryService(ctx, s.conn, name)
		switch {
		case err != nil:
			return transport.Code{}, err
		case st.State == transport.ServiceStopped:
			return st.Exit, nil
		case time.Now().After(end):
			return transport.Code{}, &transport.Error{Op: "remove", Kind: transport.ErrTimeout, Err: fmt.Errorf("the service %s is %s after %v", name, st.State, removeTime)}
		}
		if err := sleep(ctx, pause); err != nil {
			return transport.Code{}, err
		}
	}
}

// native is what the target calls a file, as far as it says so.
func (s *windowsSweep) native(ctx context.Context, name string) string {
	if fi, err := transport.Stat(ctx, s.conn, name); err == nil && fi.Native != "" {
		return fi.Native
	}
	return name
}

// dirs removes the agent's directories, which are empty, and the base directory if it is.
// A file that was deleted while somebody has it open, as a virus scanner does, is in its
// directory until that closes it.
func (s *windowsSweep) dirs(ctx context.Context) error {
	end := time.Now().Add(goneTime)
	for _, dir := range []string{path.Join(s.place.Dir, jobsName), s.place.Dir} {
		for {
			err := transport.Remove(ctx, s.conn, dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if lineLost(ctx, err) || !errors.Is(err, fs.ErrExist) || time.Now().After(end) {
				return s.fail(nil, fmt.Errorf("%s is left: %w", s.native(ctx, dir), err), "everything in it is removed")
			}
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return s.fail(nil, err, "")
			}
		}
	}
	if base := path.Dir(s.place.Dir); base == windowsBase {
		removeEmpty(ctx, s.conn, []string{base}) // unless others have something there
	}
	return nil
}

// files deletes everything but logs, the program last, and says what could not be.
func (s *windowsSweep) files(ctx context.Context, d contents) error {
	program := path.Join(s.place.Dir, agent.WindowsBinaryName)
	names, last := []string{}, []string{}
	for _, name := range d.Rest {
		if name == program {
			last = append(last, name)
		} else {
			names = append(names, name)
		}
	}
	var errs []error
	for _, name := range append(names, last...) {
		if err := transport.RemoveAll(ctx, s.conn, name); err != nil {
			if lineLost(ctx, err) {
				return s.fail(nil, err, "")
			}
			errs = append(errs, fmt.Errorf("%s is left: %w", s.native(ctx, name), err))
		}
	}
	if len(errs) > 0 {
		return s.fail(nil, errors.Join(errs...), "everything else but logs is removed")
	}
	return nil
}
