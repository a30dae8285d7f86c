package ssh_test

import (
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

func TestProhibitedTunnels(t *testing.T) {
	conn := dial(t, endpointOf(server(t, sshtest.Config{NoStreamLocal: true, NoTCP: true})))
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	for network, addr := range map[string]string{"unix": socket, "tcp": "127.0.0.1:1"} {
		_, err := transport.Dial(t.Context(), conn, network, addr)
		require.ErrorIs(t, err, transport.ErrRejected)
		require.Equal(t, transport.Code{Space: "ssh-open", Value: "1"}, transport.CodeOf(err))
		require.False(t, transport.Temporary(err))
	}
}

func TestTunnelErrors(t *testing.T) {
	conn := dial(t, endpointOf(server(t, sshtest.Config{})))
	_, err := transport.Dial(t.Context(), conn, "tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.Equal(t, transport.Code{Space: "ssh-open", Value: "2"}, transport.CodeOf(err))
	_, err = transport.Dial(t.Context(), conn, "unix", t.TempDir()+"/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = transport.Dial(t.Context(), conn, "tcp", "no port")
	require.ErrorIs(t, err, transport.ErrInvalid)
}

// TestJumpHosts goes to the target by way of two servers that do nothing else.
func TestJumpHosts(t *testing.T) {
	first := dial(t, endpointOf(server(t, sshtest.Config{NoSessions: true})))
	require.Equal(t, transport.CapTunnelTCP|transport.CapTunnelUnix, first.Caps())
	_, err := first.Identify(t.Context())
	require.NoError(t, err)
	ctx := t.Context()
	second, err := (&ssh.Transport{DialContext: ssh.Through(first)}).Dial(ctx, endpointOf(server(t, sshtest.Config{SFTPOnly: true})))
	require.NoError(t, err)
	target, err := (&ssh.Transport{DialContext: ssh.Through(second)}).Dial(ctx, endpointOf(server(t, sshtest.Config{})))
	require.NoError(t, err)
	require.Equal(t, "there\n", output(t, target, "echo", "there"))
	require.False(t, target.Path().Local.IsValid())
	require.Equal(t, "127.0.0.1", target.Path().SeenAs.String())

	// The end of a jump host is the end of what goes through it.
	require.NoError(t, first.Close(ctx))
	_, err = target.Identify(ctx)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, target.Close(ctx))
	require.NoError(t, second.Close(ctx))

	_, err = (&ssh.Transport{DialContext: ssh.Through(first)}).Dial(ctx, endpointOf(server(t, sshtest.Config{})))
	require.ErrorIs(t, err, transport.ErrClosed)
}

// TestJumpHostLostAtWork: whoever goes through a connection that breaks hears of
// it, however much is under way, and needs no sign of life of its own for that.
func TestJumpHostLostAtWork(t *testing.T) {
	t.Parallel()
	quiet := ssh.Options{KeepAlive: -1, StallTimeout: -1}
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var served sync.WaitGroup
	defer served.Wait()
	defer sink.Close()
	served.Go(func() {
		for {
			c, err := sink.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	for range 5 {
		srv := server(t, sshtest.Config{})
		ep := endpointOf(srv)
		ep.Options = quiet
		jump := dial(t, ep)
		ep = endpointOf(server(t, sshtest.Config{}))
		ep.Options = quiet
		target, err := (&ssh.Transport{DialContext: ssh.Through(jump)}).Dial(t.Context(), ep)
		require.NoError(t, err)
		tunnel, err := transport.Dial(t.Context(), jump, "tcp", sink.Addr().String())
		require.NoError(t, err)
		errs := make(chan error, 3)
		moved := make(chan struct{}, 1000)
		go func() {
			_, err := transport.Get(t.Context(), target, "/dev/zero", writer(func(p []byte) (int, error) {
				select {
				case moved <- struct{}{}:
				default:
				}
				return len(p), nil
			}), transport.GetOptions{})
			errs <- err
		}()
		go func() {
			_, err := transport.Run(t.Context(), target, transport.Command{Argv: []string{"sh", "-c", "cat >/dev/null"}, Stdin: zeros{}})
			errs <- err
		}()
		go func() {
			_, err := io.Copy(tunnel, zeros{})
			errs <- err
		}()
		for range 50 {
			<-moved
		}
		srv.CloseConnections()
		for range cap(errs) {
			select {
			case err := <-errs:
				require.ErrorIs(t, err, transport.ErrConnLost)
			case <-time.After(time.Minute):
				require.Fail(t, "a call goes on over a connection that is lost")
			}
		}
		require.NoError(t, target.Close(t.Context()))
	}
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
