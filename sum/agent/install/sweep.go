package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// Sweep implements agent.Installer. The agent's own command "remove" does the
// work, as only it can tell whether a job runs; where that is missing while there
// is something to ask it, it is sent again. What no job can be using is deleted
// through the connection. On Windows the services of the agent go with it, and a program
// that runs still is waited for some seconds, and then named as what is left.
func (in *Installer) Sweep(ctx context.Context, conn transport.Conn, p agent.Place) ([]string, error) {
	if conn == nil || !validPlace(p, p.ID) {
		return nil, &agent.Error{Op: "sweep", Kind: transport.ErrInvalid, Err: fmt.Errorf("%q is not the directory of an agent %q", p.Dir, p.ID)}
	}
	d, err := readDir(ctx, conn, p.Dir)
	if err != nil {
		return nil, &agent.Error{Op: "sweep", Err: err}
	}
	if !isWindows(conn) && (d.agentless || p.Addr == agentless.Addr) {
		return (&agentless.Installer{Logger: in.Logger}).Sweep(ctx, conn, p)
	}
	return in.sweep(ctx, conn, p, "")
}

func (in *Installer) sweep(ctx context.Context, conn transport.Conn, p agent.Place, target string) ([]string, error) {
	if isWindows(conn) {
		return (&windowsSweep{in: in, conn: conn, place: p, target: target}).run(ctx)
	}
	fail := func(kind, err error, hint string) ([]string, error) {
		return nil, &agent.Error{Op: "sweep", Target: target, Kind: kind, Err: err, Hint: hint}
	}
	d, err := readDir(ctx, conn, p.Dir)
	if err != nil {
		return fail(nil, err, "")
	}
	if in.inProcess(conn) && d.inUse() {
		if _, err := agent.Remove(ctx, filepath.FromSlash(p.Dir)); err != nil {
			return fail(nil, err, "")
		}
		if d, err = readDir(ctx, conn, p.Dir); err != nil {
			return fail(nil, err, "")
		}
	} else if d.inUse() {
		// What is executed below must not be what somebody else put there.
		if err := owned(ctx, conn, p.Dir); err != nil {
			return fail(nil, err, "")
		}
		if !d.Binary {
			if err := in.sendAgain(ctx, conn, p, target); err != nil {
				if len(d.Jobs) > 0 {
					return fail(nil, err, "a job may be using "+p.Dir+"/jobs, and without the agent's program nobody can tell")
				}
				in.log().DebugContext(ctx, "sweeping without the agent's program", "target", target, "dir", p.Dir, "err", err)
			}
		}
		var said head // on standard output are the logs that stay
		exit, err := transport.Run(ctx, conn, transport.Command{Argv: []string{path.Join(p.Dir, agent.BinaryName), "remove", "-dir", p.Dir}, Stdout: io.Discard, Stderr: &said})
		out := bytes.TrimSpace(said.buf.Bytes())
		switch {
		case err != nil && stops(ctx, err):
			return fail(nil, err, "")
		case err != nil, exit.Code == 126, exit.Code == 127:
			// It cannot be executed here, so it never was, and nothing runs.
			if len(d.Jobs) > 0 {
				return fail(agent.ErrStart, errors.Join(err, fmt.Errorf("%.300q", out)), "a job may be using "+p.Dir+"/jobs")
			}
		case exit.Code == agent.ExitJobRunning:
			return fail(agent.ErrJobRunning, nil, "")
		case exit.Code != 0 || exit.Signal != "":
			return nil, &agent.Error{Op: "sweep", Target: target, Code: exitCode(exit), Err: fmt.Errorf("%.2000s", out)}
		}
		if d, err = readDir(ctx, conn, p.Dir); err != nil {
			return fail(nil, err, "")
		}
	}
	for _, name := range d.Rest {
		if err := transport.RemoveAll(ctx, conn, name); err != nil {
			return fail(nil, err, "")
		}
	}
	if len(d.Logs) == 0 && d.Exists {
		removeEmpty(ctx, conn, []string{p.Dir, path.Join(p.Dir, jobsName)})
	}
	in.log().InfoContext(ctx, "agent removed", "target", target, "dir", p.Dir, "logs", len(d.Logs))
	return d.Logs, nil
}

// sendAgain puts the agent's program back, so that it can be asked to remove the
// rest.
func (in *Installer) sendAgain(ctx context.Context, conn transport.Conn, p agent.Place, target string) error {
	r := newRun(in, conn, agent.StartOptions{Target: target, ID: p.ID})
	r.dir = p.Dir
	var err error
	if r.sys, err = probe(ctx, conn); err != nil {
		return err
	}
	if r.bin, err = in.source().Open(ctx, r.sys.goos, r.sys.goarch); err != nil {
		return err
	}
	if err := checkBinary(ctx, r.bin, r.sys.goos, r.sys.goarch); err != nil {
		return err
	}
	if w, ok := r.host.(windows); ok {
		_, err = w.putProgram(ctx)
		return err
	}
	return unix{r}.putBinary(ctx)
}

const (
	lockName  = "lock"
	blobsName = "blobs"
	jobsName  = "jobs"
)

// contents is Contents and what else matters for sweeping.
type contents struct {
	Contents
	ready     bool // as Lock
	agentless bool // it was made without an agent
}

// inUse reports whether a process may be using the directory.
func (c contents) inUse() bool { return c.Binary || c.Lock || c.ready || len(c.Jobs) > 0 }

// readDir sorts what is in an agent's directory. A missing one is empty.
func readDir(ctx context.Context, conn transport.Conn, dir string) (contents, error) {
	var c contents
	entries, err := transport.List(ctx, conn, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.Exists = true
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		switch {
		case e.Name == agent.LogName && e.Mode.IsRegular():
			c.Logs = append(c.Logs, name)
			continue
		case e.Name == jobsName && e.IsDir():
			if err := c.readJobs(ctx, conn, name); err != nil {
				return c, err
			}
			continue
		case e.Name == agent.BinaryName, e.Name == agent.WindowsBinaryName:
			c.Binary = true
		case e.Name == lockName:
			c.Lock = true
		case e.Name == agent.ReadyName:
			c.ready = true
		case e.Name == agentless.Marker:
			c.agentless = true
		}
		c.Rest = append(c.Rest, name)
	}
	slices.Sort(c.Logs)
	return c, nil
}

func (c *contents) readJobs(ctx context.Context, conn transport.Conn, dir string) error {
	entries, err := transport.List(ctx, conn, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was deleted meanwhile
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		if e.Mode.IsRegular() && isJobLog(e.Name) {
			c.Logs = append(c.Logs, name)
			continue
		}
		if e.IsDir() {
			c.Jobs = append(c.Jobs, name)
		}
		c.Rest = append(c.Rest, name)
	}
	return nil
}

// isJobLog reports whether a file in jobs stays: the record of a job, or its log.
func isJobLog(name string) bool {
	id, ok := strings.CutSuffix(name, ".json")
	if !ok {
		id, ok = strings.CutSuffix(name, ".log")
	}
	return ok && channel.ValidJobID(id)
}
