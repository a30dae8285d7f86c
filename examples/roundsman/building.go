package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

const (
	buildQuiet = 5 * time.Second        // what the go command has built before, it has at once
	stopGrace  = 500 * time.Millisecond // for the signal that ended the go command to end the context, too
)

// building is a Source that has the go command build agents: it says so where that takes
// long, and tells a build that was stopped from one that failed. It is safe for concurrent
// use.
type building struct {
	install.Source
	stderr io.Writer

	mu   sync.Mutex
	said map[string]bool
}

// Open implements install.Source.
func (b *building) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	done, joined := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(joined)
		select {
		case <-done:
		case <-time.After(buildQuiet):
			b.say(goos + "/" + goarch)
		}
	}()
	f, err := b.Source.Open(ctx, goos, goarch)
	close(done)
	<-joined
	// A terminal sends Ctrl-C to the go command as well, which may end first.
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && errors.Is(err, agent.ErrNoBinary) {
		select {
		case <-ctx.Done():
			return f, &agent.Error{Op: "build", Kind: ctx.Err(), Err: fmt.Errorf("the go command was stopped: %v", exit)}
		case <-time.After(stopGrace):
		}
	}
	return f, err
}

// say says once for each system that its agent is being built.
func (b *building) say(system string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.said[system] {
		return
	}
	if b.said == nil {
		b.said = map[string]bool{}
	}
	b.said[system] = true
	fmt.Fprintf(b.stderr, "roundsman: this program has no agent for %s in it: the go command builds one from its source, which may take some minutes\n", system)
}
