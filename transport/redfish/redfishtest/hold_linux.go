package redfishtest

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// hold takes a port of the loopback interface without listening on it: who
// connects is refused, and nobody else gets the port while the service resets.
// A listener that sets SO_REUSEADDR, as those of package net do, can be opened
// and closed on it.
func hold(ip net.IP) (port int, release func(), err error) {
	family, addr := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if ip.To4() == nil {
		family, addr = syscall.AF_INET6, &syscall.SockaddrInet6{Addr: [16]byte(ip)}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	release = sync.OnceFunc(func() { _ = syscall.Close(fd) })
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(fd, addr); err != nil {
		return 0, nil, os.NewSyscallError("bind", err)
	}
	got, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, nil, os.NewSyscallError("getsockname", err)
	}
	switch a := got.(type) {
	case *syscall.SockaddrInet4:
		return a.Port, release, nil
	case *syscall.SockaddrInet6:
		return a.Port, release, nil
	}
	return 0, nil, net.InvalidAddrError("not an address of the loopback interface")
}
