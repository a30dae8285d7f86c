package portalloc

import (
	"context"
	"errors"
	"fmt"
)

// Holder is a socket that has a port, as far as the system tells.
type Holder struct {
	// PID and Program are zero where this process may not see whose socket it
	// is, and where nobody owns it any more (TIME-WAIT).
	PID     int
	Program string
	// UID is the user that opened the socket, -1 on Windows, which does not tell.
	UID int
	// State is the TCP state in the terms of RFC 9293, for example "LISTEN".
	State string
}

// String returns for example "nginx (pid 812)".
func (h Holder) String() string {
	who := fmt.Sprintf("%s (pid %d)", h.Program, h.PID)
	switch {
	case h.PID == 0 && h.State == "TIME-WAIT":
		return "a connection that has just ended"
	case h.PID == 0 && h.UID < 0:
		who = "another program"
	case h.PID == 0:
		who = fmt.Sprintf("a program of user id %d", h.UID)
	case h.Program == "":
		who = fmt.Sprintf("pid %d", h.PID)
	}
	if h.State != "LISTEN" {
		return "a connection of " + who
	}
	return who
}

// hidden reports that there is a program, which more rights might show.
func (h Holder) hidden() bool {
	return h.State != "TIME-WAIT" && (h.PID == 0 || h.Program == "")
}

// HoldersOf returns the sockets of this host, or network namespace, that have a
// local TCP port: listeners if there are any, else connections. It is empty when
// the port is free, and also when it is only bound, which no system shows.
// Programs of other users are named only to root, or to an administrator. What
// it finds may have changed when it returns, so it is for messages, never for a
// decision.
//
// Elsewhere than on Linux and Windows it fails with errors.ErrUnsupported.
func HoldersOf(ctx context.Context, port uint16) ([]Holder, error) {
	found := map[uint16][]Holder{port: nil}
	if err := findHolders(ctx, found); err != nil {
		kind := error(nil)
		if errors.Is(err, errors.ErrUnsupported) {
			kind, err = err, nil
		}
		return found[port], &Error{Op: "find holders", Policy: Fixed(port), Kind: kind, Cause: err}
	}
	return found[port], nil
}
