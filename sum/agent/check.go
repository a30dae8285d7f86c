package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// An Inspector looks at a target before anything is done there, and tries in both
// directions who reaches whom. Where a program is needed on the target for that, it
// is the one file of a temporary directory of its own, and both go with Close, and
// with the connection. An Inspector is not for concurrent use.
type Inspector interface {
	// Facts says what the target is like.
	Facts(ctx context.Context) (Facts, error)
	// Dial has the target dial a TCP address, and read what it is greeted with.
	Dial(ctx context.Context, addr netip.AddrPort) (Reached, error)
	// Listen has the target listen for the manager.
	Listen(ctx context.Context, opts ListenOptions) (Listening, error)
	// Unlisten ends what Listen began.
	Unlisten(ctx context.Context, l Listening) error
	// Close leaves nothing on the target.
	Close(ctx context.Context) error
}

// InspectOptions are the options of Installer.Inspect.
type InspectOptions struct {
	// Target is the target's name, for messages.
	Target string
	// Place is where the manager's own agent is, if there is one: its program is used,
	// and what was sent to it counts.
	Place *Place
	// BaseDirs are those of StartOptions.
	BaseDirs []string
}

// Facts are what a target is like. Whatever is in them the target said.
type Facts struct {
	OS, Arch string
	UID      int // -1: unknown
	// Dir is the base directory in which an agent would be, and Free how many bytes
	// its user may write there; -1 is unknown.
	Dir  string
	Free int64
	// Staged is how many bytes of payloads the manager's own agent has there already.
	Staged int64
	// Unfit says of the base directories that would be preferred why they will not do.
	Unfit []error
	// Skew is by how much the target's clock is ahead of the manager's; it is known to
	// within Within. A negative Within says that the clock cannot be seen, and Skew
	// means nothing then.
	Skew, Within time.Duration
	// Holders are who holds the host: jobs that run, those of the manager's own agent
	// among them, or a restart that is due.
	Holders []HostHolder
	// HoldersErr is why that is not known, or nil.
	HoldersErr error
	// Agentless says that nothing of ours was executed there.
	Agentless bool
}

// How somebody who was dialled was reached.
const (
	ReachedPeer    = "reached"
	ReachedRefused = "refused"  // a TCP reset: nobody listens, or a firewall rejects
	ReachedNothing = "filtered" // no answer: a firewall drops, or nobody is there
	ReachedNoRoute = "no-route" // the network, or a firewall, says that there is no way
	ReachedForbids = "forbids"  // the own host of who dials does not let it
	ReachedFailed  = "failed"   // in another way
)

// Reached is how a dial ended.
type Reached struct {
	How      string `json:"how"`
	Greeting string `json:"greeting,omitempty"` // the first bytes that came, at most 64
	Text     string `json:"text,omitempty"`     // what the system said
}

// ListenOptions are the options of Inspector.Listen.
type ListenOptions struct {
	// Port is what to listen on; 0 is one above 1024 that nobody can foresee.
	Port uint16 `json:"port,omitempty"`
	// Next takes the next free port where Port is taken.
	Next bool `json:"next,omitempty"`
	// Greeting is what who comes is greeted with, at most 64 bytes.
	Greeting string `json:"greeting,omitempty"`
	// Firewall is who is let through the target's firewall meanwhile; without any it is
	// left alone.
	Firewall []netip.Prefix `json:"firewall,omitempty"`
}

// Listening is a port on which the target listens.
type Listening struct {
	Port uint16 `json:"port"`
	// Taken says of the port that was asked for who has it, where it is another.
	Taken string `json:"taken,omitempty"`
}

// maxGreeting is what is read of a greeting, in bytes.
const maxGreeting = 64

// HowReached tells how a dial that failed with err ended, or with nil succeeded.
func HowReached(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return ReachedPeer
	case isOneOf(err, refusedErrnos):
		return ReachedRefused
	case isOneOf(err, noRouteErrnos):
		return ReachedNoRoute
	case isOneOf(err, forbidErrnos):
		return ReachedForbids
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return ReachedNothing
	}
	return ReachedFailed
}

func isOneOf(err error, list []error) bool {
	return slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}
