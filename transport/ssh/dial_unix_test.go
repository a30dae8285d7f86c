//go:build unix

package ssh_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// TestSlowKeyIsNoSlowTarget: ConnectTimeout is the target's. The key comes from a pipe, to
// which nobody writes before that time is over.
func TestSlowKeyIsNoSlowTarget(t *testing.T) {
	t.Parallel()
	const limit = 4 * time.Second
	key, pem := newKey(t, "")
	srv := server(t, sshtest.Config{AuthorizedKeys: []xssh.PublicKey{key.PublicKey()}})
	pipe := filepath.Join(t.TempDir(), "id")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	written := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // waits for Dial to read
		if err == nil {
			time.Sleep(limit + limit/4) // the time is what this is about
			_, err = f.Write(pem)
			_ = f.Close()
		}
		written <- err
	}()
	var atDial error
	ep := endpointOf(srv)
	ep.Credentials.Password = transport.Secret{}
	ep.Options = ssh.Options{ConnectTimeout: limit, IdentityFiles: []ssh.IdentityFile{{Path: pipe}}}
	tr := &ssh.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		atDial = ctx.Err()
		return nil, net.ErrClosed // how long the rest takes is no matter here
	}}
	_, err := tr.Dial(t.Context(), ep)
	require.NoError(t, <-written)
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotErrorIs(t, err, transport.ErrTimeout)
	require.NoError(t, atDial)
}
