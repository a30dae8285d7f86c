// Redfishsim is a management processor that is not there, for trying roundsman out: it
// serves what was captured of a real one, or is one of the simulator's own, until it is
// interrupted.
//
//	roundsman capture ilo://ops@ilo-db1 -o ilo-db1.json
//	go run ./examples/redfishsim ilo-db1.json
//	go run ./examples/redfishsim -profile ilo5 -listen [::1]:8443
//
// For each it prints a command that takes its inventory. A capture can be read and never
// changes; one of the simulator's own can be updated (see package redfishtest, which makes
// images for it). The password is that of ROUNDSMAN_PASSWORD, or a new one that is printed.
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
	listen := flags.String("listen", "", "`address` and port, such as 127.0.0.1:8443; what can be reached from elsewhere is open to all there who know the password")
	flags.Usage = func() {
		fmt.Fprintf(errs, "usage: redfishsim [-listen address] capture.json...\n       redfishsim [-listen address] -profile profile\n")
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
	if *profile != "" {
		files = []string{""}
	}
	for _, file := range files {
		cfg := redfishtest.Config{Profile: redfishtest.Profile(*profile), Addr: *listen, Password: password}
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
		say(out, srv, file, password != "")
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
func say(out io.Writer, srv *redfishtest.Server, file string, known bool) {
	kind := "redfish"
	switch p := srv.Profile(); {
	case p == redfishtest.RMC:
		kind = "superdome-flex"
	case p != redfishtest.Generic:
		kind = "ilo"
	}
	secret := ""
	if !known {
		secret = "ROUNDSMAN_PASSWORD=" + srv.Password() + " "
	}
	what := file
	if what == "" {
		what = string(srv.Profile())
	}
	fmt.Fprintf(out, "%s: %sroundsman inventory %s://%s@%s --pin %s\n", what, secret, kind, srv.User(), srv.Addr(),
		transport.Fingerprint(srv.Certificate().RawSubjectPublicKeyInfo))
}
