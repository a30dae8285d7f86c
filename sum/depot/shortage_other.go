//go:build !windows

package depot

import "syscall"

func shortages() []error {
	return []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}
}
