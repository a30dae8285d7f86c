package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/transport"
)

// Installer is the agent.Installer for two kinds of targets: those whose connection has
// transport.CapFiles and transport.CapRun, as over SSH, and Windows servers, whose
// connection has CapFiles, CapServices and CapTunnelPipe, as over SMB. Its zero value
// builds agents with the go command. It is safe for concurrent use and must not be
// copied.
//
// A Start goes through Installer.Start, in this file; place.go finds the directory, and
// a host (unix.go, windows.go) puts the agent there and starts it; start.go connects to
// it. What ends it is in sweep.go and windows_sweep.go.
type Installer struct {
	// Source has the binaries; nil is DefaultSource.
	Source Source
	// Network is how the agent is reached. "", the same as "unix", is through the
	// connection to the target, without another port: a Unix socket, or on Windows a
	// named pipe. "tcp" is the classic way:
	// the agent listens on agent.DefaultPort or the next free port of the target,
	// whose firewall must let the manager in.
	Network string
	// Listen is the address of the target on which an agent with Network "tcp"
	// listens, as "host:port"; see agent.Bootstrap.
	Listen string
	// DialContext dials the agent with Network "tcp". nil is net.Dialer's, or
	// where the connection does not know the target's address, as behind a jump
	// host, a tunnel through the connection (transport.CapTunnelTCP).
	DialContext transport.DialFunc
	// AllowForeign lets clients of other make in; see channel.Server.
	AllowForeign bool
	// InProcess makes this process the agent of its own host: where a connection
	// says that it is (transport.Path.SameHost), no program is copied there and no
	// socket is opened, whatever Network says. Targets that are elsewhere get an
	// agent as without it.
	//
	// It takes no agent binary. But a program that is killed, or ends before its
	// job does, can record what came of the job only by another process: by
	// itself, started anew, where Source has the [Self] that RunAgent gave, on its
	// own or within First. Without that such a job ends as agent.Interrupted, and
	// an inventory has to decide; nor does a directory that was left so clear
	// itself when its lease is over. See [agent.NewInProcess] for all that is
	// different.
	InProcess bool
	// Agentless puts no program of ours on Linux targets: see package agentless. What
	// was begun with an agent or without is finished the same way, whatever this
	// says.
	Agentless bool
	// Logger gets what was done, without secrets; nil is none.
	Logger *slog.Logger

	mu     sync.Mutex
	def    Source
	packed packedFiles
}

var _ agent.Installer = (*Installer)(nil)

