package transporttest

import (
	"net"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// A Harness tells the conformance suite about one driver and the target that it
// is tried against. Transport, Endpoint and Caps are always needed; what else is
// depends on Caps. A case whose field is missing fails and names the field:
// leaving a case out takes an entry in Skip with a reason.
//
// The cases of one Harness must not run at the same time as each other: they cut and
// stall the same target. Those of several may, apart from cases that are to be
// [Case.Alone].
type Harness struct {
	// Transport is the driver under test, decorated or not.
	Transport transport.Transport
	// Endpoint leads to a target that answers. Its password, if any, is looked for
	// in the text of every error.
	Endpoint transport.Endpoint
	// WrongSecret is Endpoint with credentials that the target refuses.
	WrongSecret *transport.Endpoint
	// WrongTrust is Endpoint with a Trust that knows another identity than the
	// one that the target shows.
	WrongTrust *transport.Endpoint
	// Caps is what a connection must offer, no more and no less, so that a driver
	// cannot lose a capability, nor gain one that no case has tried.
	Caps transport.Caps

	// Dir is a directory of the target in which the suite may write. Each case
	// makes a directory of its own in it and removes it. CapFiles needs it.
	Dir string
	// Names are awkward base names that the target's file system allows; nil means
	// those of [Names], which a POSIX system allows.
	Names []string
	// Programs are what CapRun is tried with; the zero value uses POSIX sh.
	Programs Programs
	// Listen makes a listener inside the target for the tunnel cases and says how
	// the target calls its address. Each CapTunnel capability needs it.
	Listen func(network string) (l net.Listener, addr string, err error)
	// Service is a service that may be created, and runs until it is stopped. Its
	// Name must not be taken. CapServices needs it.
	Service transport.ServiceConfig
	// Children are the objects that CapChildren must yield, in any order.
	Children []string
	// Updates is needed by CapUpdate and CapUndo.
	Updates *Updates

	// Cut breaks the connections to the target as a pulled cable does: at once,
	// without a farewell. Connections that are dialled afterwards work.
	Cut func()
	// Stall makes the target stop answering, on connections open and new, until
	// release is called; a call that is waiting then goes on.
	Stall func() (release func())
	// Requests counts the requests that reached the target so far. It is optional:
	// with it the suite checks that what is unsupported or invalid sends nothing.
	Requests func() int64

	// Patience is how long a call that must return may take, and how long the
	// suite polls for what must come about: generous, because only a failing
	// driver waits that long. 0 means 20 seconds.
	Patience time.Duration
	// Skip maps the names of cases that are left out to the reason. A name that is
	// no case of this Harness is an error, and so is an empty reason.
	Skip map[string]string
}

// Updates tells the suite how to try updates.
type Updates struct {
	// Next returns a payload that is newer than what is installed and than every
	// payload it returned before.
	Next func() transport.Payload
	// Device is the ID of the device whose Firmware becomes the payload's Version.
	Device string
	// Applied counts, on the target, how often any payload was applied so far.
	Applied func() int
	// Activate makes a staged update take effect; nil where updates take effect
	// by themselves.
	Activate func(transport.Activation) error
	// Pull says that the target fetches payloads itself: the suite then offers
	// them with a [Publisher] and checks what was fetched.
	Pull bool
	// PublishOn is the address on which the Publisher listens, such as
	// "192.0.2.1:0"; "" means a free port on 127.0.0.1.
	PublishOn string
	// Leftovers names what a dead run left on the target for Undo to take back.
	Leftovers func() []string
}

// Programs are the commands with which CapRun is tried. A nil field means the
// one that runs on POSIX sh with cat, sleep, head and kill.
type Programs struct {
	// Args prints each argument, followed by a NUL byte.
	Args func(args ...string) []string
	// Cat copies standard input to standard output.
	Cat func() []string
	// Errs copies standard input to standard error.
	Errs func() []string
	// Exit ends with the given exit status.
	Exit func(code int) []string
	// Env prints the value of an environment variable.
	Env func(name string) []string
	// Zeros prints n zero bytes.
	Zeros func(n int64) []string
	// Sleep prints a line with an identifier of itself and then runs for minutes.
	Sleep func() []string
	// Alive ends with status 0 while the program with this identifier runs.
	Alive func(id string) []string
}

// Names returns awkward file names that every POSIX file system allows.
func Names() []string {
	return []string{
		"two words", " leading and trailing ", `single'quote`, `double"quote`, "`backquote`", "$HOME", "back\\slash",
		"new\nline", "-rf", "--", "*?[a-z]", "a;b&c|d>e<f", "(paren){brace}", "~", "#hash", "%41", "tab\there",
		"größe-日本語", ".hidden", "..twodots", "colon:here",
	}
}

// withDefaults fills in what may be left out.
func (h Harness) withDefaults() Harness {
	if h.Patience <= 0 {
		h.Patience = 20 * time.Second
	}
	if h.Names == nil {
		h.Names = Names()
	}
	h.Programs = h.Programs.withDefaults()
	return h
}

func (p Programs) withDefaults() Programs {
	sh := func(script string, args ...string) []string {
		return append([]string{"sh", "-c", script, "sh"}, args...)
	}
	if p.Args == nil {
		p.Args = func(args ...string) []string {
			return sh(`for a in "$@"; do printf '%s\0' "$a"; done`, args...)
		}
	}
	if p.Cat == nil {
		p.Cat = func() []string { return []string{"cat"} }
	}
	if p.Errs == nil {
		p.Errs = func() []string { return sh(`cat >&2`) }
	}
	if p.Exit == nil {
		p.Exit = func(code int) []string { return sh(`exit "$1"`, itoa(int64(code))) }
	}
	if p.Env == nil {
		p.Env = func(name string) []string { return sh(`eval "printf %s \"\$$1\""`, name) }
	}
	if p.Zeros == nil {
		p.Zeros = func(n int64) []string { return []string{"head", "-c", itoa(n), "/dev/zero"} }
	}
	if p.Sleep == nil {
		p.Sleep = func() []string { return sh(`echo $$; exec sleep 600`) }
	}
	if p.Alive == nil {
		p.Alive = func(id string) []string { return []string{"kill", "-0", id} }
	}
	return p
}
