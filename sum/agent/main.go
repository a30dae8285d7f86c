package agent

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// Exit statuses of [Main] beside 0.
const (
	ExitFailed     = 1
	ExitUsage      = 2
	ExitJobRunning = 3 // remove: a job runs, so nothing was deleted
)

// startTime is how long start waits for the agent to listen. It covers the time
// that an older agent may take to leave.
const startTime = 25 * time.Second

var errNotHere = fmt.Errorf("not supported on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Supported returns nil if the service of an agent can run on the system of this
// process, and else an error that matches errors.ErrUnsupported.
func Supported() error {
	if !supported {
		return errNotHere
	}
	return nil
}

const usage = `usage:
  roundsman-agent version
  roundsman-agent start   -dir DIR       start the service in the background
  roundsman-agent serve   -dir DIR       be the service
  roundsman-agent connect -socket PATH   join standard input and output to its socket
  roundsman-agent remove  -dir DIR       stop it and delete everything but logs
  roundsman-agent shim    -job DIR       watch over one job
`

// Main is the program that runs on a target: examples/agent only calls it. args
// are the arguments after the program's name. It returns the exit status.
//
//	version          prints name, version and platform
//	start -dir D     starts serve in the background; when it returns 0, D has a
//	                 ready.json for the bootstrap.json that was there
//	serve -dir D     is the service; it replaces an older one in D
//	connect -socket  copies standard input to a Unix socket and back, where the
//	                 SSH server forbids forwarding; ends when either side does
//	shim -job        is the parent of one job's program; serve starts it
//	remove -dir D    stops an agent and deletes everything but logs, whose paths
//	                 it prints; ends with ExitJobRunning while a job runs
//
// No command takes a secret from its arguments or its environment.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return ExitUsage
	}
	name := args[0]
	flags := flag.NewFlagSet("roundsman-agent "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	var path string
	var run func() error
	switch name {
	case "version":
		run = func() error {
			_, err := fmt.Fprintf(stdout, "roundsman-agent %s %s/%s\n", version(), runtime.GOOS, runtime.GOARCH)
			return err
		}
	case "start":
		flags.StringVar(&path, "dir", "", "")
		run = func() error { return start(home(path)) }
	case "serve":
		flags.StringVar(&path, "dir", "", "")
		run = func() error {
			ctx, stop := notifyEnd()
			defer stop()
			return serve(ctx, home(path))
		}
	case "connect":
		flags.StringVar(&path, "socket", "", "")
		run = func() error { return connect(path, stdin, stdout) }
	case "shim":
		flags.StringVar(&path, "job", "", "")
		run = func() error { return runShim(path, stderr) }
	case "remove":
		flags.StringVar(&path, "dir", "", "")
		run = func() error { return remove(home(path), stdout) }
	default:
		fmt.Fprintf(stderr, "roundsman-agent: no command %q\n%s", name, usage)
		return ExitUsage
	}
	if err := flags.Parse(args[1:]); err != nil {
		return ExitUsage
	}
	if flags.NArg() > 0 || name != "version" && path == "" {
		fmt.Fprint(stderr, usage)
		return ExitUsage
	}
	err := error(nil)
	if name != "version" && name != "connect" && !supported {
		err = errNotHere
	} else {
		if name != "version" {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			err = run()
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "roundsman-agent %s: %v\n", name, err)
		if errors.Is(err, ErrJobRunning) {
			return ExitJobRunning
		}
		return ExitFailed
	}
	return 0
}

// version is the module's, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// notifyEnd gives a context that ends with the signals that end a service. SIGHUP
// comes when the session of the manager's login ends, and means nothing. None is
// ignored in the way that child processes inherit.
func notifyEnd() (context.Context, context.CancelFunc) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, endSignals[len(endSignals)-1])
	return signal.NotifyContext(context.Background(), endSignals[:max(1, len(endSignals)-1)]...)
}

// start runs serve in the background and waits until it is ready.
func start(h home) error {
	var boot Bootstrap
	if err := readJSON(h.path(BootstrapName), &boot); err != nil {
		return err
	}
	err := launch(h, boot.Nonce)
	if err != nil {
		// Whatever went wrong, the keys do not stay in a file.
		var there Bootstrap
		if readJSON(h.path(BootstrapName), &there) == nil && there.Nonce == boot.Nonce {
			os.Remove(h.path(BootstrapName))
		}
	}
	return err
}

// launch runs serve and waits until its ready file has the nonce.
func launch(h home, nonce string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(h.path(LogName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "serve", "-dir", string(h))
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = baseEnv(), string(h), log, log
	if tmp := os.Getenv("TMPDIR"); filepath.IsAbs(tmp) {
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	}
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.After(startTime)
	for {
		var ready Ready
		if readJSON(h.path(ReadyName), &ready) == nil && ready.Nonce == nonce && ready.PID == cmd.Process.Pid {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-ended:
			return fmt.Errorf("the service ended at once (%v): %s", err, since(log, before))
		case <-limit:
			cmd.Process.Kill()
			<-ended
			return fmt.Errorf("the service did not listen within %v: %s", startTime, since(log, before))
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

// connect joins standard input and output to a Unix socket.
func connect(path string, stdin io.Reader, stdout io.Writer) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan error, 2)
	go func() { // ends with the process where nothing else ends its read
		_, err := io.Copy(conn, stdin)
		ended <- err
	}()
	go func() {
		_, err := io.Copy(stdout, conn)
		ended <- err
	}()
	if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// runShim does one job and then, if need be, cleans up after a dead agent.
func runShim(jobDir string, stderr io.Writer) error {
	id := filepath.Base(jobDir)
	if !channel.ValidJobID(id) || filepath.Base(filepath.Dir(jobDir)) != "jobs" {
		return fmt.Errorf("%s is not the directory of a job", jobDir)
	}
	usualUmask()
	s := &shim{
		home: home(filepath.Dir(filepath.Dir(jobDir))), id: id, grace: killGrace,
		log: slog.New(slog.NewTextHandler(stderr, nil)).With("pid", os.Getpid()),
	}
	s.found = s.home.snapshot()
	// The end of a login or of the host ends the job's program if it has to; the
	// shim stays to record how.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, endSignals...)
	if err := s.run(context.Background()); err != nil {
		return err
	}
	ctx, stop := notifyEnd()
	defer stop()
	signal.Stop(caught)
	if err := s.janitor(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// remove is for what a dead agent left, and for an agent that nobody can reach.
func remove(h home, stdout io.Writer) error {
	ctx, stop := notifyEnd()
	defer stop()
	left, err := removeAgent(ctx, h, holder{process: thisProcess()})
	for _, name := range left {
		fmt.Fprintln(stdout, name)
	}
	return err
}

// removeAgent ends the agent of a directory and deletes everything but logs, which
// it returns.
func removeAgent(ctx context.Context, h home, me holder) (left []string, err error) {
	fi, err := os.Lstat(string(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() || !ownedByMe(fi) {
		return nil, fmt.Errorf("%s is not a directory that belongs to this user", h)
	}
	// Before and after: the agent may take a job until it is gone.
	if ids := h.busy(); len(ids) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrJobRunning, ids[0])
	}
	lock, err := takeOver(ctx, h, me)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if ids := h.busy(); len(ids) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrJobRunning, ids[0])
	}
	h.abandon()
	return h.clear()
}
