//go:build unix

package portalloc

import (
	"os"
	"syscall"
)

var (
	errDenied        = os.NewSyscallError("bind", syscall.EACCES)
	errInUse         = os.NewSyscallError("bind", syscall.EADDRINUSE)
	errNoDescriptors = os.NewSyscallError("socket", syscall.EMFILE)
)
