package depot

import "golang.org/x/sys/windows"

// shortages are those of Winsock and of files: what package syscall calls EMFILE
// and ENOBUFS are numbers of Go's own, which the system never gives.
func shortages() []error {
	return []error{
		windows.WSAEMFILE, windows.WSAENOBUFS,
		windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NO_SYSTEM_RESOURCES,
		windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_OUTOFMEMORY,
	}
}
