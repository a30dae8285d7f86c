//go:build linux || darwin

package ssh_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
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
	var number []byte
	require.Eventually(t, func() bool {
		number, _ = os.ReadFile(pid)
		return bytes.HasSuffix(number, []byte("\n"))
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"kill", "-0", string(bytes.TrimSpace(number))}})
		return err == nil && exit.Code != 0
	}, time.Minute, 50*time.Millisecond, "the program lives on")
}
