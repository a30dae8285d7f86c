//go:build unix

package main

import (
	"os"
	"syscall"
)

// readByOthers reports whether a file of this user, which nobody else has to have, is open to
// others: what ssh asks of keys. What belongs to others is theirs to guard.
func readByOthers(name string) bool {
	fi, err := os.Stat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	owner, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Getuid() && fi.Mode().Perm()&0o077 != 0
}
