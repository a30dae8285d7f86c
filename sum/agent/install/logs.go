package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/transport"
)

// Logs copies the logs and job records of an agent without asking the agent,
// which need not run or exist any more. create is called with the name of each,
// such as "agent.log" or a job's ID with ".log" or ".json": names that hold no
// slash and do not begin with a dot. That there are none is no error.
//
// A target must not fill the manager's disk: of a log longer than 64 MiB only the
// beginning is copied, and after 1 GiB in all nothing more. Both are reported as
// an error, the first when all other logs were copied.
func Logs(ctx context.Context, conn transport.Conn, p agent.Place, create func(name string) (io.WriteCloser, error)) error {
	fail := func(err error) error { return &agent.Error{Op: "logs", Err: err} }
	if !validPlace(p, p.ID) {
		return &agent.Error{Op: "logs", Kind: transport.ErrInvalid, Err: fmt.Errorf("%q is not the directory of an agent %q", p.Dir, p.ID)}
	}
	d, err := readDir(ctx, conn, p.Dir)
	if err != nil {
		return fail(err)
	}
	if err := copyLogs(ctx, conn, d.Logs, create, maxLog, maxLogs); err != nil {
		return fail(err)
	}
	return nil
}

// Bounds of what Logs copies, in bytes.
const (
	maxLog  = 64 << 20 // of one log
	maxLogs = 1 << 30  // of all logs of a target
)

func copyLogs(ctx context.Context, conn transport.Conn, names []string, create func(string) (io.WriteCloser, error), each, total int64) error {
	var long []error
	for _, name := range names {
		w, err := create(path.Base(name))
		if err != nil {
			return errors.Join(append(long, err)...)
		}
		b := &bounded{w: w, left: min(each, total)}
		// One byte more than is kept tells a longer file.
		_, err = transport.Get(ctx, conn, name, b, transport.GetOptions{Limit: b.left + 1})
		total -= b.n
		cerr := w.Close()
		switch {
		case b.full && cerr == nil && ctx.Err() == nil:
			long = append(long, fmt.Errorf("%s: only its first %d bytes were copied: %w", name, b.n, errLogTooLong))
			if b.n < each {
				return errors.Join(append(long, fmt.Errorf("the logs after it were not copied: %w in all", errLogTooLong))...)
			}
		case err != nil || cerr != nil:
			return errors.Join(append(long, err, cerr)...)
		}
	}
	return errors.Join(long...)
}

var errLogTooLong = errors.New("more than may be copied from a target")

// bounded passes so many bytes on and refuses the rest.
type bounded struct {
	w       io.Writer
	left, n int64
	full    bool // there was more
}

func (b *bounded) Write(p []byte) (int, error) {
	k := min(int64(len(p)), b.left)
	n, err := b.w.Write(p[:k])
	b.n += int64(n)
	b.left -= int64(n)
	if err == nil && n < len(p) {
		b.full = true
		err = errLogTooLong
	}
	return n, err
}

// Contents is what is in an agent's directory.
type Contents struct {
	Exists bool     // the directory is there
	Binary bool     // the agent's program is there
	Lock   bool     // an agent runs there, or ended without cleaning up
	Jobs   []string // paths of the directories of jobs that run, or were not cleaned up
	Logs   []string // paths of logs and job records
	Rest   []string // paths of everything else that must not stay
}

// Look says what is at a place. That the directory is missing is no error.
func Look(ctx context.Context, conn transport.Conn, p agent.Place) (Contents, error) {
	if !validPlace(p, p.ID) {
		return Contents{}, &agent.Error{Op: "look", Kind: transport.ErrInvalid, Err: fmt.Errorf("%q is not the directory of an agent %q", p.Dir, p.ID)}
	}
	c, err := readDir(ctx, conn, p.Dir)
	if err != nil {
		return Contents{}, &agent.Error{Op: "look", Err: err}
	}
	return c.Contents, nil
}

// Find lists the directories of agents below base directories, sorted; nil means
// agent.DefaultBaseDirs for the user of the connection, or on Windows roundsman in the
// share, and a name that starts with "~/" is below that user's home directory. Missing base directories have
// none. What is not recognized as an agent's directory is left out.
func Find(ctx context.Context, conn transport.Conn, baseDirs []string) ([]agent.Place, error) {
	fail := func(err error) ([]agent.Place, error) { return nil, &agent.Error{Op: "find", Err: err} }
	var s system
	if baseDirs == nil || slices.ContainsFunc(baseDirs, inHome) {
		var err error
		if s, err = probe(ctx, conn); err != nil {
			return fail(err)
		}
	}
	if baseDirs == nil {
		baseDirs = s.baseDirs()
	}
	var out []agent.Place
	for _, base := range baseDirs {
		base = expand(base, s.home)
		entries, err := transport.List(ctx, conn, base)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		for _, e := range entries {
			p := agent.Place{ID: e.Name, Dir: path.Join(base, e.Name)}
			if !e.IsDir() || !validPlace(p, e.Name) {
				continue
			}
			c, err := readDir(ctx, conn, p.Dir)
			if err != nil {
				return fail(err)
			}
			if c.ours() {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b agent.Place) int { return strings.Compare(a.Dir, b.Dir) })
	return slices.Compact(out), nil
}

// ours reports whether an agent left something in the directory.
func (c contents) ours() bool {
	known := []string{agent.BinaryName, agent.WindowsBinaryName, agent.BootstrapName, agent.ReadyName, lockName, blobsName, agentless.Marker}
	return len(c.Logs) > 0 || slices.ContainsFunc(c.Rest, func(name string) bool { return slices.Contains(known, path.Base(name)) })
}
