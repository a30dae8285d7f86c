//go:build !windows

package agent

import "syscall"

// connect(2).
var (
	refusedErrnos = []error{syscall.ECONNREFUSED, syscall.ECONNRESET}
	noRouteErrnos = []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL}
	// Linux: a filter of the host's own drops what it sends.
	forbidErrnos = []error{syscall.EPERM, syscall.EACCES}
)
