package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// Exit statuses of [Main] beside 0.
const (
	ExitFailed     = 1
	ExitUsage      = 2
	ExitJobRunning = 3 // remove: a job runs, so nothing was deleted
	ExitNoSpace    = 4 // the disk or the user's quota is full
)

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
  roundsman-agent check                  answer what a manager asks of this host
  roundsman-agent guard                  close the firewall behind an agent that was killed
`

// Main is the program that runs on a target: examples/agent only calls it. args
// are the arguments after the program's name. It returns the exit status.
//
//	version          prints name, version and platform
//	start -dir D     starts serve in the background; when it returns 0, D has a
//	                 ready.json for the bootstrap.json that was there; where the
//	                 service found no room on the disk it ends with ExitNoSpace
//	serve -dir D     is the service; it replaces an older one in D
//	connect -socket  copies standard input to a Unix socket and back, where the
//	                 SSH server forbids forwarding; ends when either side does
//	shim -job        is the parent of one job's program; serve starts it
//	remove -dir D    stops an agent and deletes everything but logs, whose paths
//	                 it prints; ends with ExitJobRunning while a job runs
//
//	check            answers a manager on standard input and output until that ends:
//	                 what the host is like, and who reaches whom
//
//	guard            is what an agent starts beside itself where its rules in the
//	                 firewall would outlive it: see firewall.Options.Guardian
//
// serve and shim have the option -unit where systemd starts them: they then print
// to agent.log, and the shim ends an ordinary job when its unit is stopped.
//
// On Windows serve and remove have the option -service, with the name of the service as
// which the service control manager starts them ([ServiceName], [RemoveServiceName]). Each
// is then that service, and the statuses above are its service-specific exit code; what it
// has to say goes to agent.log. Stop and shutdown end serve as a signal does elsewhere. When
// its manager says so, and at the end of its lease, it deletes the entry of its service,
// too; remove deletes that of the agent, and leaves its own. connect has the name of a
// pipe instead of a socket. A service, and a shim, end the process there in place of
// returning: what else is loaded into it is not asked.
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
	var inUnit bool
	var service string
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
		flags.BoolVar(&inUnit, "unit", false, "")
		flags.StringVar(&service, "service", "", "")
		run = func() error {
			if service != "" {
				return serveAsService(home(path), service)
			}
			if inUnit {
				// What the agent writes has modes of its own, but an inventory may run
				// what writes for others to read, as rpm does with its database.
				usualUmask()
				if err := logTo(home(path)); err != nil {
					return err
				}
			}
			ctx, stop := notifyEnd()
			defer stop()
			_, err := serve(ctx, home(path))
			return err
		}
	case "connect":
		flags.StringVar(&path, "socket", "", "")
		run = func() error { return connect(path, stdin, stdout) }
	case "check":
		run = func() error {
			ctx, stop := notifyEnd()
			defer stop()
			signal.Ignore(syscall.SIGPIPE) // what it opened is closed first
			return ServeCheck(ctx, stdin, stdout)
		}
	case "guard":
		run = func() error { return firewall.Guard(context.Background(), stdin, firewall.Options{}) }
	case "shim":
		flags.StringVar(&path, "job", "", "")
		flags.BoolVar(&inUnit, "unit", false, "")
		run = func() error { return runShim(path, inUnit, stderr) }
	case "remove":
		flags.StringVar(&path, "dir", "", "")
		flags.StringVar(&service, "service", "", "")
		run = func() error {
			if service != "" {
				return removeAsService(home(path), service)
			}
			return remove(home(path), stdout)
		}
	default:
		fmt.Fprintf(stderr, "roundsman-agent: no command %q\n%s", name, usage)
		return ExitUsage
	}
	if err := flags.Parse(args[1:]); err != nil {
		return ExitUsage
	}
	if flags.NArg() > 0 || name != "version" && name != "check" && name != "guard" && path == "" {
		fmt.Fprint(stderr, usage)
		return ExitUsage
	}
	err := error(nil)
	// A guardian is needed most where the service does not run.
	if name != "version" && name != "connect" && name != "guard" && !supported {
		err = errNotHere
	} else {
		if path != "" {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			err = run()
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "roundsman-agent %s: %v\n", name, err)
	}
	status := exitStatus(err)
	if service != "" || name == "shim" {
		endNow(status)
	}
	return status
}

// exitStatus is how a command ends that failed with err, or with nil did not.
func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrJobRunning):
		return ExitJobRunning
	case isNoSpace(err):
		return ExitNoSpace
	}
	return ExitFailed
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

// connect joins standard input and output to a Unix socket, or on Windows a named pipe.
func connect(path string, stdin io.Reader, stdout io.Writer) error {
	conn, err := dialLocal(context.Background(), path)
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
func runShim(jobDir string, inUnit bool, stderr io.Writer) error {
	id := filepath.Base(jobDir)
	if !channel.ValidJobID(id) || filepath.Base(filepath.Dir(jobDir)) != "jobs" {
		return fmt.Errorf("%s is not the directory of a job", jobDir)
	}
	h := home(filepath.Dir(filepath.Dir(jobDir)))
	if inUnit {
		if err := logTo(h); err != nil {
			return err
		}
	}
	usualUmask()
	s := &shim{
		home: h, id: id, grace: killGrace,
		log: slog.New(slog.NewTextHandler(stderr, nil)).With("pid", os.Getpid()),
	}
	s.found = s.home.snapshot()
	// The end of a login or of the host ends the job's program if it has to; the
	// shim stays to record how.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, endSignals...)
	if inUnit {
		s.stopped = caught // by systemctl, or as the host shuts down
	}
	if err := s.run(context.Background()); err != nil {
		return err
	}
	if inUnit && (s.stopAsked || len(caught) > 0) {
		return nil // systemd waits
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
	ctx, event, over := askable(ctx)
	defer over()
	left, err := removeAgent(ctx, h, holder{process: thisProcess(), Event: event})
	for _, name := range left {
		fmt.Fprintln(stdout, name)
	}
	return err
}

// removeAgent ends the agent of a directory and deletes everything but logs, which
// it returns.
func removeAgent(ctx context.Context, h home, me holder) (left []string, err error) {
	if _, err := os.Lstat(string(h)); errors.Is(err, fs.ErrNotExist) {
		return nil, h.forgetService()
	}
	if err := h.check(); err != nil {
		return nil, err
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
	left, err = h.clear()
	return left, errors.Join(err, h.forgetService())
}
