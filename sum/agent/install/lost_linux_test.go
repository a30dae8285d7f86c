package install_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestLostAtEveryCall breaks the connection at every call that a Start makes,
// before and after the call took effect. Neither a new Start nor a Sweep may
// leave anything.
func TestLostAtEveryCall(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run: slow")
	}
	l := newLab(t, sshtest.Config{})
	total := func() int { // of a Start that is not disturbed
		conn := l.dial()
		a := l.start(conn)
		conn.mu.Lock()
		n := len(conn.calls)
		conn.mu.Unlock()
		_, err := a.Remove(t.Context())
		require.NoError(t, err)
		l.requireClean()
		return n
	}()
	require.Greater(t, total, 8)
	for n := 1; n <= total; n++ {
		for _, after := range []bool{false, true} {
			require.NoError(t, os.RemoveAll(l.base))
			conn := l.dial()
			conn.cutAt, conn.cutAfter = n, after
			a, err := installer().Start(t.Context(), conn, l.opts())
			if err == nil { // the last calls may be beyond what matters
				require.NoError(t, a.Close(t.Context()))
			} else {
				require.ErrorIs(t, err, transport.ErrConnLost, "call %d: %s", n, last(conn))
			}
			if n%2 == 0 {
				a := l.start(l.dial())
				_, err = a.Jobs(t.Context())
				require.NoError(t, err)
				_, err = a.Remove(t.Context())
			} else {
				_, err = installer().Sweep(t.Context(), l.dial(), l.place())
			}
			require.NoError(t, err, "after call %d: %s", n, last(conn))
			l.requireClean()
		}
	}
}

func last(c *tap) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[len(c.calls)-1]
}

// TestLostWhileTheAgentStarts cuts the line in the middle of the command that
// starts the agent, which goes on without us, and sweeps at once.
func TestLostWhileTheAgentStarts(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, 1, 3, 6, 10, 15, 25, 40, 60, 90} {
		l := newLab(t, sshtest.Config{})
		conn := l.dial()
		cut := make(chan struct{})
		conn.hook = func(op string) error {
			if op == "run start" {
				time.AfterFunc(delay*time.Millisecond, func() {
					l.srv.CloseConnections()
					close(cut)
				})
			}
			return nil
		}
		a, err := installer().Start(t.Context(), conn, l.opts())
		if err == nil {
			require.NoError(t, a.Close(t.Context()))
		} else {
			require.True(t, transport.Temporary(err), "%v", err)
		}
		<-cut
		_, err = installer().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
		l.requireClean()
	}
}

// TestLineCutAtByte cuts the line at places inside of calls.
func TestLineCutAtByte(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run: slow")
	}
	l := newLab(t, sshtest.Config{})
	for _, n := range []int64{3000, 6000, 12_000, 25_000, 60_000, 200_000, 1_000_000, 4_000_000, 8_000_000, 8_600_000} {
		l.srv.CutAfter(n)
		conn, err := l.tryDial()
		if err == nil {
			var a agent.Agent
			if a, err = installer().Start(t.Context(), conn, l.opts()); err == nil {
				require.NoError(t, a.Close(t.Context()))
			}
		}
		l.srv.CutAfter(0)
		l.srv.CloseConnections()
		if err != nil {
			require.True(t, transport.Temporary(err), "after %d bytes: %v", n, err)
		}
	}
	a := l.start(l.dial())
	_, err := a.Jobs(t.Context())
	require.NoError(t, err)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()
}

// Of an agent that ends before its log says that it serves the error does not tell what an
// earlier one of the same directory wrote.
func TestAgentDiesEarly(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	first, err := installer().Start(t.Context(), l.dial(), l.opts())
	require.NoError(t, err)
	_, err = first.Stop(t.Context(), false) // which leaves everything
	require.NoError(t, err)
	name := filepath.Join(l.dir(), agent.LogName)
	log, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Contains(t, string(log), "agent serves")
	require.NoError(t, os.WriteFile(name, append(log, "panic: of yesterday\n"...), 0o600))
	opts := l.opts()
	opts.Opened = func(_ context.Context, p agent.Place) error {
		if p.Addr == "" {
			return nil // it has not begun
		}
		for _, pid := range l.processes() {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		return os.Truncate(name, int64(len(log)+len("panic: of yesterday\n"))) // as if it had not got further
	}
	_, err = installer().Start(t.Context(), l.dial(), opts)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "of yesterday")
	l.requireClean()
}

// TestAgentDies: of an agent that ends after it has said that it is ready the error tells
// what it wrote.
func TestAgentDies(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	opts := l.opts()
	opts.Opened = func(_ context.Context, p agent.Place) error {
		if p.Addr == "" {
			return nil // it has not begun
		}
		for _, pid := range l.processes() {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		log, err := os.OpenFile(filepath.Join(l.dir(), agent.LogName), os.O_WRONLY|os.O_APPEND, 0)
		require.NoError(t, err)
		defer log.Close()
		_, err = log.WriteString("panic: out of paper\n")
		return err
	}
	_, err := installer().Start(t.Context(), l.dial(), opts)
	require.ErrorContains(t, err, "the agent had begun, and wrote: panic: out of paper")
	require.NotContains(t, err.Error(), "agent serves", "that is no news")
	l.requireClean()
}
