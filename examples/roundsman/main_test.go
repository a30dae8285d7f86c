package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/roundsman-go/roundsman/sum/agent/install"
)

func TestMain(m *testing.M) {
	self := install.RunAgent() // the copies of the test's program are agents
	// Most of these tests wait for hosts and for one another's programs: more of them
	// than there are processors go on at a time, unless the command line says how many.
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"roundsman": main, inProcess: func() {
		a := &app{installer: &install.Installer{Source: install.First(), InProcess: true}}
		os.Exit(a.run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
	}, withShims: func() {
		a := &app{installer: &install.Installer{Source: self, InProcess: true}}
		os.Exit(a.run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
	}, manyILOs: func() { os.Exit(runILOs()) }, quickLooks: func() {
		a := &app{redfish: quick}
		os.Exit(a.run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
	}})
}

// canary is the password of the tests, which must show up nowhere.
const canary = "correct-horse-battery-staple"

// inProcess is the name of a program that is itself the agent of its host, and is
// made to be no other.
const inProcess = "rm-inprocess"

// withShims is one that starts itself anew to watch over jobs.
const withShims = "rm-withshims"

// quickLooks is one that looks often at management processors, which are simulated.
const quickLooks = "rm-quicklooks"

// TestScript runs the program itself, in testdata/script.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
		},
	})
}

// status runs a program that must end with the given exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