func (in *Installer) source() Source {
	if in.Source != nil {
		return in.Source
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.def == nil {
		in.def = DefaultSource()
	}
	return in.def
}

func (in *Installer) log() *slog.Logger {
	if in.Logger != nil {
		return in.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// Start implements agent.Installer. It fails with errors.ErrUnsupported if the
// connection has the capabilities of neither kind of target, agent.ErrNoBinary,
// agent.ErrNoDir, which says of each directory why it will not do, and matches
// agent.ErrPolicy too where a security policy is why, agent.ErrQuarantined and agent.ErrStart, and with the errors of the connection
// and of opts.Opened.
func (in *Installer) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	if conn != nil && conn.Path().SameHost {
		opts.Classic = nil
	}
	r := newRun(in, conn, opts)
	if err := r.check(); err != nil {
		return nil, err
	}
	commands, err := r.agentless(ctx)
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	if commands {
		if opts.Classic != nil {
			in.log().InfoContext(ctx, "there is no classic conversation where there is no agent", "target", opts.Target)
		}
		return (&agentless.Installer{Logger: in.Logger}).Start(ctx, conn, opts)
	}
	if r.sys, err = r.host.look(ctx); err != nil {
		return nil, r.fail(nil, err, "")
	}
	if !in.inProcess(conn) {
		if err := r.findBinary(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.findDir(ctx); err != nil {
		return nil, err
	}
	a, err := r.host.launch(ctx)
	if r.cleared(ctx, err) {
		if err = r.findDir(ctx); err == nil {
			a, err = r.host.launch(ctx)
		}
	}
	if err != nil {
		return nil, r.undone(ctx, err)
	}
	in.log().InfoContext(ctx, "agent started", "target", opts.Target, "dir", r.dir)
	return a, nil
}

// run is one Start.
type run struct {
	in   *Installer
	conn transport.Conn
	host host
	opts agent.StartOptions
	sys  system
	bin  transport.File
	dir  string
	made []string // directories that were not there before, deepest last
	// touched says that the target was changed below dir.
	touched bool
	// locked says that the lock of an agent was in dir before anything was put there.
	locked bool
	// kept says that the program was in dir before, and was not sent.
	kept bool
	// see is the hint that names the agent's log, while that is there.
	see string
}

// host is what of a Start depends on the kind of target. Its methods are called one after
// the other: mine and fill for each directory that is tried, launch for the first that
// will do.
type host interface {
	// look finds out what the target is, and whether this login may do there what a Start
	// takes, without changing anything.
	look(ctx context.Context) (system, error)
	// mine refuses run.dir, which is there, where it is not ours; made says that it was
	// just made.
	mine(ctx context.Context, made bool) error
	// fill puts what the agent is started from into run.dir.
	fill(ctx context.Context) error
	// why explains from the state of the target why run.dir will not do, or returns "".
	why(ctx context.Context) string
	// launch starts the agent and connects to it.
	launch(ctx context.Context) (*installed, error)
}

func newRun(in *Installer, conn transport.Conn, opts agent.StartOptions) *run {
	r := &run{in: in, conn: conn, opts: opts}
	if r.host = (unix{r}); conn != nil && isWindows(conn) {
		r.host = windows{r}
	}
	return r
}

func (r *run) name(elem ...string) string { return path.Join(append([]string{r.dir}, elem...)...) }

func (r *run) place() agent.Place { return agent.Place{ID: r.opts.ID, Dir: r.dir} }

func (r *run) fail(kind error, err error, hint string) error {
	return &agent.Error{Op: "start", Target: r.opts.Target, Kind: kind, Err: err, Hint: hint}
}

// agentless reports whether the target is to be without an agent. What is there
// already decides, if anything is.
func (r *run) agentless(ctx context.Context) (bool, error) {
	if isWindows(r.conn) {
		return false, nil // Installer.Agentless is for Linux targets
	}
	if r.opts.Place == nil {
		return r.in.Agentless, nil
	}
	d, err := readDir(ctx, r.conn, r.opts.Place.Dir)
	if err != nil {
		return false, err
	}
	return d.agentless || r.opts.Place.Addr == agentless.Addr || r.in.Agentless && !d.inUse(), nil
}

// findBinary gets the program that is to be the agent.
func (r *run) findBinary(ctx context.Context) (err error) {
	if r.bin, err = r.in.source().Open(ctx, r.sys.goos, r.sys.goarch); err != nil {
		return r.fail(nil, err, "")
	}
	if err := checkBinary(ctx, r.bin, r.sys.goos, r.sys.goarch); err != nil {
		return r.fail(nil, err, "")
	}
	return nil
}

func (r *run) check() error {
	o := r.opts
	switch {
	case r.conn == nil || o.Target == "":
		return r.fail(transport.ErrInvalid, errors.New("no connection or no target name"), "")
	case !validID(o.ID):
		return r.fail(transport.ErrInvalid, fmt.Errorf("ID %q cannot name a directory", o.ID), "use letters, digits, dots, dashes and underscores")
	case o.Place != nil && !validPlace(*o.Place, o.ID):
		return r.fail(transport.ErrInvalid, fmt.Errorf("%q is not the directory of agent %q", o.Place.Dir, o.ID), "")
	case !r.conn.Caps().Has(transport.CapFiles|transport.CapRun) && !isWindows(r.conn):
		return r.fail(errors.ErrUnsupported, nil, "the connection offers "+r.conn.Caps().String()+"; an agent needs files and run, or on Windows files, services and pipes")
	case r.conn.Path().SameHost && agent.Supported() != nil:
		return r.fail(errors.ErrUnsupported, agent.Supported(), "")
	case r.in.Network != "" && r.in.Network != "unix" && r.in.Network != "tcp":
		return r.fail(transport.ErrInvalid, fmt.Errorf("network %q", r.in.Network), `want "unix" or "tcp"`)
	}
	return nil
}

// clearTime is how long an agent is waited for that is deleting its files.
const clearTime = 5 * time.Second

// cleared reports whether err is that an agent, whose lease was over, has deleted what
// this Start put there: its lock was there before, and goes last. What a virus scanner
// takes is the program alone. Another manager's agent may have done so, too, where none
// had begun and so no lock was there: then the directory is gone, or the program that this
// Start had found there, and which it has to send.
func (r *run) cleared(ctx context.Context, err error) bool {
	if !errors.Is(err, agent.ErrQuarantined) && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if !r.locked {
		gone := func(name string) bool {
			_, err := transport.Stat(ctx, r.conn, name)
			return errors.Is(err, fs.ErrNotExist)
		}
		program := agent.BinaryName
		if isWindows(r.conn) {
			program = agent.WindowsBinaryName
		}
		if !gone(r.dir) && !(r.kept && gone(r.name(program))) {
			return false
		}
		r.in.log().InfoContext(ctx, "another manager's agent has cleared the directory; trying again", "target", r.opts.Target, "dir", r.dir)
		return true
	}
	for end := time.Now().Add(clearTime); ; {
		_, err := transport.Stat(ctx, r.conn, r.name(lockName))
		if errors.Is(err, fs.ErrNotExist) {
			r.in.log().InfoContext(ctx, "an agent whose lease was over has cleared its directory; trying again", "target", r.opts.Target, "dir", r.dir)
			return true
		}
		if err != nil || time.Now().After(end) {
			return false
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

// undo removes what a failed Start put on the target. It returns "", or what the
// operator must know of what is left.
func (r *run) undo(ctx context.Context) (hint string) {
	if !r.touched {
		return ""
	}
	r.touched = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
	defer cancel()
	_, err := r.in.sweep(ctx, r.conn, r.place(), r.opts.Target)
	if err == nil {
		removeEmpty(ctx, r.conn, r.made)
		return ""
	}
	if errors.Is(err, agent.ErrJobRunning) { // of an earlier agent, whose files these are too
		return ""
	}
	return "what is in " + r.dir + " could not be removed: " + err.Error()
}

// undone undoes and returns cause as an *agent.Error that tells of the rest.
func (r *run) undone(ctx context.Context, cause error) error {
	hint := r.undo(ctx)
	known, ok := cause.(*agent.Error)
	if !ok {
		return r.fail(nil, cause, hint)
	}
	e := *known
	if e.Hint != "" && e.Hint == r.see && !r.logged(ctx) { // cleaned up: what was of note in it is in the error
		e.Hint = ""
	}
	if e.Hint != "" && hint != "" {
		e.Hint += "; "
	}
	e.Hint += hint
	return &e
}

// seeLog is a hint that names the agent's log by what the target calls it.
func (r *run) seeLog(native string) string {
	r.see = "see " + native
	return r.see
}

// logged reports whether the agent's log is there, as far as that can be found out.
func (r *run) logged(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
	defer cancel()
	_, err := transport.Stat(ctx, r.conn, r.name(agent.LogName))
	return !errors.Is(err, fs.ErrNotExist)
}
