package transport

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// CloseGrace is how long a Close may go on cleaning up after its context ended.
const CloseGrace = 10 * time.Second

// A Transport dials targets of one protocol. Implementations are safe for
// concurrent use.
type Transport interface {
	// Dial connects to ep and authenticates both sides. It fails with ErrTrust
	// when the target's identity cannot be checked against ep.Trust, with ErrAuth
	// when the target refuses the credentials, and with ErrUnreachable,
	// ErrTimeout or ErrBusy as they apply. No connection is left behind on error.
	Dial(ctx context.Context, ep Endpoint) (Conn, error)
}

// A Conn is one authenticated connection to one target. It is safe for
// concurrent use unless its driver says otherwise. Once a method has failed with
// ErrConnLost every later one does, except Close.
type Conn interface {
	// Identify says who answers. It asks the target each time, so that a caller
	// can tell a reboot (another BootID) or another machine at the same address.
	Identify(ctx context.Context) (Identity, error)

	// Caps says what this connection can do. The answer does not change during
	// the life of the connection.
	Caps() Caps

	// Path says how the two sides reach each other.
	Path() Path

	// Close ends the connection and everything that was started on it: tunnels,
	// sessions, goroutines. Closing twice is no error. On an ended context it
	// still cleans up, for at most CloseGrace.
	Close(ctx context.Context) error
}

// DialFunc opens a network connection, as net.Dialer.DialContext does. Every
// network driver has a field of this type: for jump hosts, fault injection and
// in-memory pipes.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Identity is who answered. Fields that the target does not tell are empty.
type Identity struct {
	Name    string `json:"name,omitempty"`    // host name, or the product's own name for this unit
	Vendor  string `json:"vendor,omitempty"`  // maker of the system
	Product string `json:"product,omitempty"` // model of the system, such as "ProLiant DL380 Gen10"
	Serial  string `json:"serial,omitempty"`  // serial number of the system
	UUID    string `json:"uuid,omitempty"`    // SMBIOS system UUID
	OS      string `json:"os,omitempty"`      // operating system or firmware family, such as "linux"
	Version string `json:"version,omitempty"` // its version, such as "Debian GNU/Linux 12 (bookworm)"
	Kernel  string `json:"kernel,omitempty"`  // kernel release
	Arch    string `json:"arch,omitempty"`    // as GOARCH names it
	BootID  string `json:"boot_id,omitempty"` // another value after every boot
}

// Path says how manager and target reach each other.
type Path struct {
	// Local and Remote are the ends of the connection that the manager opened.
	// They are invalid where a tunnel or pipe carries it.
	Local, Remote netip.AddrPort
	// SeenAs is the manager's address as the target sees it; behind NAT or a jump
	// host it is not Local. URLs that the target is to fetch use it.
	SeenAs netip.Addr
	// CallbackFrom lists who dials the manager back on behalf of this target: the
	// target itself, or an ESXi host where the connection leads to its vCenter.
	CallbackFrom []netip.Prefix
	// SameHost says that the target is the manager's own host: no connection leads
	// to it.
	SameHost bool
}

// Caps is the set of capabilities of one connection.
type Caps uint32

// The capabilities. The three tunnel bits stand for the networks "unix", "tcp"
// and "pipe" of [Dial].
const (
	CapFiles Caps = 1 << iota
	CapRun
	CapServices
	CapTunnelUnix
	CapTunnelTCP
	CapTunnelPipe
	CapChildren
	CapInventory
	CapUpdate
	CapUndo
	CapReboot
	CapSpace
	CapClock
	capsEnd
)

// AllCaps has every capability that this version knows.
const AllCaps = capsEnd - 1

var capNames = []string{
	"files", "run", "services", "tunnel-unix", "tunnel-tcp", "tunnel-pipe",
	"children", "inventory", "update", "undo", "reboot", "space", "clock",
}

// Has reports whether every capability in want is in c.
func (c Caps) Has(want Caps) bool { return c&want == want }

// String names the capabilities, separated by "+".
func (c Caps) String() string {
	out := ""
	for i, name := range capNames {
		if c&(1<<i) != 0 {
			if out != "" {
				out += "+"
			}
			out += name
		}
	}
	if out == "" {
		return "none"
	}
	return out
}

// need returns the error for a capability that conn lacks, or nil.
func need(conn Conn, op string, want Caps) error {
	if conn.Caps().Has(want) {
		return nil
	}
	e := unsupported(op, want.String())
	e.Err = whyNot(conn, want)
	return e
}

// Explainer is what a Conn may implement beside the capabilities: WhyNot says why
// it lacks a capability that others of its kind have, such as what the target
// answered to the attempt, or returns nil. The errors of what needs the capability
// wrap it.
type Explainer interface{ WhyNot(want Caps) error }

func whyNot(conn Conn, want Caps) error {
	if e, ok := conn.(Explainer); ok {
		return e.WhyNot(want)
	}
	return nil
}
