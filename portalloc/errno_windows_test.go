package portalloc

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

var (
	errDenied        = os.NewSyscallError("bind", windows.WSAEACCES)
	errInUse         = os.NewSyscallError("bind", windows.WSAEADDRINUSE)
	errTied          = errInUse
	errNoDescriptors = os.NewSyscallError("socket", windows.WSAEMFILE)
)

// strict makes a listener fail where a dialler would.
func strict(network, address string, c syscall.RawConn) error { return control(network, address, c) }
