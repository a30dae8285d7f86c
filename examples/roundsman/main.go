// Roundsman puts firmware, drivers and software onto the machines of a data
// centre, from the command line. It is a thin program over package sum;
// "roundsman help" says what it can do.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/roundsman-go/roundsman/sum/agent/install"
)

func main() {
	// A copy of this program that was sent to a target is the agent there.
	self := install.RunAgent()

	env := os.Environ()
	for _, name := range secretVariables {
		_ = os.Unsetenv(name) // the programs that this one starts need no passwords
	}
	// A reader that goes away, as in "roundsman ... | head", must not end a
	// deployment half-way.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signalContext(context.Background(), os.Stderr, os.Exit)
	a := &app{self: self}
	status := a.run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, env)
	stop()
	os.Exit(status)
}

// run is the program without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	return (&app{}).run(ctx, args, stdin, stdout, stderr, env)
}

// signalContext returns a context that ends with the first SIGINT or SIGTERM. The
// second calls exit at once: what was opened is then left to its lease and to
// recover. stop gives the signals back.
func signalContext(parent context.Context, stderr io.Writer, exit func(int)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-signals:
			}
			if n > 0 {
				exit(exitStopped)
				return
			}
			fmt.Fprintln(stderr, "roundsman: stopping; what runs on a target is given a moment to end. Once more leaves at once.")
			cancel()
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel()
	}
}
