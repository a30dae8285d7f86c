package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// lab is all targets, whatever their kind.
type lab struct{ machines []*machine }

// A machine is one target, how it is reached, and what is to become of it.
type machine struct {
	target    sum.Target
	transport transport.Transport
	endpoint  transport.Endpoint

	component *component.Component
	want      sum.OutcomeKind
	event     func(sum.Event) // nil, or sees what happens there
	nothing   string          // what there is none of, once the run is over

	host
}

// A host is what plays a target.
type host interface {
	// remains is what a run has left there.
	remains(context.Context) (remains, error)
	close() error
}

// remains are logs, which stay, and what should not be there.
type remains struct{ logs, rest []string }

// A maker makes machines of one kind. Each has a file of its own.
type maker struct {
	kind       sum.Kind
	name, what string // for people
	// make makes them. Where this computer cannot have them it fails with a leftOut. What
	// it returns is to be closed, also if it fails.
	make func(context.Context) ([]*machine, error)
}

// leftOut says why there are no machines of a kind, in one line.
type leftOut struct{ reason error }

func (e *leftOut) Error() string {
	return "left out: " + strings.Join(strings.Fields(e.reason.Error()), " ")
}

// newLab makes machines of all kinds at the same time, and says what there is, and why not
// more.
func newLab(ctx context.Context, makers ...maker) (*lab, error) {
	made := make([][]*machine, len(makers))
	errs := make([]error, len(makers))
	var wg sync.WaitGroup
	for i, m := range makers {
		wg.Go(func() {
			began := time.Now()
			var out *leftOut
			made[i], errs[i] = m.make(ctx)
			switch err := errs[i]; {
			case ctx.Err() != nil: // what was interrupted has nothing to say
			case errors.As(err, &out):
				errs[i] = nil
				fmt.Printf("  %-8s %v\n", m.name, out)
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", m.name, err)
			default:
				m.show(made[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	l := &lab{machines: slices.Concat(made...)}
	if ctx.Err() != nil {
		errs = []error{errInterrupted}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// show says how many there are, and by which ports they are reached.
func (m maker) show(machines []*machine, took time.Duration) {
	var b strings.Builder // others may be printing
	fmt.Fprintf(&b, "  %-8s %d × %s, started in %.1f s\n", m.name, len(machines), m.what, took.Seconds())
	for _, p := range sum.PortsFor(m.kind, sum.PhaseDeploy, sum.Current) {
		if p.Need == sum.Required {
			fmt.Fprintf(&b, "           must be open: %s/%s %s, for %s\n", p.Ports(), p.Protocol, p.Direction, p.Purpose)
		}
	}
	if m.kind.IsServer() {
		b.WriteString("           nothing else: the agent is reached through the same connection\n")
	}
	fmt.Print(b.String())
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
	m := l.machine(t)
	return m.transport, m.endpoint, nil
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

// leftovers prints what the run left, and fails if that is more than logs.
func (l *lab) leftovers(ctx context.Context) error {
	var errs []error
	for _, m := range l.machines {
		left, err := m.settled(ctx)
		for _, name := range left.logs {
			fmt.Printf("  %-6s %s\n", m.target.Name, name)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: looking for what is left: %w", m.target.Name, err))
		case len(left.rest) > 0:
			errs = append(errs, fmt.Errorf("%s: left there: %s", m.target.Name, strings.Join(left.rest, ", ")))
		default:
			fmt.Printf("  %-6s %s\n", m.target.Name, m.nothing)
		}
	}
	return errors.Join(errs...)
}

// settled is what remains, when what takes a moment more to end has had it, as an agent
// has that has deleted itself.
func (m *machine) settled(ctx context.Context) (remains, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		left, err := m.remains(ctx)
		if err != nil || len(left.rest) == 0 || ctx.Err() != nil {
			return left, err
		}
		time.Sleep(20 * time.Millisecond)
	}
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

// load writes the files of a component into a directory, and loads it as the command line
// would.
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
