//go:build unix

package portalloc

import (
	"errors"
	"os"
	"syscall"
)

// canHandOver: descriptors of listeners are inherited by children.
const canHandOver = true

// deniedMayBeBusy: a refusal is never about another socket.
const deniedMayBeBusy = false

// deniedAdvice says what to do about a port that was refused.
func deniedAdvice(port uint16) string {
	if int(port) < privilegedBelow() {
		return "run with the right to use privileged ports (root; on Linux also CAP_NET_BIND_SERVICE), or configure a higher port"
	}
	return "a security policy of this host (SELinux, AppArmor, Landlock, SocketBindDeny of systemd) forbids the port: allow it there, or configure another one"
}

// control leaves Go's defaults alone: with SO_REUSEADDR, which Go sets on
// listeners only, the second listener on a port fails, in listen(2) if not in
// bind(2), and a port whose old connections linger in TIME_WAIT can be had.
func control(network, address string, c syscall.RawConn) error { return nil }

// passOver returns why the search goes on after this error, or 0 when no other
// port would help. Refusals count only where they are about the port: bind(2)
// has EACCES for privileged ports and where Landlock or SELinux forbid one, and
// EPERM where a BPF program of the control group does.
func passOver(err error) Reason {
	var call *os.SyscallError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return Busy
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		if errors.As(err, &call) && call.Syscall == "bind" {
			return Denied
		}
	}
	return 0
}

// tied reports that listen(2) refused a port that bind(2) had given: another
// socket called listen at the same time. Linux may refuse both then, so that
// neither has the port.
func tied(err error) bool {
	var call *os.SyscallError
	return errors.Is(err, syscall.EADDRINUSE) && errors.As(err, &call) && call.Syscall == "listen"
}

// acceptIPv4 makes an IPv6 socket serve IPv4 too.
func acceptIPv4(fd uintptr) error {
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0))
}

// hiddenAdvice is for a holder that the kernel shows without its process.
func hiddenAdvice() string {
	if os.Geteuid() != 0 {
		return "run as root to learn which program that is"
	}
	return "a program that root does not see runs outside of this container, or the socket is the kernel's own, as NFS has them"
}

func noDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func addrNotHere(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

func noFamily(err error) bool { return errors.Is(err, syscall.EAFNOSUPPORT) }
