package firewall

import "context"

// A Driver changes the rules of one host. [Firewall] calls it, checks what it is
// asked, counts leases, and never makes two calls at once, but for Wait, which
// runs beside the others.
type Driver interface {
	// State says what is there.
	State(ctx context.Context) (State, error)
	// Sweep removes what owners left that no longer live.
	Sweep(ctx context.Context) ([]Leftover, error)
	// Apply opens and closes in one step, in every front end: all or nothing. No
	// opening is added twice, none is removed that was not added, and after each
	// call none lies within another. When it returns, what was added can be
	// reached.
	Apply(ctx context.Context, add, remove []Opening) error
	// Wait returns nil when somebody else may have changed the host's rules, or
	// after some time.
	Wait(ctx context.Context) error
	// Repair puts back what somebody else took away.
	Repair(ctx context.Context) error
	// Close takes everything back.
	Close(ctx context.Context) error
}

// State is what is known about a host's firewall.
type State struct {
	// FrontEnds are the active ones. None means that nothing filters what comes in.
	FrontEnds []FrontEnd
	// Guessed: FrontEnds are a guess, because this process may not look. It names one
	// also where nothing filters.
	Guessed bool
	// Blocks are filters that can drop packets and that no rule of ours overrides.
	// Whether they concern a port is not known.
	Blocks []Block
	// Owners are the living processes that have opened ports.
	Owners []Owner
	// ByHand: the driver opens nothing itself. An administrator has to.
	ByHand bool
}

// A Block is a filter that this package cannot override.
type Block struct {
	Where string // for example "chain netdev guard ingress"
	Why   string // for example "hook ingress comes before the input chains"
}

// A Leftover is something that a dead owner left and that was removed.
type Leftover struct {
	FrontEnd FrontEnd
	What     string // for example "gate in chain inet filter input"
	Owner    Owner  // who put it there; zero where that cannot be told, as of rules of firewalld
}

// None returns a Driver for runs that leave the host's firewall alone: what it
// opens is taken to be open already, and [Lease.ByHand] says which rules to add
// where it is not, in the syntax of the front ends that were found. It only looks;
// without administrator rights it guesses, and its State says so.
func None() Driver { return none{} }

type none struct{}

func (none) State(ctx context.Context) (State, error) {
	s := inSight(ctx)
	s.ByHand = true
	return s, ctx.Err()
}
func (none) Sweep(context.Context) ([]Leftover, error)         { return nil, nil }
func (none) Apply(context.Context, []Opening, []Opening) error { return nil }
func (none) Wait(ctx context.Context) error                    { <-ctx.Done(); return ctx.Err() }
func (none) Repair(context.Context) error                      { return nil }
func (none) Close(context.Context) error                       { return nil }
