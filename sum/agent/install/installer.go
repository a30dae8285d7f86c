package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/transport"
)

// Installer is the agent.Installer for targets whose connection has
// transport.CapFiles and transport.CapRun, as over SSH. Its zero value builds
// agents with the go command. It is safe for concurrent use and must not be
// copied.
type Installer struct {
	// Source has the binaries; nil is DefaultSource.
	Source Source
	// Network is how the agent is reached. "", the same as "unix", is through the
	// connection to the target, without another port. "tcp" is the classic way:
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

	mu  sync.Mutex
	def Source
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

// run is one Start.
type run struct {
	in   *Installer
	conn transport.Conn
	opts agent.StartOptions
	sys  system
	bin  transport.File
	dir  string
	made []string // directories that were not there before, deepest last
	// touched says that the target was changed below dir.
	touched bool
	// locked says that the lock of an agent was in dir before anything was put there.
	locked bool
}

func (r *run) name(elem ...string) string { return path.Join(append([]string{r.dir}, elem...)...) }

func (r *run) place() agent.Place { return agent.Place{ID: r.opts.ID, Dir: r.dir} }

func (r *run) fail(kind error, err error, hint string) error {
	return &agent.Error{Op: "start", Target: r.opts.Target, Kind: kind, Err: err, Hint: hint}
}

// Start implements agent.Installer. It fails with errors.ErrUnsupported if the
// connection keeps no files or runs no programs, agent.ErrNoBinary,
// agent.ErrNoDir, which says of each directory why it will not do, and matches
// agent.ErrPolicy too where a security policy is why, agent.ErrQuarantined and agent.ErrStart, and with the errors of the connection
// and of opts.Opened.
func (in *Installer) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	if conn != nil && conn.Path().SameHost {
		opts.Classic = nil
	}
	r := &run{in: in, conn: conn, opts: opts}
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
	if r.sys, err = probe(ctx, conn); err != nil {
		return nil, r.fail(nil, err, "")
	}
	launch := r.launch
	if in.inProcess(conn) {
		launch = r.launchInProcess
	} else if err := r.findBinary(ctx); err != nil {
		return nil, err
	}
	if err := r.findDir(ctx); err != nil {
		return nil, err
	}
	a, err := launch(ctx)
	if r.cleared(ctx, err) {
		if err = r.findDir(ctx); err == nil {
			a, err = launch(ctx)
		}
	}
	if err != nil {
		return nil, r.undone(ctx, err)
	}
	in.log().InfoContext(ctx, "agent started", "target", opts.Target, "dir", r.dir)
	return a, nil
}

// agentless reports whether the target is to be without an agent. What is there
// already decides, if anything is.
func (r *run) agentless(ctx context.Context) (bool, error) {
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
	case !r.conn.Caps().Has(transport.CapFiles | transport.CapRun):
		return r.fail(errors.ErrUnsupported, nil, "the connection offers "+r.conn.Caps().String()+"; an agent needs files and run")
	case r.conn.Path().SameHost && agent.Supported() != nil:
		return r.fail(errors.ErrUnsupported, agent.Supported(), "")
	case r.in.Network != "" && r.in.Network != "unix" && r.in.Network != "tcp":
		return r.fail(transport.ErrInvalid, fmt.Errorf("network %q", r.in.Network), `want "unix" or "tcp"`)
	}
	return nil
}

