package portalloc

import (
	"context"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// TestExclusiveUse: on Windows a program that sets SO_REUSEADDR takes a port over
// from one that has it without SO_EXCLUSIVEADDRUSE.
func TestExclusiveUse(t *testing.T) {
	first := freePorts(t, 2)
	greedy := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			require.NoError(t, windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1))
		})
	}}
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	for _, o := range []Options{{}, {Family: IPv4}, {Family: IPv6}, {Loopback: true}} {
		l, err := a.Listen(t.Context(), Agent, o)
		require.NoError(t, err)
		for i, addr := range l.Addrs() {
			require.Equal(t, 1, exclusive(t, l.listeners[i]), "%v", addr)
			ln, err := greedy.Listen(context.Background(), "tcp", addr.String())
			if err == nil {
				ln.Close()
			}
			require.Error(t, err, "%v was taken over", addr)
			require.NotZero(t, passOver(err), "%v", err)
		}
		require.NoError(t, l.Close())
	}

	d, err := newAllocator(t, map[Role]Policy{ManagerToTarget: Fixed(first)}).Dialer(DialOptions{})
	require.NoError(t, err)
	conn, err := d.DialContext(t.Context(), "tcp", sink(t, "tcp4", "127.0.0.1:0").String())
	require.NoError(t, err)
	require.Equal(t, 1, exclusive(t, conn.(*Conn)))
}

func exclusive(t *testing.T, s syscall.Conn) int {
	t.Helper()
	c, err := s.SyscallConn()
	require.NoError(t, err)
	value := -1
	require.NoError(t, c.Control(func(fd uintptr) {
		value, err = windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, soExclusiveAddrUse)
	}))
	require.NoError(t, err)
	return value
}
