//go:build linux || windows

package portalloc

import "slices"

// socket is one line of the system's table of TCP sockets.
type socket struct {
	port  uint16
	state string
	uid   int
	owner uint64 // Linux: the inode of the socket, Windows: the process; 0 where nobody owns it
}

// maxHolders bounds what is kept for one port: a busy server's port may have
// thousands of connections.
const maxHolders = 4

// foremost keeps for each port the listeners, or a few others where there is
// none.
func foremost(socks []socket) []socket {
	listening := make(map[uint16]bool)
	for _, s := range socks {
		if s.state == "LISTEN" {
			listening[s.port] = true
		}
	}
	count := make(map[uint16]int)
	return slices.DeleteFunc(socks, func(s socket) bool {
		if listening[s.port] && s.state != "LISTEN" {
			return true
		}
		count[s.port]++
		return count[s.port] > maxHolders
	})
}
