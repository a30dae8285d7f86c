//go:build unix

package portalloc

import (
	"errors"
	"os"
	"syscall"
)

var (
	errDenied        = os.NewSyscallError("bind", syscall.EACCES)
	errInUse         = os.NewSyscallError("bind", syscall.EADDRINUSE)
	errTied          = os.NewSyscallError("listen", syscall.EADDRINUSE)
	errNoDescriptors = os.NewSyscallError("socket", syscall.EMFILE)
)

// strict makes a listener fail where a dialler would.
func strict(network, address string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0)
	})
	return errors.Join(err, set)
}
