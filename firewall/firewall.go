package firewall

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Options say how a host's firewall is opened. The zero value works.
type Options struct {
	// Run names the run in rules and comments: letters, digits, '.' and '_', at
	// most 32. The default is "run".
	Run string
	// Driver is what changes the rules; nil means this host's own firewall. It is
	// closed with the Firewall, by Sweep, and when Open fails.
	Driver Driver
	// Logger hears of what is swept, repaired and blocked; nil means nothing.
	Logger *slog.Logger
	// Rules are what will be asked for. They are not opened: where Open fails, its
	// hint names them in the syntax of the front ends that were found.
	Rules []Rule

	// Mark and Mask (Linux): packets that are let in bear Mark in the bits of Mask
	// of their packet mark while they pass the input chains. Other software must
	// not use the same value; every manager of a host should. The default is 0x52 in
	// 0xfff: see the package documentation.
	Mark, Mask uint32
	// Check is how often it is seen to that no one took the rules away. For nftables
	// this happens at once, for legacy iptables and on Windows after this time. The
	// default is 5 seconds.
	Check time.Duration
	// TTL (Linux) is for how long ports stay open after a killed process where rules
	// can only end by themselves: in firewalld, and before Linux 5.12. They are
	// renewed after a third of it. Where firewalld has more than about a hundred of
	// them, they last longer: see the package documentation. The default is 30
	// seconds; less than 3 is refused.
	TTL time.Duration
	// LockFile (Linux) excludes other managers while shared rules change. It is
	// there only while it is locked. The default is /run/roundsman-firewall.lock.
	LockFile string
	// Guardian (Windows) is a command, a program and its arguments, that calls [Guard]
	// and removes the rules if this process is killed: the caller's own program with
	// an argument that says so will do. It is started with the first rule and ends
	// with Close. Without one, they stay until the next Open or Sweep.
	Guardian []string

	//lint:ignore U1000 only Linux has it
	ownerFlag uint32 // for tests: one that no kernel knows makes this one an old one
}

const defaultTTL = 30 * time.Second

// A Firewall holds the openings of this process. Its methods may be called from
// several goroutines.
type Firewall struct {
	driver Driver
	log    *slog.Logger
	byHand []FrontEnd // where an administrator has to open the ports; the driver does not

	turn   chan struct{} // holds one token; whoever has it may use what is below, and the driver
	ledger ledger
	closed bool // no more calls
	done   bool // everything is taken back

	stop   context.CancelFunc
	joined sync.WaitGroup
}

// Open finds the firewall of this host, removes what dead owners left in it, and
// watches over the rest until Close. It opens no port.
//
// Without administrator rights it fails with [ErrPermission], where the host's
// firewall cannot be opened, with [errors.ErrUnsupported]; the hint names what to
// add by hand.
func Open(ctx context.Context, o Options) (*Firewall, error) {
	d, log, err := o.driver(ctx, "open")
	if err != nil {
		return nil, err
	}
	left, err := d.Sweep(ctx)
	if err != nil {
		return nil, also(wrap("open", o.Rules, err), closeAfter(ctx, d))
	}
	for _, l := range left {
		log.Info("removed what a dead process left in the firewall", "what", l.What, "owner", l.Owner.String())
	}
	state, err := d.State(ctx)
	if err != nil {
		return nil, also(wrap("open", o.Rules, err), closeAfter(ctx, d))
	}
	for _, b := range state.Blocks {
		log.Warn("a filter may drop packets though the firewall is opened for them", "where", b.Where, "why", b.Why)
	}
	f := &Firewall{driver: d, log: log, turn: make(chan struct{}, 1), ledger: ledger{}}
	if state.ByHand {
		f.byHand = state.FrontEnds
	}
	f.turn <- struct{}{}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	f.joined.Go(func() { f.watch(watch) })
	return f, nil
}

