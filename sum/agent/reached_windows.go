package agent

import "golang.org/x/sys/windows"

// Winsock error codes.
var (
	refusedErrnos = []error{windows.WSAECONNREFUSED, windows.WSAECONNRESET}
	noRouteErrnos = []error{windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAENETDOWN, windows.WSAEHOSTDOWN, windows.WSAEADDRNOTAVAIL}
	// A filter of the Windows Filtering Platform.
	forbidErrnos = []error{windows.WSAEACCES}
)
