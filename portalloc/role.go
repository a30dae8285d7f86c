package portalloc

import "fmt"

// Generation chooses between the two sets of documented ports.
type Generation int

const (
	// Current is SUM 7.3 and later: one web server port, port and ssl_port.
	Current Generation = iota
	// Classic is HP SUM 4 to 6, which adds the ranges that begin at 60000 and
	// 61000, and the agent's port 62286.
	Classic
)

// String returns "current" or "classic".
func (g Generation) String() string {
	switch g {
	case Current:
		return "current"
	case Classic:
		return "classic"
	}
	return fmt.Sprintf("Generation(%d)", int(g))
}

// Role says what a port is for. The zero Role is invalid.
type Role int

const (
	// LocalIPC carries messages between processes of one host; classic, 60000
	// and up. It listens on the loopback addresses unless told otherwise.
	LocalIPC Role = iota + 1
	// ManagerToTarget is the source port of connections from the manager to
	// targets; classic, 60000 and up. It is the only role that never listens:
	// see [Allocator.Dialer].
	ManagerToTarget
	// TargetToManager receives connections from targets; classic, 61000 and up.
	TargetToManager
	// Agent is where the agent listens on a target; classic, 62286, then the
	// next free port.
	Agent
	// HTTP is the manager's internal web server: 80 if it is free, else a random
	// free port of 63000 to 63005.
	HTTP
	// Port is the setting "port": payloads out and status in over HTTP; 63001.
	Port
	// SSLPort is the setting "ssl_port": the same over HTTPS; 63002.
	SSLPort
	// FTP is the setting "ftp_port": off unless a port is given.
	FTP
	// Dynamic is a port to which a conversation moves after its first contact:
	// unpredictable, above 1024, so that a scanner that finds the first port
	// cannot hold up the conversation.
	Dynamic

	lastRole = Dynamic
)

var roleNames = [...]string{
	LocalIPC:        "local-ipc",
	ManagerToTarget: "manager-to-target",
	TargetToManager: "target-to-manager",
	Agent:           "agent",
	HTTP:            "http",
	Port:            "port",
	SSLPort:         "ssl_port",
	FTP:             "ftp_port",
	Dynamic:         "dynamic",
}

// String returns the role's name, spelled as SUM spells it where SUM has a
// setting for it: "port", "ssl_port", "ftp_port".
func (r Role) String() string {
	if !r.valid() {
		return fmt.Sprintf("Role(%d)", int(r))
	}
	return roleNames[r]
}

func (r Role) valid() bool { return r >= LocalIPC && r <= lastRole }