// validID reports whether an ID may name a directory on any target.
func validID(id string) bool {
	if id == "" || len(id) > 128 || id[0] == '.' || id[0] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// validPlace keeps a damaged journal from making us delete anything else.
func validPlace(p agent.Place, id string) bool {
	return p.ID == id && validID(id) && path.IsAbs(p.Dir) && path.Clean(p.Dir) == p.Dir &&
		path.Base(p.Dir) == id && path.Dir(p.Dir) != "/"
}

// findDir puts the binary into the first directory where it can be executed.
func (r *run) findDir(ctx context.Context) error {
	var reasons []error
	todo := "name a directory that may hold programs in the base directories"
	for _, dir := range candidates(r.opts, r.sys) {
		r.dir, r.made, r.touched, r.locked = dir, nil, false, false
		err := r.prepare(ctx)
		for tries := 0; tries < 2 && r.cleared(ctx, err); tries++ {
			err = r.prepare(ctx)
		}
		if err == nil {
			return nil
		}
		if stops(ctx, err) {
			return r.undone(ctx, err)
		}
		var denied *agent.Error
		if errors.As(err, &denied) && denied.Kind == agent.ErrPolicy && denied.Hint != "" {
			if len(reasons) == 0 { // of the directory that would be the best
				todo = denied.Hint + "; or " + todo
			}
			denied.Hint = ""
		}
		if why := explain(ctx, r.conn, r.existing(ctx)); why != "" {
			err = fmt.Errorf("%s: %w", why, err)
		}
		if hint := r.undo(ctx); hint != "" {
			err = fmt.Errorf("%w; %s", err, hint)
		}
		r.in.log().DebugContext(ctx, "agent directory will not do", "target", r.opts.Target, "dir", dir, "err", err)
		reasons = append(reasons, fmt.Errorf("%s: %w", dir, err))
	}
	if len(reasons) == 0 {
		reasons = append(reasons, errors.New("no base directory was given"))
	}
	return r.fail(agent.ErrNoDir, errors.Join(reasons...), todo)
}

// stops reports whether an error says nothing about the directory that was
// tried, so that no other one is to be tried.
func stops(ctx context.Context, err error) bool {
	if ctx.Err() != nil || transport.Temporary(err) {
		return true
	}
	for _, kind := range []error{
		transport.ErrClosed, transport.ErrIntegrity, transport.ErrProtocol, transport.ErrAuth, errors.ErrUnsupported,
		agent.ErrQuarantined, errOpened, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// errOpened marks errors of StartOptions.Opened.
var errOpened = errors.New("the place of the agent could not be recorded")

func (r *run) opened(ctx context.Context, p agent.Place) error {
	if r.opts.Opened == nil {
		return nil
	}
	if err := r.opts.Opened(ctx, p); err != nil {
		return r.fail(errOpened, err, "")
	}
	return nil
}

// prepare makes the directory and puts a binary there that can be executed.
func (r *run) prepare(ctx context.Context) error {
	if !path.IsAbs(r.dir) || path.Clean(r.dir) != r.dir || path.Dir(r.dir) == "/" {
		return fmt.Errorf("not the clean absolute path of a directory below another: %q", r.dir)
	}
	_, err := transport.Stat(ctx, r.conn, r.name(lockName))
	if r.locked = err == nil; err != nil && stops(ctx, err) {
		return err
	}
	missing, err := r.missing(ctx)
	if err != nil {
		return err
	}
	if err := r.opened(ctx, r.place()); err != nil {
		return err
	}
	if len(missing) == 0 {
		fi, err := transport.Stat(ctx, r.conn, r.dir)
		if err != nil {
			return err
		}
		if !fi.IsDir() || fi.Mode.Perm()&0o077 != 0 {
			return fmt.Errorf("it exists and is not a directory for its owner alone: %v", fi.Mode)
		}
	} else if err := transport.Mkdir(ctx, r.conn, r.dir, 0o700); err != nil {
		r.made, r.touched = missing, true
		return err
	}
	if err := owned(ctx, r.conn, r.dir); err != nil {
		if !stops(ctx, err) {
			removeEmpty(ctx, r.conn, missing) // and nothing in it is looked at
		}
		return err
	}
	r.made, r.touched = missing, true
	for _, d := range []string{r.name(blobsName), r.name(jobsName)} {
		if err := transport.Mkdir(ctx, r.conn, d, 0o700); err != nil {
			return err
		}
	}
	if r.in.inProcess(r.conn) {
		return r.tryScript(ctx)
	}
	if err := r.putBinary(ctx); err != nil {
		return err
	}
	return r.tryBinary(ctx)
}

// missing returns the directories that Mkdir will have to make, deepest last.
func (r *run) missing(ctx context.Context) ([]string, error) {
	var out []string
	for d := r.dir; d != "/"; d = path.Dir(d) {
		_, err := transport.Stat(ctx, r.conn, d)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			if stops(ctx, err) {
				return nil, err
			}
			break // Mkdir will say what is wrong
		}
		out = append([]string{d}, out...)
	}
	return out, nil
}

// existing returns the deepest directory on the way to dir that exists.
func (r *run) existing(ctx context.Context) string {
	for d := r.dir; d != "/"; d = path.Dir(d) {
		if fi, err := transport.Stat(ctx, r.conn, d); err == nil && fi.IsDir() {
			return d
		}
	}
	return "/"
}

// putBinary sends the binary unless the very same is there.
func (r *run) putBinary(ctx context.Context) error {
	name := r.name(agent.BinaryName)
	if fi, err := transport.Stat(ctx, r.conn, name); err == nil && fi.Size == r.bin.Size && fi.Mode.Perm()&0o700 == 0o700 {
		out, exit, err := output(ctx, r.conn, "sha256sum", name)
		if err != nil && stops(ctx, err) {
			return err
		}
		if sum, _, _ := strings.Cut(string(out), " "); err == nil && exit.Code == 0 && sum == r.bin.Digest() {
			return nil
		}
	}
	start := time.Now()
	res, err := transport.Put(ctx, r.conn, name, r.bin, transport.PutOptions{Mode: 0o700})
	if err != nil {
		return err
	}
	r.in.log().DebugContext(ctx, "agent copied", "target", r.opts.Target, "file", name, "sent", res.Sent, "kept", res.Kept, "took", time.Since(start))
	return nil
}

// tryBinary executes the binary where it is.
func (r *run) tryBinary(ctx context.Context) error {
	why := r.execute(ctx)
	if !isRefusal(why) {
		return why
	}
	name := r.name(agent.BinaryName)
	err := r.refused(ctx, name, why, true)
	if err != nil {
		return err
	}
	if why = r.execute(ctx); !isRefusal(why) {
		return why
	}
	return r.refused(ctx, name, why, false)
}

// isRefusal reports whether a program that is there was not executed: a POSIX
// shell says so by the status 126.
func isRefusal(err error) bool {
	return errors.Is(err, fs.ErrPermission) || transport.CodeOf(err) == transport.Code{Space: "exit", Value: "126"}
}

// execute asks the binary for its version.
func (r *run) execute(ctx context.Context) error {
	name := r.name(agent.BinaryName)
	out, exit, err := output(ctx, r.conn, name, "version")
	if err != nil && stops(ctx, err) {
		return err
	}
	want := r.sys.goos + "/" + r.sys.goarch
	if err == nil && exit.Code == 0 && strings.HasPrefix(string(out), agent.BinaryName+" ") && strings.HasSuffix(strings.TrimSpace(string(out)), " "+want) {
		return nil
	}
	if gone := r.vanished(ctx); gone != nil {
		return gone
	}
	if err != nil {
		return fmt.Errorf("the agent cannot be executed: %w", err)
	}
	return &transport.Error{Op: "execute", Path: name, Code: exitCode(exit), Err: fmt.Errorf("%.300q", out)}
}

// vanished returns an error if the binary, which had arrived, is gone.
func (r *run) vanished(ctx context.Context) error {
	if _, err := transport.Stat(ctx, r.conn, r.name(agent.BinaryName)); errors.Is(err, fs.ErrNotExist) {
		return r.fail(agent.ErrQuarantined, err, "let the virus scanner of the target except "+r.dir)
	}
	return nil
}

// clearTime is how long an agent is waited for that is deleting its files.
const clearTime = 5 * time.Second

// cleared reports whether err is that an agent, whose lease was over, has deleted what
// this Start put there: its lock was there before, and goes last. What a virus scanner
// takes is the program alone.
func (r *run) cleared(ctx context.Context, err error) bool {
	if !r.locked || !errors.Is(err, agent.ErrQuarantined) && !errors.Is(err, fs.ErrNotExist) {
		return false
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
	switch {
	case !ok:
		return r.fail(nil, cause, hint)
	case hint == "":
		return cause
	case known.Hint != "":
		hint = known.Hint + "; " + hint
	}
	e := *known
	e.Hint = hint
	return &e
}

// removeEmpty removes directories that a Start made, if they are empty.
func removeEmpty(ctx context.Context, conn transport.Conn, made []string) {
	for i := len(made) - 1; i >= 0; i-- {
		if err := transport.Remove(ctx, conn, made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}
