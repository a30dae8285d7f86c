package local

import "os"

// tryLock keeps nobody out: this system has no such locks.
func tryLock(*os.File) (bool, error) { return true, nil }
