//go:build unix

package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func sh(script string) []string { return []string{"sh", "-c", script} }

// output runs a program and returns what it printed.
func output(t *testing.T, conn transport.Conn, argv ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: argv, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{}, exit, errs.String())
	return out.String()
}

// lineWriter hands on each line that is written to it.
func lineWriter(t *testing.T) (io.Writer, <-chan string) {
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	lines := make(chan string, 16)
	go func() {
		buf := make([]byte, 4096)
		var rest string
		for {
			n, err := r.Read(buf)
			rest += string(buf[:n])
			for {
				line, after, ok := strings.Cut(rest, "\n")
				if !ok {
					break
				}
				rest = after
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return w, lines
}

func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && syscall.Kill(n, 0) == nil && !strings.Contains(stat(pid), ") Z ")
}

func stat(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/stat")
	return string(b)
}

func TestExitSignal(t *testing.T) {
	conn := dial(t)
	for name, script := range map[string]string{"KILL": "kill -9 $$", "TERM": "kill $$", "SEGV": "ulimit -c 0; kill -SEGV $$"} {
		exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: sh(script)})
		require.NoError(t, err)
		require.Equal(t, transport.Exit{Code: -1, Signal: name}, exit)
	}
}

func TestRunMissingProgram(t *testing.T) {
	conn := dial(t)
	for _, program := range []string{"/nonexistent/program", "no-such-program-anywhere", t.TempDir() + "/x"} {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{program}})
		require.ErrorIs(t, err, fs.ErrNotExist, program)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/f", []byte("#!/bin/sh\n"), 0o600))
	_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{dir + "/f"}})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NoError(t, os.WriteFile(dir+"/text", []byte("no program"), 0o700))
	_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{dir + "/text"}})
	require.ErrorIs(t, err, transport.ErrRejected)
	require.Equal(t, transport.Code{Space: "errno", Value: "ENOEXEC"}, transport.CodeOf(err))
}

// TestRunHasItsOwnSession: what is typed at the terminal of the manager does not
// reach the program.
func TestRunHasItsOwnSession(t *testing.T) {
	fields := strings.Fields(output(t, dial(t), sh("echo $$; exec ps -o sid=,pgid= -p $$")...))
	require.Len(t, fields, 3)
	require.Equal(t, []string{fields[0], fields[0]}, fields[1:])
}

// TestCancelEndsTheGroup: also children that do not listen to the first signal.
func TestCancelEndsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := dial(t)
	w, lines := lineWriter(t)
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: sh(
			`sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' & trap 'exit 7' TERM; wait`), Stdout: w})
		done <- err
	}()
	child := <-lines
	require.True(t, alive(child))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	await(t, "the end of the child", func() bool { return !alive(child) })
}

// TestCloseEndsPrograms: when Close returns nothing runs any more.
func TestCloseEndsPrograms(t *testing.T) {
	conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	w, lines := lineWriter(t)
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: sh(`trap "" TERM; echo $$; while :; do sleep 1; done`), Stdout: w})
		done <- err
	}()
	pid := <-lines
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, conn.Close(dead))
	require.False(t, alive(pid))
	require.ErrorIs(t, <-done, transport.ErrClosed)
}

// TestOutputHeldByAGrandchild: a program that has ended is over, though something
// that it left behind holds its output and says nothing. What it left behind goes
// on.
func TestOutputHeldByAGrandchild(t *testing.T) {
	conn := dialWith(t, local.Hurry(200*time.Millisecond))
	var out bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: sh("echo before; sleep 600 & echo $!; exit 3"), Stdout: &out, Stderr: &out})
	require.NoError(t, err)
	require.Equal(t, 3, exit.Code)
	before, pid, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	require.Equal(t, "before", before)
	require.True(t, alive(pid))
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(n, syscall.SIGKILL))
}

// TestOutputAfterTheEnd: what comes from what the program left behind arrives as
// long as it is not silent.
func TestOutputAfterTheEnd(t *testing.T) {
	conn := dialWith(t, local.Hurry(2*time.Second))
	require.Equal(t, "0\n1\n2\n3\n4\n5\n6\n7\n", output(t, conn, sh("(for i in 0 1 2 3 4 5 6 7; do echo $i; sleep 0.1; done) & exit")...))
}

// slowWriter takes its first piece when it is let.
type slowWriter struct {
	begun func()
	free  <-chan struct{}
	n     int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.begun()
	<-w.free
	w.n += len(p)
	return len(p), nil
}

// TestSlowReaderLosesNothing: while the caller takes its time, it is not the
// program that is silent.
func TestSlowReaderLosesNothing(t *testing.T) {
	const quiet = 50 * time.Millisecond
	conn := dialWith(t, local.Hurry(quiet))
	begun, free := make(chan struct{}), make(chan struct{})
	w := &slowWriter{begun: sync.OnceFunc(func() { close(begun) }), free: free}
	w2, lines := lineWriter(t)
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: sh("echo $$ >&2; exec head -c 60000 /dev/zero"), Stdout: w, Stderr: w2})
		done <- err
	}()
	pid := <-lines
	<-begun
	await(t, "the end of the program", func() bool { return !alive(pid) })
	// Longer than anybody may be silent.
	time.Sleep(10 * quiet)
	close(free)
	require.NoError(t, <-done)
	require.Equal(t, 60000, w.n)
}

