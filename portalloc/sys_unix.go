//go:build unix

package portalloc

import (
	"errors"
	"syscall"
)

// canHandOver: descriptors of listeners are inherited by children.
const canHandOver = true

const deniedAdvice = "run with the right to use privileged ports (root; on Linux also CAP_NET_BIND_SERVICE), or configure a higher port"

// control leaves Go's defaults alone: with SO_REUSEADDR, which Go sets on
// listeners only, the second listener on a port fails, in listen(2) if not in
// bind(2), and a port whose old connections linger in TIME_WAIT can be had.
func control(network, address string, c syscall.RawConn) error { return nil }

// passOver returns why the search goes on after this error, or 0 when no other
// port would help.
func passOver(err error, port uint16) Reason {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return Busy
	case errors.Is(err, syscall.EACCES) && int(port) < privilegedBelow():
		return Denied
	}
	return 0
}

func noDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func addrNotHere(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

func noFamily(err error) bool { return errors.Is(err, syscall.EAFNOSUPPORT) }
