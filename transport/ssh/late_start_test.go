//go:build linux || darwin

package ssh_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestCancelledBeforeItStarts: a program whose login shell is still at its start files when
// the call is cancelled, and which no gentle signal ends, does not stay.
func TestCancelledBeforeItStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slow, past, pid := filepath.Join(dir, "slow"), filepath.Join(dir, "past"), filepath.Join(dir, "pid")
	shell := writeFile(t, filepath.Join(dir, "shell"), `#!/bin/sh
if [ -e '`+slow+`' ]; then
	rm '`+slow+`'
	trap '' TERM
	: >'`+past+`'
	sleep 2
fi
exec /bin/sh "$@"
`, 0o700)
	srv := server(t, sshtest.Config{Shell: shell})
	conn := dial(t, endpointOf(srv))
	writeFile(t, slow, "", 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"sh", "-c", "echo $$ >'" + pid + "'; sleep 600"}})
		ended <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(past); return err == nil }, time.Minute, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	gone(t, conn, pid)
}

// deafLine keeps what comes from the server to itself while it holds.
type deafLine struct {
	net.Conn
	hold atomic.Pointer[chan struct{}]
}

func (d *deafLine) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if hold := d.hold.Load(); hold != nil {
		<-*hold
	}
	return n, err
}

// TestCancelledBeforeTheAnswer: a program that the server has started when the call is
// cancelled, and of which the client does not know yet, does not stay.
func TestCancelledBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	srv := server(t, sshtest.Config{})
	var line *deafLine
	conn, err := (&ssh.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		line = &deafLine{Conn: c}
		return line, err
	}}).Dial(t.Context(), endpointOf(srv))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	require.Equal(t, "", output(t, conn, "true")) // the session is open before the line is deaf
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"sh", "-c", "trap '' TERM; echo $$ >'" + pid + "'; sleep 600"},
			Stdout: writer(func(p []byte) (int, error) { return len(p), nil })})
		ended <- err
	}()
	hold := func() (release func()) {
		held := make(chan struct{})
		line.hold.Store(&held)
		return func() {
			line.hold.Store(nil)
			close(held)
		}
	}
	release := hold()
	started := func() bool { _, err := os.Stat(pid); return err == nil }
	for n := len(srv.Commands()); !started(); { // the channel opens before the line is deaf, or not at all
		if len(srv.Commands()) == n {
			release()
			release = hold()
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	release()
	gone(t, dial(t, endpointOf(srv)), pid)
}

// gone waits until the process whose number is in a file has ended.
func gone(t *testing.T, conn transport.Conn, file string) {
	t.Helper()
	var number []byte
	require.Eventually(t, func() bool {
		number, _ = os.ReadFile(file)
		return bytes.HasSuffix(number, []byte("\n"))
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"kill", "-0", string(bytes.TrimSpace(number))}})
		return err == nil && exit.Code != 0
	}, time.Minute, 50*time.Millisecond, "the program lives on")
}
