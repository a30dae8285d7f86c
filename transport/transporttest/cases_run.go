package transporttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

func runCases() []Case {
	run := func(name string, f func(ctx context.Context, e *env, conn transport.Conn) error) Case {
		return Case{Name: "run/" + name, Needs: transport.CapRun, run: func(ctx context.Context, e *env) error {
			return e.with(ctx, func(conn transport.Conn) error { return f(ctx, e, conn) })
		}}
	}
	return []Case{
		run("exit-code", runExitCode),
		run("arguments", runArguments),
		run("streams", runStreams),
		run("environment", runEnvironment),
		run("large-output", runLargeOutput),
		run("stdin-unread", runStdinUnread),
		run("invalid", runInvalid),
		run("not-found", runNotFound),
		run("concurrent", runConcurrent),
		run("cancel-kills", runCancelKills),
		run("cut", runCut),
		run("dial-command", runDialCommand),
	}
}

// exec runs a program with the given input and returns its output.
func (e *env) exec(ctx context.Context, conn transport.Conn, argv []string, stdin string) (stdout, stderr string, exit transport.Exit, err error) {
	var out, errs bytes.Buffer
	cmd := transport.Command{Argv: argv, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	err = e.within("run", func() (err error) {
		exit, err = transport.Run(ctx, conn, cmd)
		return err
	})
	if errors.Is(err, errHung) {
		return "", "", exit, err // the buffers are still being written
	}
	return out.String(), errs.String(), exit, err
}

func runExitCode(ctx context.Context, e *env, conn transport.Conn) error {
	var f failures
	for _, code := range []int{0, 1, 2, 126, 127, 255} {
		_, _, exit, err := e.exec(ctx, conn, e.Programs.Exit(code), "")
		if err != nil || exit.Code != code || exit.Signal != "" {
			f.addf("a program with exit status %d: %+v, %v; a status is no error", code, exit, err)
		}
	}
	return f.err()
}

// awkward are arguments that quoting gets wrong.
func awkward() []string {
	args := append(Names(), "", " ", "\n", "'", "''", `"`, `\`, `\\`, `\'`, "a'b\"c`d$e", "$(id)", "!!", "{a,b}", "-n", "-e", "\x7f", "\xff\xfe", "日本語", "é", "e\u0301")
	var every []byte
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
		args = append(args, string([]byte{byte(b)}))
	}
	return append(args, string(every), strings.Repeat("x", 20_000))
}

func runArguments(ctx context.Context, e *env, conn transport.Conn) error {
	var f failures
	args := awkward()
	out, errs, exit, err := e.exec(ctx, conn, e.Programs.Args(args...), "")
	if err != nil || exit.Code != 0 {
		f.addf("printing arguments: %+v, %v, stderr %q", exit, err, errs)
		return f.err()
	}
	got := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	if len(got) != len(args) {
		f.addf("%d arguments arrived, %d were given", len(got), len(args))
		return f.err()
	}
	for i := range args {
		if got[i] != args[i] {
			f.addf("argument %d arrived as %.40q, want %.40q", i, got[i], args[i])
		}
	}
	return f.err()
}

func runStreams(ctx context.Context, e *env, conn transport.Conn) error {
	var f failures
	input := string(pattern(1 << 20))
	out, errs, exit, err := e.exec(ctx, conn, e.Programs.Cat(), input)
	if err != nil || exit.Code != 0 || out != input || errs != "" {
		f.addf("standard input to output: %d of %d bytes, stderr %q, %+v, %v", len(out), len(input), errs, exit, err)
	}
	out, errs, exit, err = e.exec(ctx, conn, e.Programs.Errs(), "on stderr")
	if err != nil || exit.Code != 0 || out != "" || errs != "on stderr" {
		f.addf("standard error: stdout %q, stderr %q, %+v, %v", out, errs, exit, err)
	}
	// Streams that are nil: no input, and output to nowhere.
	err = e.within("run", func() error {
		exit, err := transport.Run(ctx, conn, transport.Command{Argv: e.Programs.Cat()})
		if err == nil && exit.Code != 0 {
			err = fmt.Errorf("%+v", exit)
		}
		return err
	})
	if err != nil {
		f.addf("a command without streams: %w", err)
	}
	err = e.within("run", func() error {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: e.Programs.Cat(), Stdin: strings.NewReader(input)})
		return err
	})
	if err != nil {
		f.addf("a command whose output nobody wants: %w", err)
	}
	return f.err()
}

func runEnvironment(ctx context.Context, e *env, conn transport.Conn) error {
	const value = "a 'value' with \"quotes\", $DOLLAR and = signs"
	var out bytes.Buffer
	cmd := transport.Command{Argv: e.Programs.Env("ROUNDSMAN_TEST"), Env: []string{"ROUNDSMAN_TEST=" + value}, Stdout: &out}
	exit, err := transport.Run(ctx, conn, cmd)
	if err != nil || exit.Code != 0 || out.String() != value {
		return fmt.Errorf("environment: got %q, want %q, %+v, %v", out.String(), value, exit, err)
	}
	return nil
}

func runLargeOutput(ctx context.Context, e *env, conn transport.Conn) error {
	const size = 8 << 20
	var n int64
	cmd := transport.Command{Argv: e.Programs.Zeros(size), Stdout: writerFunc(func(p []byte) (int, error) {
		n += int64(len(p))
		return len(p), nil
	})}
	exit, err := transport.Run(ctx, conn, cmd)
	if err != nil || exit.Code != 0 || n != size {
		return fmt.Errorf("%d of %d bytes of output arrived, %+v, %v", n, size, exit, err)
	}
	return nil
}

