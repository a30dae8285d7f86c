package portalloc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// blackHole is an address where the kernel drops what asks for a connection: a
// listener whose queue is full.
func blackHole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(fd, 0))
	sa, err := unix.Getsockname(fd)
	require.NoError(t, err)
	at := netip.AddrPortFrom(v4, uint16(sa.(*unix.SockaddrInet4).Port))
	poll(t, func() bool {
		conn, err := net.DialTimeout("tcp", at.String(), time.Second)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err != nil
	}, "the queue is never full")
	return at
}

// TestDialPassesBlackHole: an address from which nothing comes back costs a share
// of the time, also where the caller sets no limit.
func TestDialPassesBlackHole(t *testing.T) {
	dead, live := blackHole(t), sink(t, "tcp4", "127.0.0.1:0").(*net.TCPAddr).AddrPort()
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{ManagerToTarget: {First: first, Last: first + 1}})
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	d.maxShare = 50 * time.Millisecond
	pl := plan{role: ManagerToTarget, policy: a.Policy(ManagerToTarget), bounds: a.bounds[ManagerToTarget]}
	ctx, cancel := context.WithCancel(context.Background()) // without a deadline
	defer cancel()
	done := make(chan error, 1)
	go func() {
		conn, err := d.dialAny(ctx, pl, "name:1", []netip.AddrPort{dead, live})
		if err == nil && conn.RemoteAddr().String() != live.String() {
			err = fmt.Errorf("connected to %v", conn.RemoteAddr())
		}
		done <- err
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		cancel()
		t.Fatalf("still waits for the address that is dead: %v", <-done)
	}
}
