package firewall

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errProtocol is what a kernel without nftables answers.
var errProtocol = [...]error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP}

// events is a socket that hears of every change of nftables (multicast group
// NFNLGRP_NFTABLES, include/uapi/linux/netfilter/nfnetlink.h). What changed is
// not read: after an overrun it would not be known.
type events struct{ f *os.File }

func newEvents() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &events{os.NewFile(uintptr(fd), "nftables events")}, nil
}

// wait returns after a change and a moment of quiet, or after some time. A tool
// that loads a ruleset makes many changes in a row.
func (e *events) wait(ctx context.Context, longest time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.f.SetReadDeadline(time.Now().Add(longest)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = e.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1<<16)
	var first time.Time
	for ctx.Err() == nil {
		_, err := e.f.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			return err
		}
		if first.IsZero() {
			first = time.Now()
		} else if time.Since(first) > 200*time.Millisecond {
			break // there is no quiet
		}
		if err := e.f.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (e *events) close() error {
	err := e.f.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