// runStdinUnread: a program that ends is over, whatever its input does.
func runStdinUnread(ctx context.Context, e *env, conn transport.Conn) error {
	r, w := io.Pipe()
	defer w.Close()
	var exit transport.Exit
	err := e.within("run of a program that does not read its input", func() (err error) {
		exit, err = transport.Run(ctx, conn, transport.Command{Argv: e.Programs.Exit(3), Stdin: r})
		return err
	})
	if err == nil && exit.Code != 3 {
		err = fmt.Errorf("a program that does not read its input: %+v, want exit status 3", exit)
	}
	return err
}

func runInvalid(ctx context.Context, e *env, conn transport.Conn) error {
	var f failures
	for what, cmd := range map[string]transport.Command{
		"no argv":                    {},
		"an empty program":           {Argv: []string{""}},
		"a NUL byte in an argument":  {Argv: append(e.Programs.Cat(), "a\x00b")},
		"an environment without '='": {Argv: e.Programs.Cat(), Env: []string{"NAME"}},
	} {
		before := e.requests()
		err := e.within("run", func() error {
			_, err := transport.Run(ctx, conn, cmd)
			return err
		})
		f.add(e.wantErr("run with "+what, err, transport.ErrInvalid))
		if n := e.requests() - before; n != 0 {
			f.addf("run with %s sent %d requests", what, n)
		}
	}
	return f.err()
}

func runNotFound(ctx context.Context, e *env, conn transport.Conn) error {
	_, _, exit, err := e.exec(ctx, conn, []string{"/nonexistent/program"}, "")
	if err == nil && exit.Code != 127 {
		return fmt.Errorf("a program that does not exist ended with exit status %d: want 127, as a POSIX shell has it, or an error that matches fs.ErrNotExist", exit.Code)
	}
	if err != nil {
		return e.wantErr("run of a program that does not exist", err, fs.ErrNotExist)
	}
	return nil
}

func runConcurrent(ctx context.Context, e *env, conn transport.Conn) error {
	var mu sync.Mutex
	var f failures
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 100_000)
			out, _, exit, err := e.exec(ctx, conn, e.Programs.Cat(), want)
			if err != nil || exit.Code != 0 || out != want {
				mu.Lock()
				defer mu.Unlock()
				f.addf("program %d of 6 at the same time: %d bytes, %+v, %v", i, len(out), exit, err)
			}
		})
	}
	wg.Wait()
	return f.err()
}

// sleeping starts a program that runs for minutes, calls interrupt once it
// runs, and returns its identifier and the error of Run.
func (e *env) sleeping(ctx context.Context, conn transport.Conn, interrupt func()) (id string, err error) {
	r, w := io.Pipe()
	ids := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(r).ReadString('\n')
		ids <- strings.TrimSpace(line)
		interrupt()
		_, _ = io.Copy(io.Discard, r)
	}()
	err = e.within("run", func() error {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: e.Programs.Sleep(), Stdout: w})
		return err
	})
	w.Close()
	return <-ids, err
}

func runCancelKills(ctx context.Context, e *env, conn transport.Conn) error {
	var f failures
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	var aliveBefore transport.Exit
	id, err := e.sleeping(cancelled, conn, cancel)
	f.add(e.wantErr("run whose context ended", err, context.Canceled))
	if id == "" {
		f.addf("the program did not say its identifier")
		return f.err()
	}
	err = e.poll(ctx, func() error {
		_, _, exit, err := e.exec(ctx, conn, e.Programs.Alive(id), "")
		if err != nil {
			return err
		}
		if exit.Code == 0 {
			return errors.New("the program is still running")
		}
		return nil
	})
	if err != nil {
		f.addf("after the context ended: %w", err)
	}

	// The check itself must be able to say yes.
	cancelled, cancel = context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(cancelled, conn, transport.Command{Argv: e.Programs.Sleep(), Stdout: w})
		w.Close()
		done <- err
	}()
	line, _ := bufio.NewReader(r).ReadString('\n')
	go func() { _, _ = io.Copy(io.Discard, r) }()
	_, _, aliveBefore, err = e.exec(ctx, conn, e.Programs.Alive(strings.TrimSpace(line)), "")
	if err != nil || aliveBefore.Code != 0 {
		f.addf("while it runs, Alive says %+v, %v", aliveBefore, err)
	}
	cancel()
	err = e.within("run", func() error { return <-done })
	f.add(e.wantErr("run whose context ended", err, context.Canceled))
	return f.err()
}

func runCut(ctx context.Context, e *env, conn transport.Conn) error {
	if e.Cut == nil {
		return e.missing("Cut")
	}
	_, err := e.sleeping(ctx, conn, e.Cut)
	return e.wantErr("run during which the line was cut", err, transport.ErrConnLost)
}

func runDialCommand(ctx context.Context, e *env, conn transport.Conn) error {
	dialCtx, cancel := context.WithCancel(ctx)
	c, err := transport.DialCommand(dialCtx, conn, transport.Command{Argv: e.Programs.Cat()})
	if err != nil {
		cancel()
		return err
	}
	cancel() // bounds the start only
	err = e.within("exchange through a program", func() error { return echo(c, 100_000) })
	return errors.Join(err, e.within("close", c.Close))
}

// echo writes n bytes to an echoing peer and reads them back.
func echo(c io.ReadWriter, n int) error {
	want := pattern(n)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("reading the echo: %w", err)
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("writing to the echo: %w", err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("the echo differs from what was written")
	}
	return nil
}
