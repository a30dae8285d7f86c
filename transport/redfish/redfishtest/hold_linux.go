package redfishtest

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// hold takes a port, or a free one if it is 0, without listening on it: who
// connects is refused, and nobody else gets the port while the service resets.
// A listener that sets SO_REUSEADDR, as those of package net do, can be opened
// and closed on it.
func hold(at netip.AddrPort) (port int, release func(), err error) {
	var family int
	var addr syscall.Sockaddr
	if at.Addr().Is4() {
		family, addr = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		var zone uint32
		if name := at.Addr().Zone(); name != "" {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return 0, nil, err
			}
			zone = uint32(i.Index)
		}
		family, addr = syscall.AF_INET6, &syscall.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16(), ZoneId: zone}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	free := sync.OnceFunc(func() { _ = syscall.Close(fd) })
	defer func() {
		if err != nil {
			free()
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
		return a.Port, free, nil
	case *syscall.SockaddrInet6:
		return a.Port, free, nil
	}
	return 0, nil, net.InvalidAddrError("not an address of IP")
}
