package local

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	killGrace = 2 * time.Second // for a program that was asked to end
	killWait  = time.Second     // how long its caller waits for that
	// quietTime is how long the output of a program that has ended may be silent
	// before it is closed: something that the program left behind holds it.
	quietTime = 5 * time.Second
	// readTime is how long a read from the caller's standard input is waited for, so
	// that one that does not block is over when Run returns.
	readTime = 100 * time.Millisecond
	// busyTime is how long something may be in use by others. A program may be open
	// for writing although nobody has opened it: a process that is being started
	// holds what its parent had open, for a moment (go.dev/issue/22315).
	busyTime = 5 * time.Second
)

// Run implements transport.Runner. The program is looked up in PATH and runs in
// the working directory and with the environment of this process, in a session of
// its own without a terminal. That it is missing is fs.ErrNotExist.
//
// Run returns when the program has ended and whatever it started has closed the
// output, or has written nothing for 5 seconds; what it leaves behind should
// redirect its own. A read from cmd.Stdin that blocks cannot be interrupted: neither
// Run nor Close waits for its end, but no other begins after it.
//
// When ctx ends, the program and all that it started in its process group are
// asked to end (SIGTERM), and killed 2 seconds later if that was not enough.
func (c *conn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	program := ""
	if len(cmd.Argv) > 0 {
		program = cmd.Argv[0]
	}
	k, err := c.begin(ctx, "run", program)
	if err != nil {
		return transport.Exit{}, err
	}
	defer k.end()
	if hint := badCommand(cmd); hint != "" {
		return transport.Exit{}, k.invalid(hint)
	}
	exit, err := k.run(cmd)
	return exit, k.fail(err)
}

// badCommand says what is wrong with a command, or returns "".
func badCommand(cmd transport.Command) string {
	if len(cmd.Argv) == 0 || cmd.Argv[0] == "" {
		return "Argv names no program"
	}
	for _, a := range cmd.Argv {
		if strings.Contains(a, "\x00") {
			return "an argument contains a NUL byte"
		}
	}
	for _, e := range cmd.Env {
		if strings.Index(e, "=") < 1 || strings.Contains(e, "\x00") {
			return `Env entries are "NAME=value", without NUL bytes`
		}
	}
	return ""
}

// process is a program that runs.
type process struct {
	k     *call
	cmd   *exec.Cmd
	group *group
	files []*os.File // the program's ends of the pipes
	out   []*output
	in    *input // its standard input, or nil

	done chan struct{} // closed when the program and its output have ended
}

func (k *call) run(cmd transport.Command) (transport.Exit, error) {
	p, err := k.start(cmd)
	if err != nil {
		return transport.Exit{}, err
	}
	select {
	case <-p.done:
	case <-k.ctx.Done():
		k.c.work.Go(p.terminate)
		wait := time.NewTimer(killWait)
		defer wait.Stop()
		select {
		case <-p.done:
		case <-wait.C: // the rest happens behind the caller's back, before Close returns
			p.in.leave()
		}
		return transport.Exit{}, k.ctx.Err()
	}
	if err := k.ctx.Err(); err != nil {
		return transport.Exit{}, err
	}
	return exitOf(p.cmd.ProcessState), nil
}

// start starts the program and all that goes on around it.
func (k *call) start(cmd transport.Command) (*process, error) {
	pause := time.Millisecond
	for deadline := time.Now().Add(busyTime); ; pause *= 2 {
		p := &process{k: k, done: make(chan struct{})}
		err := p.start(cmd)
		if err == nil {
			p.join()
			return p, nil
		}
		if classOf(err) != transport.ErrBusy || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-k.ctx.Done():
			return nil, k.ctx.Err()
		}
	}
}

