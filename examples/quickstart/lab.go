package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// lab is all targets, whatever their kind.
type lab struct{ machines []*machine }

// A kind makes targets of one kind; each has a file of its own.
type kind struct {
	name, what string
	// start makes them. Where this machine cannot have them it fails with a leftOut.
	start func(ctx context.Context) ([]*machine, error)

	machines []*machine
	err      error
	took     time.Duration
}

// A machine is one target, and what is to become of it.
type machine struct {
	target sum.Target
	// resolve is how it is reached.
	resolve   func() (transport.Transport, transport.Endpoint)
	component *component.Component
	want      sum.OutcomeKind
	event     func(sum.Event) // nil, or sees what happens there
	// left lists what agents left there: logs, and what should not be.
	left  func() (logs, rest []string, err error)
	close func() error
}

// leftOut says why there are no targets of a kind, in one line.
type leftOut struct{ reason error }

func (e *leftOut) Error() string {
	return "left out: " + strings.Join(strings.Fields(e.reason.Error()), " ")
}

// newLab starts all kinds of targets at the same time, and says what there is, and why not
// more.
func newLab(ctx context.Context, kinds ...*kind) (*lab, error) {
	done := make(chan *kind)
	for _, k := range kinds {
		go func() {
			began := time.Now()
			k.machines, k.err = k.start(ctx)
			k.took = time.Since(began)
			done <- k
		}()
	}
	var err error
	for range kinds {
		k := <-done
		var out *leftOut
		switch {
		case ctx.Err() != nil:
		case errors.As(k.err, &out):
			fmt.Printf("  %-8s %v\n", k.name, out)
		case k.err != nil:
			err = errors.Join(err, fmt.Errorf("%s: %w", k.name, k.err))
		default:
			k.show()
		}
	}
	l := &lab{}
	for _, k := range kinds {
		l.machines = append(l.machines, k.machines...)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// show says how many there are, and by which ports they are reached.
func (k *kind) show() {
	fmt.Printf("  %-8s %d × %s, started in %.1f s\n", k.name, len(k.machines), k.what, k.took.Seconds())
	for _, p := range sum.PortsFor(k.machines[0].target.Kind, sum.PhaseDeploy, sum.Current) {
		if p.Need == sum.Required {
			fmt.Printf("           must be open: %s/%s %s, for %s\n", p.Ports(), p.Protocol, p.Direction, p.Purpose)
		}
	}
	fmt.Println("           nothing else: the agent is reached through the same connection")
}

func (l *lab) close() error {
	var errs []error
	for _, m := range l.machines {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}

// machine is the one that a target is.
func (l *lab) machine(t sum.Target) *machine {
	for _, m := range l.machines {
		if m.target.Name == t.Name {
			return m
		}
	}
	return nil
}

// resolve is what connects the pipeline to the lab: a real one would look the
// password up in a vault and the host key in known_hosts.
func (l *lab) resolve(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	tr, ep := l.machine(t).resolve()
	return tr, ep, nil
}

// components are those for a target.
func (l *lab) components(t sum.Target) []*component.Component {
	return []*component.Component{l.machine(t).component}
}

// interfere lets a machine do what it wants to at an event.
func (l *lab) interfere(e sum.Event) {
	if m := l.machine(e.Target); m.event != nil {
		m.event(e)
	}
}

// leftovers prints what the agents left, and fails if that is more than logs.
func (l *lab) leftovers() error {
	// An agent that has deleted itself takes a moment more to end.
	deadline := time.Now().Add(30 * time.Second)
	var bad []string
	for _, m := range l.machines {
		logs, rest, err := m.left()
		for ; err == nil && len(rest) > 0 && time.Now().Before(deadline); logs, rest, err = m.left() {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		for _, name := range logs {
			fmt.Printf("  %-6s %s\n", m.target.Name, name)
		}
		for _, name := range rest {
			bad = append(bad, m.target.Name+": "+name)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("left on targets: %s", strings.Join(bad, ", "))
	}
	fmt.Println("  no program, no process and no service")
	return nil
}

// check fails where an outcome is not what the lab was built for.
func (l *lab) check(results map[string]sum.Outcome) error {
	for _, m := range l.machines {
		if got := results[m.target.Name]; got.Kind != m.want {
			return fmt.Errorf("%s: outcome %s, want %s: %s", m.target.Name, got.Kind, m.want, got.Text)
		}
	}
	return nil
}

// isLog reports whether a file below an agent's base directory is a log: they stay.
func isLog(file string) bool {
	return filepath.Base(file) == "agent.log" || filepath.Base(filepath.Dir(file)) == "jobs"
}

// load writes the files of a component and loads it as the command line would.
func load(ctx context.Context, dir string, files map[string][]byte) (*component.Component, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o700); err != nil {
			return nil, err
		}
	}
	return component.Load(ctx, dir)
}
