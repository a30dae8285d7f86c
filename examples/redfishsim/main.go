// Redfishsim is a management processor that is not there, for trying roundsman out: it
// serves what was captured of a real one, or is one of the simulator's own, until it is
// interrupted.
//
//	roundsman capture ilo://ops@ilo-db1 -o ilo-db1.json
//	go run ./examples/redfishsim ilo-db1.json
//	go run ./examples/redfishsim -profile ilo5 -listen [::1]:8443
//
//	go run ./examples/redfishsim -profile ilo5 -images images -pace 1s
//
// For each it prints a command that takes its inventory. A capture can be read and never
// changes; one of the simulator's own can be updated: with -images there is a component for
// it, and the command that deploys it is printed, too (package redfishtest makes others).
// With -pace an update takes long enough to be looked at, or killed. The password is that of ROUNDSMAN_PASSWORD, or a new one that is printed.
// Without -listen it is a free port of the loopback interface.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv("ROUNDSMAN_PASSWORD"))
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "redfishsim:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out, errs io.Writer, password string) (err error) {
	flags := flag.NewFlagSet("redfishsim", flag.ContinueOnError)
	flags.SetOutput(errs)
	profile := flags.String("profile", "", fmt.Sprintf("serve one of the simulator's own, of a `profile` of %v", redfishtest.Profiles()))
	images := flags.String("images", "", "write a component for the management processor itself, with a new version, into the `directory`, and print how to deploy it")
	pace := flags.Duration("pace", 0, "the `time` that each step of an update takes (those of the simulator, at most a fraction of a second)")
	listen := flags.String("listen", "", "`address` and port, such as 127.0.0.1:8443; what can be reached from elsewhere is open to all there who know the password")
	flags.Usage = func() {
		fmt.Fprintf(errs, "usage: redfishsim [-listen address] capture.json...\n       redfishsim [-listen address] [-images directory] [-pace time] -profile profile\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	files := flags.Args()
	switch {
	case *profile == "" && len(files) == 0:
		return errors.New("give a capture, or -profile")
	case *profile != "" && len(files) > 0:
		return errors.New("-profile excludes captures")
	case *listen != "" && len(files) > 1:
		return errors.New("-listen is for one capture: several have ports of their own")
	}
	if *profile == "" && (*images != "" || *pace != 0) {
		return errors.New("-images and -pace are for -profile: a capture never changes")
	}
	if *pace < 0 {
		return errors.New("-pace must not be negative")
	}
	if *profile != "" {
		files = []string{""}
	}
	for _, file := range files {
		cfg := redfishtest.Config{Profile: redfishtest.Profile(*profile), Addr: *listen, Password: password, Pace: *pace, LastResetTime: true}
		if file != "" {
			if cfg.Capture, err = read(file); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		srv, err := redfishtest.NewServer(cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, srv.Close()) }()
		if *images != "" {
			if err := writeComponent(ctx, *images, srv); err != nil {
				return err
			}
		}
		say(out, srv, file, password != "", *images)
	}
	<-ctx.Done()
	return nil
}

func read(file string) (*redfishtest.Capture, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return redfishtest.ReadCapture(f)
}

// say prints how to take the inventory of a server.
func say(out io.Writer, srv *redfishtest.Server, file string, known bool, images string) {
	kind := kindOf(srv)
	secret := ""
	if !known {
		secret = "ROUNDSMAN_PASSWORD=" + srv.Password() + " "
	}
	what := file
	if what == "" {
		what = string(srv.Profile())
	}
	target := fmt.Sprintf("%s://%s@%s --pin %s", kind, srv.User(), srv.Addr(), transport.Fingerprint(srv.Certificate().RawSubjectPublicKeyInfo))
	fmt.Fprintf(out, "%s: %sroundsman inventory %s\n", what, secret, target)
	if images != "" {
		fmt.Fprintf(out, "%s: %sroundsman deploy --component %s %s\n", what, secret, images, target)
	}
}

// kindOf is the kind of target that a server is.
func kindOf(srv *redfishtest.Server) sum.Kind {
	switch p := srv.Profile(); p {
	case redfishtest.RMC:
		return sum.SuperdomeFlex
	case redfishtest.Generic:
		return sum.Redfish
	}
	return sum.ILO
}