func (p *process) start(cmd transport.Command) (err error) {
	p.cmd = exec.Command(cmd.Argv[0], cmd.Argv[1:]...)
	p.cmd.Env = append(os.Environ(), cmd.Env...)
	p.group = newGroup(p.cmd)
	defer func() {
		for _, f := range p.files {
			_ = f.Close()
		}
		if err != nil {
			p.close()
		}
	}()
	if cmd.Stdin != nil {
		theirs, ours, err := p.pipe(false)
		if err != nil {
			return err
		}
		p.cmd.Stdin = theirs
		p.in = &input{p: p, r: cmd.Stdin, w: ours, ended: make(chan struct{})}
	}
	for _, s := range []struct {
		w   io.Writer
		end *io.Writer
	}{{cmd.Stdout, &p.cmd.Stdout}, {cmd.Stderr, &p.cmd.Stderr}} {
		if s.w == nil {
			continue
		}
		theirs, ours, err := p.pipe(true)
		if err != nil {
			return err
		}
		*s.end = theirs
		p.out = append(p.out, &output{p: p, r: ours, w: s.w})
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.group.started()
	return nil
}

// pipe makes a pipe to or from the program.
func (p *process) pipe(out bool) (theirs, ours *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	theirs, ours = r, w
	if out {
		theirs, ours = w, r
	}
	p.files = append(p.files, theirs)
	return theirs, ours, nil
}

// close closes our ends of the pipes.
func (p *process) close() {
	if p.in != nil {
		_ = p.in.w.Close()
	}
	p.deafen()
}

// deafen ends the output.
func (p *process) deafen() {
	for _, o := range p.out {
		_ = o.r.Close()
	}
}

// join starts what goes on while the program runs.
func (p *process) join() {
	if p.in != nil {
		go p.in.copy() // joined below, unless a read blocks
	}
	var outputs sync.WaitGroup
	for _, o := range p.out {
		outputs.Go(o.copy)
	}
	p.k.c.work.Go(func() {
		_ = p.cmd.Wait() // the state says it all
		copied := make(chan struct{})
		go func() {
			outputs.Wait()
			close(copied)
		}()
		p.hush(copied)
		p.close()
		p.in.leave()
		p.group.close()
		close(p.done)
	})
}

// hush waits for the end of the output of a program that has ended, and brings it
// about for a stream that is silent for too long.
func (p *process) hush(copied <-chan struct{}) {
	tick := time.NewTicker(p.k.c.quiet / 2)
	defer tick.Stop()
	for {
		select {
		case <-copied:
			return
		case <-tick.C:
		}
		for _, o := range p.out {
			if o.quiet() {
				_ = o.r.Close()
			}
		}
	}
}

// input is what the program reads.
type input struct {
	p *process
	r io.Reader // the caller's
	w *os.File

	over  atomic.Bool // no read may begin
	ended chan struct{}
}

// copy passes the caller's input on. A program that does not want it is no error.
func (in *input) copy() {
	defer close(in.ended)
	buf := make([]byte, 32<<10)
	for !in.over.Load() {
		n, err := in.r.Read(buf)
		if _, werr := in.w.Write(buf[:n]); werr != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			_ = in.w.Close()
			return
		}
		if err != nil {
			// Not closed: to the program that would look like all of it.
			in.p.k.cancel(&streamError{err})
			return
		}
	}
}

// leave makes an end of reading, and waits for it unless a read blocks.
func (in *input) leave() {
	if in == nil {
		return
	}
	in.over.Store(true)
	wait := time.NewTimer(readTime)
	defer wait.Stop()
	select {
	case <-in.ended:
	case <-wait.C:
	}
}

// output is a stream that the program writes.
type output struct {
	p *process
	r *os.File
	w io.Writer

	writing atomic.Bool  // the caller's writer has the last piece
	reads   atomic.Int64 // pieces that came
	// Of hush: what it saw the last time.
	seen  int64
	still bool
}

// quiet reports whether nothing came since the last time but one. While the
// caller's writer takes its time, or what came has not been read, it is not the
// program that is silent.
func (o *output) quiet() bool {
	n := o.reads.Load()
	still := n == o.seen && !o.writing.Load() && !readable(o.r)
	quiet := still && o.still
	o.seen, o.still = n, still
	return quiet
}

// copy passes the stream on, and what nobody wants any more to nowhere.
func (o *output) copy() {
	buf := make([]byte, 32<<10)
	for {
		n, err := o.r.Read(buf)
		o.reads.Add(1)
		if n > 0 && o.p.k.ctx.Err() == nil {
			o.writing.Store(true)
			m, werr := o.w.Write(buf[:n])
			o.writing.Store(false)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				o.p.k.cancel(&streamError{werr})
			}
		}
		if err != nil {
			return
		}
	}
}

// terminate ends the program and what it started, gently at first. What left its
// group may go on, but nobody listens to it.
func (p *process) terminate() {
	p.group.end(false)
	for deadline := time.Now().Add(killGrace); p.group.alive() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	p.group.end(true)
	p.deafen()
	<-p.done
}
