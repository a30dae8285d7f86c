package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// A Program answers a command of Run. Its context ends when the caller's does,
// when the connection ends and when the target reboots; it must return then.
type Program func(ctx context.Context, p *Process) transport.Exit

// A Process is one run of a Program.
type Process struct {
	Target *Target
	PID    int
	Argv   []string
	Env    []string // as given with the command
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Getenv returns the value of an environment variable given with the command.
func (p *Process) Getenv(name string) string {
	for _, e := range slices.Backward(p.Env) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// Argv returns a function that matches an argv against patterns, one for each
// argument: "*" stands for any text, also with slashes and empty, "?" for one
// character; a last pattern "..." matches any rest.
func Argv(patterns ...string) func(argv []string) bool {
	rest := len(patterns) > 0 && patterns[len(patterns)-1] == "..."
	if rest {
		patterns = patterns[:len(patterns)-1]
	}
	return func(argv []string) bool {
		if len(argv) < len(patterns) || (len(argv) > len(patterns) && !rest) {
			return false
		}
		for i, p := range patterns {
			if !glob([]rune(p), []rune(argv[i])) {
				return false
			}
		}
		return true
	}
}

func glob(p, s []rune) bool {
	star, from := -1, 0 // the last star, and where what it stands for ends
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == s[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// Answer returns a Program that prints and ends.
func Answer(stdout, stderr string, code int) Program {
	return func(_ context.Context, p *Process) transport.Exit {
		_, _ = io.WriteString(p.Stdout, stdout)
		_, _ = io.WriteString(p.Stderr, stderr)
		return transport.Exit{Code: code}
	}
}

type program struct {
	match func(argv []string) bool
	run   Program
}

// OnRun scripts the answer to the commands that match accepts. Later scripts go
// before earlier ones. A command without a script is a violation.
func (t *Target) OnRun(match func(argv []string) bool, answer Program) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.programs = append(t.programs, program{match, answer})
}

func (t *Target) program(argv []string) Program {
	t.f.mu.Lock()
	programs := slices.Clone(t.programs)
	t.f.mu.Unlock()
	for _, p := range slices.Backward(programs) {
		if p.match(argv) {
			return p.run
		}
	}
	return nil
}

// Run implements transport.Runner.
func (c *conn) Run(ctx context.Context, cmd transport.Command) (exit transport.Exit, err error) {
	if why := badCommand(cmd); why != "" {
		return exit, c.invalid(ctx, "run", "", why)
	}
	k, err := c.use(ctx, "run", cmd.Argv[0], transport.CapRun)
	k.entry.Argv = slices.Clone(cmd.Argv)
	defer func() { k.end(&err) }()
	if err != nil {
		return exit, err
	}
	answer := c.t.program(cmd.Argv)
	if answer == nil {
		return exit, c.fail("run", cmd.Argv[0], transport.ErrRejected, c.f.violate("run on %q: no script for %q", c.ep.Address, cmd.Argv))
	}
	return c.execute(ctx, cmd, answer)
}

func badCommand(cmd transport.Command) string {
	if len(cmd.Argv) == 0 || cmd.Argv[0] == "" {
		return "no program"
	}
	for _, s := range slices.Concat(cmd.Argv, cmd.Env) {
		if strings.ContainsRune(s, 0) {
			return "a NUL byte in argv or environment"
		}
	}
	for _, e := range cmd.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return fmt.Sprintf("%q is no NAME=value", e)
		}
	}
	return ""
}

// output is a piece of what a program writes. It is handed to the goroutine of
// Run, so that nothing is written to the caller's writers after Run returned.
type output struct {
	to      io.Writer
	data    []byte
	written chan<- error
}

type outputPipe struct {
	to     io.Writer
	pieces chan<- output
	over   <-chan struct{} // Run has returned
}

func (o *outputPipe) Write(p []byte) (int, error) {
	if len(p) == 0 || o.to == nil {
		return len(p), nil
	}
	written := make(chan error, 1)
	select {
	case o.pieces <- output{o.to, p, written}:
	case <-o.over:
		return 0, io.ErrClosedPipe
	}
	// Run answers, or returns while it writes to a caller that takes nothing.
	select {
	case err := <-written:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-o.over:
		return 0, io.ErrClosedPipe
	}
}

func (c *conn) execute(ctx context.Context, cmd transport.Command, answer Program) (transport.Exit, error) {
	c.f.mu.Lock()
	c.f.lastPID++
	pid, boot := c.f.lastPID, c.t.boot
	c.f.mu.Unlock()
	life, kill := context.WithCancel(ctx)
	defer kill()
	defer context.AfterFunc(boot, kill)()
	over := make(chan struct{})
	defer close(over)
	pieces := make(chan output)
	ended := make(chan transport.Exit, 1)

	var stdin io.Reader = strings.NewReader("")
	if cmd.Stdin != nil {
		r, w := io.Pipe()
		stdin = r
		// Nothing can interrupt a read from the caller's reader. The goroutine ends
		// with it, or with the next piece after the program has ended.
		c.f.spawn(func() {
			_, err := io.Copy(w, cmd.Stdin)
			w.CloseWithError(err)
		})
		defer r.Close()
		defer context.AfterFunc(life, func() { r.CloseWithError(context.Canceled) })()
	}
	p := &Process{Target: c.t, PID: pid, Argv: slices.Clone(cmd.Argv), Env: slices.Clone(cmd.Env), Stdin: stdin,
		Stdout: &outputPipe{cmd.Stdout, pieces, over}, Stderr: &outputPipe{cmd.Stderr, pieces, over}}
	c.mu.Lock()
	counted := !c.tunneled // else Close waits already, and life has ended
	if counted {
		c.tasks.Add(1)
	}
	c.mu.Unlock()
	c.f.spawn(func() {
		if counted {
			defer c.tasks.Done()
		}
		ended <- answer(life, p)
	})
	// The program must not outlive what holds it, whoever notices first.
	for {
		select {
		case o := <-pieces:
			n, err := o.to.Write(o.data)
			if err == nil && n < len(o.data) {
				err = io.ErrShortWrite
			}
			o.written <- err
			if err != nil {
				return transport.Exit{}, c.fail("run", cmd.Argv[0], nil, fmt.Errorf("writing output on the manager: %w", err))
			}
		case exit := <-ended:
			if err := c.state(ctx, "run", cmd.Argv[0]); err != nil {
				return transport.Exit{}, err
			}
			if boot.Err() != nil {
				return transport.Exit{}, c.fail("run", cmd.Argv[0], transport.ErrConnLost, errors.New("the target rebooted"))
			}
			return exit, nil
		case <-ctx.Done():
			return transport.Exit{}, c.state(ctx, "run", cmd.Argv[0])
		case <-c.closed:
			return transport.Exit{}, c.state(ctx, "run", cmd.Argv[0])
		case <-c.lost:
			return transport.Exit{}, c.state(ctx, "run", cmd.Argv[0])
		}
	}
}
