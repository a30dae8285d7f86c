package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inMemory runs f against a server that is reached without sockets, on the clock
// of a bubble. The server is for SFTP alone: commands would be processes, which
// the clock does not wait for.
func inMemory(t *testing.T, opts ssh.Options, f func(t *testing.T, srv *sshtest.Server, tr *ssh.Transport, ep transport.Endpoint)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		srv, err := sshtest.NewServer(sshtest.Config{Password: "correct horse", SFTPOnly: true, NoListen: true, Home: dir})
		require.NoError(t, err)
		ep := endpointOf(srv)
		ep.Options = opts
		f(t, srv, &ssh.Transport{DialContext: srv.DialContext}, ep)
		require.NoError(t, srv.Close())
	})
}

func TestKeepAliveFindsDeadLine(t *testing.T) {
	inMemory(t, ssh.Options{KeepAlive: 10 * time.Second}, func(t *testing.T, srv *sshtest.Server, tr *ssh.Transport, ep transport.Endpoint) {
		conn, err := tr.Dial(t.Context(), ep)
		require.NoError(t, err)
		// A target that answers may be silent otherwise for ever.
		time.Sleep(time.Hour + 3*time.Second)
		_, err = conn.Identify(t.Context())
		require.NoError(t, err)

		srv.Stall(true)
		start := time.Now()
		_, err = conn.Identify(t.Context())
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.LessOrEqual(t, time.Since(start), 30*time.Second)
		_, err = transport.List(t.Context(), conn, "/")
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.NoError(t, conn.Close(t.Context()))
		srv.Stall(false)
	})
}

func TestNoKeepAlive(t *testing.T) {
	inMemory(t, ssh.Options{KeepAlive: -1}, func(t *testing.T, srv *sshtest.Server, tr *ssh.Transport, ep transport.Endpoint) {
		conn, err := tr.Dial(t.Context(), ep)
		require.NoError(t, err)
		srv.Stall(true)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err = conn.Identify(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		srv.Stall(false)
		_, err = conn.Identify(t.Context())
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
}

func TestConnectTimeout(t *testing.T) {
	inMemory(t, ssh.Options{ConnectTimeout: 5 * time.Second}, func(t *testing.T, srv *sshtest.Server, tr *ssh.Transport, ep transport.Endpoint) {
		srv.Stall(true)
		start := time.Now()
		_, err := tr.Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrTimeout)
		require.Equal(t, 5*time.Second, time.Since(start))
		srv.Stall(false)

		// Somebody who thinks about a fingerprint is not a slow target.
		ep.Trust = transport.Trust{FirstUse: func(context.Context, transport.SeenIdentity) error {
			time.Sleep(10 * time.Minute)
			return nil
		}}
		conn, err := tr.Dial(t.Context(), ep)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
}

// TestStall: a transfer of which no byte moves ends, and can be continued; one
// that is slow for reasons of the caller's does not. It runs on real time, because
// package sftp waits for room on the line with a mutex in hand: with a limit that
// no busy machine reaches, and all who wait for it at once.
func TestStall(t *testing.T) {
	t.Parallel()
	const limit = 8 * time.Second
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
	file := transport.BytesFile("file", content)
	var rows sync.WaitGroup
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		connect := func() (*sshtest.Server, transport.Conn, string) {
			srv := server(t, cfg)
			ep := endpointOf(srv)
			ep.Options = ssh.Options{StallTimeout: limit, KeepAlive: -1}
			return srv, dial(t, ep), srv.Home() + "/file"
		}
		srv, conn, path := connect()
		rows.Go(func() {
			start := time.Now()
			_, err := transport.Put(t.Context(), conn, path, file, transport.PutOptions{Progress: func(done int64) {
				if done > 5<<20 {
					srv.Stall(true)
				}
			}})
			assert.ErrorIs(t, err, transport.ErrTimeout, name)
			assert.Greater(t, time.Since(start), limit, name)
			assert.True(t, transport.Temporary(err), name)
			srv.Stall(false)
			res, err := transport.Put(t.Context(), conn, path, file, transport.PutOptions{})
			assert.NoError(t, err, name)
			assert.Positive(t, res.Kept, name)
		})

		_, slow, path2 := connect()
		_, err := transport.Put(t.Context(), slow, path2, file, transport.PutOptions{})
		require.NoError(t, err)
		rows.Go(func() {
			n, err := transport.Get(t.Context(), slow, path2, writer(func(p []byte) (int, error) {
				time.Sleep(limit + limit/2)
				return len(p), nil
			}), transport.GetOptions{Limit: 10_000})
			assert.NoError(t, err, name)
			assert.EqualValues(t, 10_000, n, name)
		})

		srv3, stalled, path3 := connect()
		_, err = transport.Put(t.Context(), stalled, path3, file, transport.PutOptions{})
		require.NoError(t, err)
		rows.Go(func() {
			n, err := transport.Get(t.Context(), stalled, path3, writer(func(p []byte) (int, error) {
				srv3.Stall(true)
				return len(p), nil
			}), transport.GetOptions{})
			assert.ErrorIs(t, err, transport.ErrTimeout, name)
			assert.Less(t, n, int64(len(content)), name)
			srv3.Stall(false)
		})
	}
	rows.Wait()
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestCloseEndsPrograms: what runs when the connection is closed is ended.
func TestCloseEndsPrograms(t *testing.T) {
	srv := server(t, sshtest.Config{})
	conn := dial(t, endpointOf(srv))
	r, w := io.Pipe()
	answer := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "echo $$; trap '' TERM; while :; do sleep 1; done"}, Stdout: w})
		w.Close()
		answer <- err
	}()
	buf := make([]byte, 32)
	n, err := r.Read(buf)
	require.NoError(t, err)
	pid := string(bytes.TrimSpace(buf[:n]))
	go func() { _, _ = io.Copy(io.Discard, r) }()
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, conn.Close(dead))
	require.ErrorIs(t, <-answer, transport.ErrClosed)

	other := dial(t, endpointOf(srv))
	require.Eventually(t, func() bool {
		exit, err := transport.Run(t.Context(), other, transport.Command{Argv: []string{"kill", "-0", pid}})
		return err == nil && exit.Code != 0
	}, 20*time.Second, 50*time.Millisecond, "a program that ignores SIGTERM outlived its connection")
}

