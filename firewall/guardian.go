package firewall

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A guardian is a process that outlives this one for as long as it takes to remove
// its rules. What it reads tells it: a line with the owner, and at the end "done".
// An end without that is a death.
type guardian struct {
	in      io.WriteCloser
	process *os.Process
	done    chan struct{}
	err     error // of the process; read it after done
}

const guardianDone = "done"

func startGuardian(ctx context.Context, command []string, o Owner) (*guardian, error) {
	cmd := exec.Command(command[0], command[1:]...)
	detach(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &guardian{in: in, process: cmd.Process, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.err = cmd.Wait()
	}()
	if _, err := fmt.Fprintln(in, o); err != nil {
		return nil, errors.Join(err, g.close(ctx))
	}
	return g, nil
}

// ended reports whether the guardian has ended though it was not told to.
func (g *guardian) ended() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// close tells the guardian that there is nothing left to do, and waits for it. One
// that has not ended when ctx does is killed.
func (g *guardian) close(ctx context.Context) error {
	_, _ = fmt.Fprintln(g.in, guardianDone) // if it has ended, that is its error
	_ = g.in.Close()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
	}
	_ = g.process.Kill() // if it has ended meanwhile, there is nothing to kill
	<-g.done
	return errors.Join(fmt.Errorf("it did not end by itself: %w", ctx.Err()), g.err)
}

// Guard is what the command in [Options.Guardian] does: it reads in, its standard
// input, until the process that started it ends. If that did not close its
// Firewall, Guard removes its rules, and whatever other dead owners left.
//
// The options are for [Sweep]; Guardian is ignored. When ctx ends before in does,
// Guard returns, and the goroutine that reads stays until in ends.
func Guard(ctx context.Context, in io.Reader, o Options) error {
	type input struct {
		owner string
		done  bool
		err   error
	}
	read := make(chan input, 1)
	go func() {
		lines := bufio.NewScanner(io.LimitReader(in, 4096))
		var i input
		if lines.Scan() {
			i.owner = lines.Text()
		}
		for lines.Scan() {
			i.done = i.done || strings.TrimSpace(lines.Text()) == guardianDone
		}
		i.err = lines.Err() // a pipe whose writer was killed may end with an error
		read <- i
	}()
	var i input
	select {
	case i = <-read:
	case <-ctx.Done():
		return wrap("guard", nil, ctx.Err())
	}
	if i.owner == "" {
		return &Error{Op: "guard", Kind: ErrInvalid, Detail: "the standard input is not that of a guardian", Cause: i.err}
	}
	if i.done {
		if o.Driver != nil {
			return wrap("guard", nil, closeAfter(ctx, o.Driver))
		}
		return nil
	}
	o.Guardian = nil
	d, log, err := o.driver(ctx, "guard")
	if err != nil {
		return err
	}
	err = sweepAfter(ctx, d, log, i.owner)
	return wrap("guard", nil, errors.Join(err, closeAfter(ctx, d)))
}

// sweepAfter sweeps once the owner is dead: what it wrote to ends a little earlier.
func sweepAfter(ctx context.Context, d Driver, log *slog.Logger, owner string) error {
	for {
		left, err := d.Sweep(ctx)
		for _, l := range left {
			log.Info("removed what a dead process left in the firewall", "what", l.What, "owner", l.Owner.String())
		}
		if err != nil {
			return err
		}
		s, err := d.State(ctx)
		if err != nil || !slices.ContainsFunc(s.Owners, func(o Owner) bool { return o.String() == owner }) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