// TestUnreadOutputIsNotSilent: what the program wrote may lie there for longer than
// it may be silent, if this process is kept from reading it.
func TestUnreadOutputIsNotSilent(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	quiet := local.Quiet(r)
	_, err = w.WriteString("x")
	require.NoError(t, err)
	for range 5 {
		require.False(t, quiet(), "it has not been read")
	}
	_, err = r.Read(make([]byte, 1))
	require.NoError(t, err)
	require.False(t, quiet(), "for the first time")
	require.True(t, quiet())
}

// TestBlockedStdin: a read of the caller's input cannot be interrupted. Nobody
// waits for it, and after it none begins.
func TestBlockedStdin(t *testing.T) {
	others := goleak.IgnoreCurrent()
	for name, script := range map[string]string{"ends": "exit 3", "cancelled": `trap "" TERM; echo; while :; do sleep 0.1; done`} {
		t.Run(name, func(t *testing.T) {
			conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reading, on := make(chan struct{}), make(chan struct{})
			var reads atomic.Int32
			_, err = transport.Run(ctx, conn, transport.Command{Argv: sh(script),
				Stdout: writerFunc(func(p []byte) (int, error) {
					<-reading
					cancel()
					return len(p), nil
				}),
				Stdin: readerFunc(func(p []byte) (int, error) {
					if reads.Add(1) == 1 {
						close(reading)
						<-on
					}
					return 1, nil
				})})
			if name == "ends" {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			if name == "cancelled" {
				close(on) // while the program still runs, and takes its input
			}
			require.NoError(t, conn.Close(t.Context()), "it does not wait for the reader")
			if name == "ends" {
				close(on)
			}
			goleak.VerifyNone(t, others)
			require.EqualValues(t, 1, reads.Load(), "another read began")
		})
	}
}

// TestCancelledBesideADaemon: what has left the group, and goes on writing to the
// output, is not waited for once the call is cancelled.
func TestCancelledBesideADaemon(t *testing.T) {
	setsid := realtest.Need(t, "setsid")
	others := goleak.IgnoreCurrent()
	conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(ctx, conn, transport.Command{
			Argv: sh(setsid + ` sh -c 'trap "" PIPE; echo $$; while :; do sleep 0.05; echo tick 2>/dev/null; done' & exec sleep 600`),
			Stdout: writerFunc(func(p []byte) (int, error) {
				select {
				case said <- string(p):
				default:
				}
				return len(p), nil
			})})
		done <- err
	}()
	pid := strings.TrimSpace(<-said)
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	defer func() { _ = syscall.Kill(-n, syscall.SIGKILL) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, conn.Close(t.Context()))
	require.True(t, alive(pid), "it has a session of its own")
	goleak.VerifyNone(t, others)
}

func TestRunStreamsFail(t *testing.T) {
	conn := dial(t)
	broken := errors.New("the caller's disk is full")
	r, _ := io.Pipe()
	_ = r.CloseWithError(broken)
	_, err := transport.Run(t.Context(), conn, transport.Command{Argv: sh("echo; exec sleep 600"), Stdout: writerFunc(func([]byte) (int, error) { return 0, broken })})
	require.ErrorIs(t, err, broken)
	_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sleep", "600"}, Stdin: readerFunc(func([]byte) (int, error) { return 0, broken })})
	require.ErrorIs(t, err, broken)
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

type readerFunc func(p []byte) (int, error)

func (r readerFunc) Read(p []byte) (int, error) { return r(p) }

// TestRunWaitsForABusyProgram: a program that was just put may be held open by a
// process that is being started at this moment.
func TestRunWaitsForABusyProgram(t *testing.T) {
	conn := dial(t)
	src, err := exec.LookPath("true")
	require.NoError(t, err)
	src, err = filepath.EvalSymlinks(src)
	require.NoError(t, err)
	data, err := os.ReadFile(src)
	require.NoError(t, err)
	name := t.TempDir() + "/program"
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o700)
	require.NoError(t, err)
	_, err = f.Write(data)
	require.NoError(t, err)
	if err := exec.Command(name).Run(); !errors.Is(err, syscall.ETXTBSY) {
		realtest.Missing(t, fmt.Sprintf("a system that does not run what is being written (%v)", err))
	}
	done := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{name}})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	require.NoError(t, f.Close())
	require.NoError(t, <-done)
}

func TestRunAddsToTheEnvironment(t *testing.T) {
	t.Setenv("LOCAL_TEST_OWN", "own")
	t.Setenv("LOCAL_TEST_BOTH", "own")
	var out bytes.Buffer
	_, err := transport.Run(t.Context(), dial(t), transport.Command{
		Argv: sh(`echo "$LOCAL_TEST_OWN $LOCAL_TEST_BOTH $LOCAL_TEST_NEW"`), Env: []string{"LOCAL_TEST_BOTH=new", "LOCAL_TEST_NEW=new"}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "own new new\n", out.String())
}