// cutter is a source whose line breaks in the middle, when something has come to the
// partial file.
type cutter struct {
	io.ReadSeekCloser
	t    *testing.T
	srv  *sshtest.Server
	read int
	cut  bool
}

func (c *cutter) Read(p []byte) (int, error) {
	if c.read >= 512<<10 && !c.cut {
		// Once: what is read before the loss is noticed would cut the next line.
		c.cut = true
		assert.Eventually(c.t, func() bool {
			parts, err := filepath.Glob(c.srv.Home() + "/.x.*.part")
			if err != nil || len(parts) != 1 {
				return false
			}
			fi, err := os.Stat(parts[0])
			return err == nil && fi.Size() > 0
		}, time.Minute, time.Millisecond)
		c.srv.CutAfter(1)
	}
	n, err := c.ReadSeekCloser.Read(p)
	c.read += n
	return n, err
}

// TestLossIsFinal: a lost connection stays lost, and its cause is told.
func TestLossIsFinal(t *testing.T) {
	srv := server(t, sshtest.Config{})
	conn := dial(t, endpointOf(srv))
	file := transport.BytesFile("x", make([]byte, 1<<20))
	open := file.Open
	file.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		src, err := open(ctx)
		return &cutter{ReadSeekCloser: src, t: t, srv: srv}, err
	}
	_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", file, transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.False(t, errors.Is(err, transport.ErrClosed))
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	res, err := transport.Put(t.Context(), dial(t, endpointOf(srv)), srv.Home()+"/x", transport.BytesFile("x", make([]byte, 1<<20)), transport.PutOptions{})
	require.NoError(t, err)
	require.Positive(t, res.Kept)
	require.EqualValues(t, 1<<20, res.Kept+res.Sent)
}
