package portalloc

import (
	"os"

	"golang.org/x/sys/windows"
)

var (
	errDenied        = os.NewSyscallError("bind", windows.WSAEACCES)
	errInUse         = os.NewSyscallError("bind", windows.WSAEADDRINUSE)
	errNoDescriptors = os.NewSyscallError("socket", windows.WSAEMFILE)
)
