package agentless

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// What a directory that was made without an agent is known by: a file in it, as long
// as it is in use, and the Addr of its agent.Place.
const (
	Marker = "agentless"
	Addr   = "commands"
)

// Installer is an agent.Installer that puts no program on the target. Its zero
// value is ready. It is safe for concurrent use.
type Installer struct {
	Logger *slog.Logger // nil is none
}

var _ agent.Installer = (*Installer)(nil)

// What the scripts exit with, beside 0.
const (
	exitNoBlob      = 71
	exitUnsafe      = 72
	exitNoTools     = 73
	exitNoJob       = 74
	exitNoRecords   = 78
	exitBusy        = 75
	exitHostBusy    = 76
	exitNoSpace     = 77
	exitNoShutdown  = 79
	exitShutdown    = 80 // it failed, and the user is not root
	exitNoRestart   = 81 // it failed, for root
	exitUnavailable = 127
)

// Start implements agent.Installer. It fails with errors.ErrUnsupported if the
// connection keeps no files or runs no programs, or leads to no Linux system or to
// one without setsid(1), and with agent.ErrNoDir, which says of each directory why
// it will not do.
func (in *Installer) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	fail := func(kind, err error, hint string) (agent.Agent, error) {
		return nil, &agent.Error{Op: "start", Target: opts.Target, Kind: kind, Err: err, Hint: hint}
	}
	if conn == nil || opts.Target == "" || opts.ID == "" || strings.Contains(opts.ID, "/") || opts.ID[0] == '.' {
		return fail(transport.ErrInvalid, errors.New("no connection, no target name, or no ID that can name a directory"), "")
	}
	if !conn.Caps().Has(transport.CapFiles | transport.CapRun) {
		return fail(errors.ErrUnsupported, nil, "the connection offers "+conn.Caps().String()+"; this needs files and run")
	}
	c := &commands{in: in, conn: conn, target: opts.Target, lease: opts.Lease}
	if c.lease <= 0 {
		c.lease = agent.DefaultLease
	}
	dirs, err := c.dirs(ctx, opts)
	if err != nil {
		return nil, err
	}
	var reasons []error
	for _, dir := range dirs {
		c.place = agent.Place{ID: opts.ID, Dir: dir, Addr: Addr}
		if opts.Opened != nil {
			if err := opts.Opened(ctx, c.place); err != nil {
				return fail(nil, err, "")
			}
		}
		made, err := c.mark(ctx)
		if err != nil {
			if made {
				c.unmark(ctx)
			}
			if ctx.Err() != nil || transport.Temporary(err) || errors.Is(err, transport.ErrClosed) {
				return fail(nil, err, "")
			}
			reasons = append(reasons, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		_, err = c.script(ctx, "start", nil, prepareScript, dir, compact(janitorScript), keepDays(opts.KeepLogs))
		if err == nil {
			bctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			c.cancel = cancel
			c.beats.Go(func() { c.beat(bctx) })
			in.log().InfoContext(ctx, "working without an agent", "target", opts.Target, "dir", dir)
			return c, nil
		}
		if made {
			c.unmark(ctx)
		}
		if errors.Is(err, errors.ErrUnsupported) || ctx.Err() != nil || transport.Temporary(err) || errors.Is(err, transport.ErrClosed) {
			return nil, err
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", dir, err))
	}
	return fail(agent.ErrNoDir, errors.Join(reasons...), "name a directory for the owner alone in the base directories")
}

// Sweep implements agent.Installer.
func (in *Installer) Sweep(ctx context.Context, conn transport.Conn, p agent.Place) ([]string, error) {
	if conn == nil || !path.IsAbs(p.Dir) || path.Clean(p.Dir) != p.Dir || path.Base(p.Dir) != p.ID || path.Dir(p.Dir) == "/" {
		return nil, &agent.Error{Op: "sweep", Kind: transport.ErrInvalid, Err: fmt.Errorf("%q is not the directory of an agent %q", p.Dir, p.ID)}
	}
	c := &commands{in: in, conn: conn, place: p}
	return c.remove(ctx, "sweep")
}

func (in *Installer) log() *slog.Logger {
	if in.Logger != nil {
		return in.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// commands does by commands what an agent does. It is safe for concurrent use.
type commands struct {
	in     *Installer
	conn   transport.Conn
	target string
	place  agent.Place
	lease  time.Duration
	base   bool // the directory above that of place was not there before

	cancel context.CancelFunc
	beats  sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

var _ agent.Agent = (*commands)(nil)

// dirs are the directories to try.
func (c *commands) dirs(ctx context.Context, opts agent.StartOptions) ([]string, error) {
	if opts.Place != nil {
		return []string{opts.Place.Dir}, nil
	}
	login, err := c.bases(ctx, "start", opts.BaseDirs)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, b := range login.bases {
		if dir := path.Join(b, opts.ID); path.IsAbs(dir) && path.Dir(dir) != "/" {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// login is what the target says of this login.
type login struct {
	uid   int // -1: unknown
	bases []string
}

// bases are the base directories; nil stands for the default ones.
func (c *commands) bases(ctx context.Context, op string, bases []string) (login, error) {
	out, err := c.script(ctx, op, nil, `uname -s; id -u; printf '%s\n' "$HOME"`)
	if err != nil {
		return login{}, err
	}
	said := strings.SplitN(string(out), "\n", 3)
	if len(said) < 3 || said[0] != "Linux" {
		return login{}, &agent.Error{Op: op, Target: c.target, Kind: errors.ErrUnsupported, Err: fmt.Errorf("the system is %.40q", said[0]),
			Hint: "only Linux is updated without an agent"}
	}
	home := strings.TrimSpace(said[2])
	if bases == nil {
		bases = agent.DefaultBaseDirs(said[1] == "0", home)
	}
	l := login{uid: -1}
	if n, err := strconv.Atoi(said[1]); err == nil && n >= 0 {
		l.uid = n
	}
	for _, b := range bases {
		if rest, ok := strings.CutPrefix(b, "~/"); ok {
			b = path.Join(home, rest)
		}
		l.bases = append(l.bases, b)
	}
	return l, nil
}

// mark makes the directory, if it is not there, and puts the marker into it. It
// reports whether that was not there.
func (c *commands) mark(ctx context.Context) (made bool, err error) {
	fi, err := transport.Stat(ctx, c.conn, c.place.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, above := transport.Stat(ctx, c.conn, path.Dir(c.place.Dir))
		c.base = errors.Is(above, fs.ErrNotExist)
		err = transport.Mkdir(ctx, c.conn, c.place.Dir, 0o700)
	case err == nil && (!fi.IsDir() || fi.Mode.Perm()&0o077 != 0):
		err = fmt.Errorf("it exists and is not a directory for its owner alone: %v", fi.Mode)
	}
	if err != nil {
		return false, err
	}
	marker := path.Join(c.place.Dir, Marker)
	_, err = transport.Stat(ctx, c.conn, marker)
	made = errors.Is(err, fs.ErrNotExist)
	lease := fmt.Sprintln(int((c.lease + time.Second - 1) / time.Second))
	_, err = transport.Put(ctx, c.conn, marker, transport.BytesFile(Marker, []byte(lease)), transport.PutOptions{Mode: 0o600})
	return made, err
}

// unmark takes back what mark did, unless more is there.
func (c *commands) unmark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
	defer cancel()
	_ = transport.Remove(ctx, c.conn, path.Join(c.place.Dir, Marker))
	_ = transport.Remove(ctx, c.conn, c.place.Dir) // if it is empty
}

const maxAnswer = 1 << 20 // bytes of what a script says

// answer keeps what a script says.
type answer struct{ bytes.Buffer }

func (a *answer) Write(p []byte) (int, error) {
	if a.Len()+len(p) > maxAnswer {
		return 0, &transport.Error{Op: "read", Kind: transport.ErrProtocol, Err: errors.New("a script says too much")}
	}
	return a.Buffer.Write(p)
}

// script runs a script and returns what it prints.
func (c *commands) script(ctx context.Context, op string, env []string, script string, args ...string) ([]byte, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return nil, &agent.Error{Op: op, Target: c.target, Kind: transport.ErrClosed}
	}
	var out answer
	var errs lastBytes
	exit, err := transport.Run(ctx, c.conn, transport.Command{
		Argv: append([]string{"sh", "-c", compact(script), "sh"}, args...), Env: env, Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		return nil, &agent.Error{Op: op, Target: c.target, Err: err}
	}
	if exit == (transport.Exit{}) {
		return out.Bytes(), nil
	}
	if exit.Code == exitHostBusy {
		return nil, c.hostBusy(op, errs)
	}
	e := &agent.Error{Op: op, Target: c.target, Code: transport.Code{Space: "exit", Value: fmt.Sprint(exit.Code)}}
	if s := strings.TrimSpace(string(errs)); s != "" {
		e.Err = fmt.Errorf("%.500q", s)
	}
	switch exit.Code {
	case exitNoBlob:
		e.Kind, e.Hint = fs.ErrNotExist, "a file of the job was not staged"
	case exitUnsafe:
		e.Kind, e.Hint = fs.ErrPermission, "the directory is not its user's alone, or others can put another in its place"
	case exitNoTools, exitUnavailable:
		e.Kind, e.Hint = errors.ErrUnsupported, "a tool is missing on the target: setsid (util-linux), mkfifo, or a POSIX one"
	case exitNoJob:
		e.Kind = agent.ErrNoJob
	case exitNoRecords:
		e.Kind = agent.ErrNoRecords
	case exitBusy:
		e.Kind = agent.ErrJobRunning
	case exitNoShutdown:
		e.Kind, e.Hint = errors.ErrUnsupported, "there is no program shutdown on this host"
	case exitShutdown:
		e.Kind = fs.ErrPermission
	case exitNoRestart:
		e.Kind = transport.ErrRejected
	case exitNoSpace:
		e.Kind, e.Hint = transport.ErrNoSpace, "make room on the file system of "+c.place.Dir
	}
	return nil, e
}

// lastBytes keeps the end of what is written to it.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	*l = append(*l, p...)
	*l = (*l)[max(0, len(*l)-4096):]
	return len(p), nil
}

// beat renews the lease three times in its length.
func (c *commands) beat(ctx context.Context) {
	for {
		select {
		case <-time.After(max(c.lease/3, 100*time.Millisecond)):
		case <-ctx.Done():
			return
		}
		bctx, cancel := context.WithTimeout(ctx, min(max(c.lease/3, time.Second), time.Minute))
		_, err := c.script(bctx, "heartbeat", nil, beatScript, c.place.Dir)
		cancel()
		if err != nil && ctx.Err() == nil {
			c.in.log().Debug("lease not renewed", "target", c.target, "err", err)
		}
	}
}

// Place implements agent.Agent.
func (c *commands) Place() agent.Place { return c.place }

// Close implements agent.Agent.
func (c *commands) Close(context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.beats.Wait()
	return nil
}

// Stage implements agent.Ops.
func (c *commands) Stage(ctx context.Context, f transport.File, progress func(done int64)) (transport.PutResult, error) {
	if err := f.Check(); err != nil {
		return transport.PutResult{}, &agent.Error{Op: "stage", Target: c.target, Err: err}
	}
	res, err := transport.Put(ctx, c.conn, path.Join(c.place.Dir, "blobs", f.Digest()), f, transport.PutOptions{Mode: 0o600, Progress: progress})
	if err != nil {
		return res, &agent.Error{Op: "stage", Target: c.target, Err: err}
	}
	return res, nil
}

// Logs implements agent.Ops.
func (c *commands) Logs(ctx context.Context) ([]transport.FileInfo, error) {
	list, err := transport.List(ctx, c.conn, path.Join(c.place.Dir, "jobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &agent.Error{Op: "logs", Target: c.target, Err: err}
	}
	var logs []transport.FileInfo
	for _, fi := range list {
		if fi.Mode.IsRegular() && isLog(fi.Name) {
			logs = append(logs, fi)
		}
	}
	return logs, nil
}

// Log implements agent.Ops.
func (c *commands) Log(ctx context.Context, name string, w io.Writer) error {
	err := error(fs.ErrNotExist)
	if isLog(name) {
		_, err = transport.Get(ctx, c.conn, path.Join(c.place.Dir, "jobs", name), w, transport.GetOptions{})
	}
	if err != nil {
		return &agent.Error{Op: "log", Target: c.target, Err: err}
	}
	return nil
}

// Reboot implements agent.Ops. It fails with agent.ErrJobRunning while a job runs, and
// with agent.ErrHostBusy while another manager's does, with fs.ErrPermission where
// shutdown fails and the user is not root, and with transport.ErrRejected where it fails
// for root; until the restart no job begins on the host.
func (c *commands) Reboot(ctx context.Context, opts transport.RebootOptions) error {
	minutes := (max(opts.Delay, 0) + time.Minute - 1) / time.Minute
	holder, _ := json.Marshal(agent.HostHolder{Agent: c.place.ID, Target: c.target}) // strings alone
	args := append([]string{c.place.Dir, channel.NewJobID(), string(holder), fmt.Sprint(int64(minutes) * 60)}, agent.ShutdownArgs(opts.Message, opts.Delay)...)
	_, err := c.script(ctx, "reboot", nil, rebootScript, args...)
	return err
}

// Stop implements agent.Ops.
func (c *commands) Stop(ctx context.Context, remove bool) ([]string, error) {
	if !remove {
		return nil, nil
	}
	return c.remove(ctx, "stop")
}

// Remove implements agent.Agent.
func (c *commands) Remove(ctx context.Context) ([]string, error) {
	left, err := c.remove(ctx, "remove")
	if err != nil {
		return left, err
	}
	if c.base && len(left) == 0 {
		_ = transport.Remove(ctx, c.conn, path.Dir(c.place.Dir)) // if it is empty
	}
	return left, c.Close(ctx)
}

// remove deletes everything but logs and the records of jobs.
func (c *commands) remove(ctx context.Context, op string) ([]string, error) {
	if _, err := c.script(ctx, op, nil, removeScript, c.place.Dir); err != nil {
		return nil, err
	}
	logs, err := c.Logs(ctx)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, l := range logs {
		left = append(left, path.Join(c.place.Dir, "jobs", l.Name))
	}
	return left, nil
}
