package ssh_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTunnelClosedWhileNobodyReads: the server lets go of its connection when the
// near side closes the tunnel, although what was written cannot be delivered.
func TestTunnelClosedWhileNobodyReads(t *testing.T) {
	t.Parallel()
	conn := dial(t, endpointOf(server(t, sshtest.Config{})))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer l.Close()
	near, err := transport.Dial(t.Context(), conn, "unix", l.Addr().String())
	require.NoError(t, err)
	accepted, err := l.Accept()
	require.NoError(t, err)
	far := accepted.(*net.UnixConn)
	defer far.Close()
	require.NoError(t, near.SetWriteDeadline(time.Now().Add(time.Second)))
	_, err = near.Write(make([]byte, 32<<20))
	require.Error(t, err, "nobody reads")
	require.NoError(t, near.Close())
	raw, err := far.SyscallConn()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p := []unix.PollFd{{Events: unix.POLLRDHUP}}
		require.NoError(t, raw.Control(func(fd uintptr) {
			p[0].Fd = int32(fd)
			_, _ = unix.Poll(p, 0)
		}))
		return p[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0
	}, time.Minute, 50*time.Millisecond, "the connection is still open on the server")
}