// Sweep removes what dead owners left in this host's firewall, and returns it.
// What living ones have stays.
func Sweep(ctx context.Context, o Options) ([]Leftover, error) {
	d, _, err := o.driver(ctx, "sweep")
	if err != nil {
		return nil, err
	}
	left, err := d.Sweep(ctx)
	if err := errors.Join(err, closeAfter(ctx, d)); err != nil {
		return left, wrap("sweep", nil, err)
	}
	return left, nil
}

func (o Options) driver(ctx context.Context, op string) (Driver, *slog.Logger, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Run == "" {
		o.Run = "run"
	}
	if o.Mark == 0 && o.Mask == 0 {
		o.Mark, o.Mask = 0x52, 0xfff
	}
	if o.Check == 0 {
		o.Check = 5 * time.Second
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	invalid := ""
	switch {
	case !runName.MatchString(o.Run):
		invalid = "Run has other characters than letters, digits, '.' and '_', or more than 32"
	case o.Mark == 0 || o.Mark&^o.Mask != 0:
		invalid = "Mark must be a value other than zero within Mask"
	case o.Check < 0:
		invalid = "Check is negative"
	case o.TTL < 3*time.Second:
		invalid = "TTL is less than 3 seconds"
	}
	var err error
	if invalid != "" {
		err = &Error{Op: op, Kind: ErrInvalid, Detail: invalid}
	}
	for _, r := range o.Rules {
		if err == nil {
			err = r.Validate()
		}
	}
	if err == nil {
		err = wrap(op, nil, ctx.Err())
	}
	if err != nil {
		if o.Driver != nil {
			err = also(err, closeAfter(ctx, o.Driver))
		}
		return nil, nil, err
	}
	if o.Driver != nil {
		return o.Driver, o.Logger, nil
	}
	d, err := system(ctx, o)
	if err != nil {
		return nil, nil, wrap(op, o.Rules, err)
	}
	return d, o.Logger, nil
}

// State tells what the host's firewall is now.
func (f *Firewall) State(ctx context.Context) (State, error) {
	if err := f.take(ctx, "state", nil); err != nil {
		return State{}, err
	}
	defer f.give()
	s, err := f.driver.State(ctx)
	return s, wrap("state", nil, err)
}

// Allow opens ports for peers, all in one step. When it returns, they can be
// reached by them, in every front end; when it fails, nothing has changed.
//
// What another lease of this process has open already is counted, and closes with
// the last one.
func (f *Firewall) Allow(ctx context.Context, rules ...Rule) (*Lease, error) {
	var openings []Opening
	if len(rules) == 0 {
		return nil, &Error{Op: "allow", Kind: ErrInvalid, Detail: "no rule"}
	}
	for _, r := range rules {
		o, err := r.openings()
		if err != nil {
			return nil, err
		}
		openings = append(openings, o...)
	}
	if err := f.take(ctx, "allow", rules); err != nil {
		return nil, err
	}
	defer f.give()
	add, remove := f.ledger.change(openings, +1)
	if err := f.driver.Apply(ctx, add, remove); err != nil {
		f.ledger.change(openings, -1)
		return nil, wrap("allow", rules, err)
	}
	l := &Lease{f: f, rules: slices.Clone(rules), openings: openings}
	for _, command := range l.ByHand() {
		f.log.Warn("the firewall is left alone: unless it lets the peer in already, add the rule by hand", "command", command)
	}
	return l, nil
}

// Close closes every port that is still open, and takes back what it put into
// the host's rules unless another living process needs it. Closing twice is no
// error. On a context that has ended it still works, for 10 seconds at most; if
// it fails, it can be called again.
func (f *Firewall) Close(ctx context.Context) error {
	f.stop()
	f.joined.Wait()
	ctx, cancel := lastWill(ctx)
	defer cancel()
	select {
	case <-f.turn:
	case <-ctx.Done():
		return wrap("close", nil, ctx.Err())
	}
	defer f.give()
	f.closed = true
	if f.done {
		return nil
	}
	if err := f.driver.Close(ctx); err != nil {
		return wrap("close", nil, err)
	}
	f.done = true
	return nil
}

// take waits for the turn.
func (f *Firewall) take(ctx context.Context, op string, rules []Rule) error {
	if err := ctx.Err(); err != nil {
		return wrap(op, rules, err)
	}
	select {
	case <-f.turn:
	case <-ctx.Done():
		return wrap(op, rules, ctx.Err())
	}
	if f.closed {
		f.give()
		return &Error{Op: op, Rules: rules, Kind: ErrClosed}
	}
	return nil
}

func (f *Firewall) give() { f.turn <- struct{}{} }

// watch puts back what others take away.
func (f *Firewall) watch(ctx context.Context) {
	for {
		if err := f.driver.Wait(ctx); err != nil {
			if ctx.Err() == nil {
				f.log.Error("the firewall is no longer watched; a reload of its rules closes the ports", "err", err)
			}
			return
		}
		if f.take(ctx, "repair", nil) != nil {
			return
		}
		err := f.driver.Repair(ctx)
		f.give()
		if err != nil && ctx.Err() == nil {
			f.log.Error("the firewall's rules cannot be put back; trying again", "err", err)
		}
	}
}

// A Lease is ports that stay open until it is closed, or the process ends in
// whatever way.
type Lease struct {
	f        *Firewall
	rules    []Rule
	openings []Opening
	closed   bool // guarded by f.turn
}

// Rules returns what was asked for.
func (l *Lease) Rules() []Rule { return append([]Rule(nil), l.rules...) }

// ByHand returns the commands that an administrator has to type to open the ports,
// in the syntax of each front end that was found, where the Driver leaves that to
// him, as [None] does; else nothing.
func (l *Lease) ByHand() []string { return commands(l.f.byHand, l.rules) }

// Close closes the ports unless another lease of this process has them open.
// Connections that exist go on where the host's rules let established ones
// pass. Closing twice is no error, nor is closing after the Firewall. On a context
// that has ended it still works, for 10 seconds at most; if it fails, it can be
// called again.
func (l *Lease) Close(ctx context.Context) error {
	ctx, cancel := lastWill(ctx)
	defer cancel()
	if err := l.f.take(ctx, "close", l.rules); err != nil {
		if errors.Is(err, ErrClosed) {
			return nil
		}
		return err
	}
	defer l.f.give()
	if l.closed {
		return nil
	}
	add, remove := l.f.ledger.change(l.openings, -1)
	if err := l.f.driver.Apply(ctx, add, remove); err != nil {
		l.f.ledger.change(l.openings, +1)
		return wrap("close", l.rules, err)
	}
	l.closed = true
	return nil
}

// lastWill is the context for giving things back: it ends 10 seconds after ctx.
func lastWill(ctx context.Context) (context.Context, context.CancelFunc) {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(10*time.Second, cancel) })
	return last, func() { stop(); cancel() }
}

func closeAfter(ctx context.Context, d Driver) error {
	ctx, cancel := lastWill(ctx)
	defer cancel()
	return d.Close(ctx)
}

// also is what went wrong, and what went wrong while it was undone, if anything.
func also(err, undo error) error {
	if undo == nil {
		return err
	}
	return errors.Join(err, undo)
}

// wrap makes an Error of err. One that a driver made keeps its kind and hint.
func wrap(op string, rules []Rule, err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) && error(e) == err {
		named := *e
		named.Op = op
		if len(named.Rules) == 0 {
			named.Rules = rules
		}
		if named.Hint == "" && named.Kind != nil && named.FrontEnd != "" {
			named.Hint = byHand([]FrontEnd{named.FrontEnd}, rules)
		}
		return &named
	}
	return &Error{Op: op, Rules: rules, Cause: err}
}
