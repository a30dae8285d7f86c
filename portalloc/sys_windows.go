package portalloc

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// canHandOver: net.TCPListener has no File on Windows.
const canHandOver = false

// deniedMayBeBusy: WSAEACCES is also for a port that another socket has
// exclusively.
const deniedMayBeBusy = true

// deniedAdvice says what to do about a port that was refused.
func deniedAdvice(port uint16) string {
	return fmt.Sprintf("port %d lies in an excluded range (netsh int ipv4 show excludedportrange tcp) or another program has it exclusively (netsh http show servicestate)", port)
}

// hiddenAdvice is for a holder whose process cannot be opened.
func hiddenAdvice() string { return "run as administrator to learn which program that is" }

// soExclusiveAddrUse is SO_EXCLUSIVEADDRUSE of winsock2.h, which is
// ((int)(~SO_REUSEADDR)).
const soExclusiveAddrUse = ^windows.SO_REUSEADDR

// control makes a port exclusive. Without it Windows lets a wildcard address be
// bound over somebody's specific address, and lets a program that sets
// SO_REUSEADDR take over a port of ours ("Using SO_REUSEADDR and
// SO_EXCLUSIVEADDRUSE", Winsock documentation).
func control(network, address string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, soExclusiveAddrUse, 1)
	})
	return errors.Join(err, set)
}

// passOver returns why the search goes on after this error, or 0 when no other
// port would help. WSAEACCES comes for ports of excluded ranges, which Hyper-V
// and others reserve at every start, and for ports held exclusively; from a
// connection it is a firewall's word about the target.
func passOver(err error) Reason {
	switch {
	case errors.Is(err, windows.WSAEADDRINUSE):
		return Busy
	case errors.Is(err, windows.WSAEACCES) && !connecting(err):
		return Denied
	}
	return 0
}

// tied is false: bind decides here, and one of two has the port.
func tied(err error) bool { return false }

// acceptIPv4 makes an IPv6 socket serve IPv4 too.
func acceptIPv4(fd uintptr) error {
	return os.NewSyscallError("setsockopt", windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, windows.IPV6_V6ONLY, 0))
}

func noDescriptors(err error) bool { return errors.Is(err, windows.WSAEMFILE) }

func addrNotHere(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

func noFamily(err error) bool { return errors.Is(err, windows.WSAEAFNOSUPPORT) }

// reservedPorts is empty: Windows refuses such ports itself, see passOver.
func reservedPorts() []Range { return nil }

// ephemeralPorts returns the default dynamic range of Windows since Vista.
func ephemeralPorts() (Range, bool) { return Range{49152, maxPort}, true }
