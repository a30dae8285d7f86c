package ssh_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestServerKilled kills the server's processes in the middle of each operation:
// all end with ErrConnLost, nothing runs on, and what has arrived is continued.
func TestServerKilled(t *testing.T) {
	h, ways := diskWays(t)
	h.Run("sh", "-c", "install -d -m 777 /srv/k; head -c 300000000 /dev/zero >/srv/k/large")
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	kill := func() { h.Run("pkill", "-9", "-f", "^sshd: keeper") }
	once := func(f func()) func() { return sync.OnceFunc(f) }
	for way, dial := range ways {
		t.Run(way, func(t *testing.T) {
			operations := map[string]func(t *testing.T, conn transport.Conn) error{
				"put": func(t *testing.T, conn transport.Conn) error {
					kill := once(kill)
					_, err := transport.Put(t.Context(), conn, "/srv/k/f", transport.BytesFile("x", content), transport.PutOptions{
						Progress: func(done int64) {
							if done > 12<<20 {
								kill()
							}
						}})
					return err
				},
				"get": func(t *testing.T, conn transport.Conn) error {
					kill := once(kill)
					_, err := transport.Get(t.Context(), conn, "/srv/k/large", writer(func(p []byte) (int, error) {
						kill()
						return len(p), nil
					}), transport.GetOptions{})
					return err
				},
				"run": func(t *testing.T, conn transport.Conn) error {
					kill := once(kill)
					_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "echo begun; exec sleep 600"},
						Stdin: endlessZeros{}, Stdout: writer(func(p []byte) (int, error) {
							kill()
							return len(p), nil
						})})
					return err
				},
				"idle": func(t *testing.T, conn transport.Conn) error {
					kill()
					_, err := conn.Identify(t.Context())
					return err
				},
			}
			for name, operation := range operations {
				if name == "run" && strings.HasPrefix(way, "sftp") {
					continue
				}
				t.Run(name, func(t *testing.T) {
					before := goleak.IgnoreCurrent()
					t.Run("lost", func(t *testing.T) { // the connection ends with this
						conn := dial(t)
						err := operation(t, conn)
						require.ErrorIs(t, err, transport.ErrConnLost)
						require.True(t, transport.Temporary(err))
						_, err = conn.Identify(t.Context())
						require.ErrorIs(t, err, transport.ErrConnLost)
						_, err = transport.List(t.Context(), conn, "/srv/k")
						require.ErrorIs(t, err, transport.ErrConnLost)
					})
					goleak.VerifyNone(t, before)
					if name != "put" {
						return
					}
					conn := dial(t)
					res, err := putIt(t, conn, "/srv/k/f", content)
					require.NoError(t, err)
					require.Positive(t, res.Kept)
					require.EqualValues(t, len(content), res.Kept+res.Sent)
					require.NoError(t, transport.Remove(t.Context(), conn, "/srv/k/f"))
				})
			}
		})
	}
}

// TestServerHangsUp: a server that finds its client dead says nothing any more.
func TestServerHangsUp(t *testing.T) {
	h := newHost(t)
	h.server(2222, internalSFTP, "ClientAliveInterval 1", "ClientAliveCountMax 1")
	h.user("keeper", "/bin/bash", nil)
	var line *held
	tr := h.transport()
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err == nil {
			line = &held{Conn: c}
			c = line
		}
		return c, err
	}
	ep := h.endpoint("keeper", ssh.Options{KeepAlive: time.Hour})
	ep.Address += ":2222"
	conn := dialWith(t, tr, ep)
	r, w := io.Pipe()
	answer := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "echo begun; exec sleep 600"}, Stdout: w})
		_ = w.Close()
		answer <- err
	}()
	_, err := r.Read(make([]byte, 10))
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, r) }()
	line.mu.Lock() // nothing is read any more
	require.Eventually(t, func() bool {
		return !strings.Contains(strings.Join(h.Processes(), "\n"), "sshd: keeper")
	}, 30*time.Second, 100*time.Millisecond)
	line.mu.Unlock()
	require.ErrorIs(t, <-answer, transport.ErrConnLost)
	_, err = transport.Stat(t.Context(), conn, "/")
	require.ErrorIs(t, err, transport.ErrConnLost)
}

// held is a line from which nothing is read while its mutex is locked.
type held struct {
	net.Conn
	mu sync.Mutex
}

func (h *held) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	return n, err
}

// TestSessionTimeouts: a server that closes idle channels does not take the
// connection with them; a program that it ends that way is told from one that
// ended by itself.
func TestSessionTimeouts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.server(2222, externalSFTP, "ChannelTimeout session:*=8s") // what is short must not take so long
	h.user("keeper", "/bin/bash", nil)
	ep := h.endpoint("keeper", ssh.Options{})
	ep.Address += ":2222"
	conn := dialWith(t, h.transport(), ep)
	_, err := transport.Stat(t.Context(), conn, "/etc")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sleep", "600"}})
		ended <- err
	}()
	require.Eventually(t, func() bool {
		return !strings.Contains(strings.Join(h.Processes(), "\n"), "sftp-server")
	}, time.Minute, 100*time.Millisecond)
	_, err = transport.Stat(t.Context(), conn, "/etc")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, transport.ErrProtocol)
	require.Equal(t, "here\n", output(t, conn, "echo", "here"))
}
