package portalloc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"
)

// holderTime is for Allocator.holderTime: a host with many processes must not turn
// a clear error into a wait.
const holderTime = 2 * time.Second

// shortage is what there is to say about a plan of which no port could be had,
// but for the holders.
type shortage struct {
	op    string
	pl    plan
	skips []Skip // by port; those that are Busy or Denied one by one
}

// shortage notes why each port of the plan was not used. It is worked out here
// and not during the search, which is to be fast when it succeeds.
func (a *Allocator) shortage(op string, pl plan, tried map[uint16]Skip) *shortage {
	s := &shortage{op: op, pl: pl}
	listed := make(map[uint16]bool) // preferred ports may lie in the range too
	add := func(port uint16, spans []span) {
		if listed[port] {
			return
		}
		skip, ok := tried[port]
		if !ok {
			skip = a.whyNot(port, spans)
		}
		if skip.Reason == Busy || skip.Reason == Denied { // by whom comes later
			s.skips = append(s.skips, skip)
		} else {
			s.skips = appendSkip(s.skips, skip)
		}
	}
	p := pl.policy
	for _, port := range p.Prefer {
		add(port, pl.prefer)
		listed[port] = true
	}
	if p.First != 0 && !pl.preferOnly {
		for port := int(p.First); port <= int(p.Last); port++ {
			add(uint16(port), pl.near)
		}
		for port := int(p.Last) + 1; p.Overflow && port <= maxPort; port++ {
			add(uint16(port), pl.open)
		}
	}
	return s
}

// whyNot names the reason for a port that was never tried.
func (a *Allocator) whyNot(port uint16, spans []span) Skip {
	one := Range{port, port}
	if s, ok := within(spans, port); ok {
		return Skip{Range: one, Reason: s.reason, Role: s.role}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return Skip{Range: one, Reason: Held, Role: a.roles[port]}
}

// explain looks for the holders of busy ports and makes the error. The caller
// does not have the turn: the search takes time.
func (a *Allocator) explain(ctx context.Context, s *shortage) *Error {
	e := &Error{Op: s.op, Role: s.pl.role, Policy: s.pl.policy}
	if s.pl.preferOnly {
		e.Policy = Policy{Prefer: s.pl.policy.Prefer}
	}
	ctx, cancel := context.WithTimeout(ctx, a.holderTime)
	defer cancel()
	defer context.AfterFunc(a.ended, cancel)()
	holders := make(map[uint16][]Holder)
	for _, skip := range s.skips {
		if skip.Reason == Busy || skip.Reason == Denied && deniedMayBeBusy {
			holders[skip.First] = nil
		}
	}
	err := findHolders(ctx, holders)
	for _, skip := range s.skips {
		if h := holders[skip.First]; skip.Reason == Denied && len(h) > 0 && h[0].State == "LISTEN" {
			skip.Reason = Busy
		}
		if skip.Reason == Busy {
			skip.Holders = holders[skip.First]
		}
		e.Skips = appendSkip(e.Skips, skip)
	}
	judge(e, s.pl)
	if len(holders) > 0 {
		e.advise(holderAdvice(e.Skips, err))
	}
	return e
}

// judge turns a list of reasons into the kind of error and the advice.
func judge(e *Error, pl plan) {
	all := func(reasons ...Reason) bool {
		for _, s := range e.Skips {
			found := false
			for _, r := range reasons {
				found = found || s.Reason == r
			}
			if !found {
				return false
			}
		}
		return true
	}
	denied, otherRole := Skip{}, Skip{}
	for _, s := range e.Skips {
		switch {
		case s.Reason == Denied && denied.Reason == 0:
			denied = s
		case s.Reason == OtherRole && otherRole.Reason == 0:
			otherRole = s
		}
	}
	never := []Reason{OtherRole, Excluded, SystemReserved, SelfConnect} // were not even tried
	if !pl.policy.fixed() && !pl.preferOnly {
		e.Kind = ErrExhausted
		switch {
		case all(never...):
			e.advise("nothing is left for the role: widen its range in Config.Policies")
		case denied.Reason != 0 && all(append(never, Denied)...):
			e.Kind, e.Cause = fs.ErrPermission, denied.Err
			e.advise(deniedAdvice(denied.First))
		case all(append(never, Held)...):
			e.advise("close leases that are no longer needed, or widen the range in Config.Policies")
		default:
			e.advise("stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies")
			own := Range{pl.policy.First, pl.policy.Last}
			if eph, ok := ephemeralPorts(); ok && pl.role != Dynamic && own.overlaps(eph) && !reserved(own) {
				e.advise("outgoing connections of this host also use this range: " + reserveAdvice(own))
			}
		}
		return
	}

	e.Kind = ErrBusy
	for _, s := range e.Skips {
		if e.Cause == nil {
			e.Cause = s.Err
		}
	}
	switch {
	case all(Excluded):
		e.Kind = ErrInvalid
		e.advise("take the port out of Config.Exclude, or give the role another one in Config.Policies")
	case all(Denied):
		e.Kind = fs.ErrPermission
		e.advise(deniedAdvice(denied.First))
	case all(Held):
		e.advise("this program has the port already: use that lease, or close it")
	case otherRole.Reason != 0:
		e.advise(fmt.Sprintf("use the listener of role %s, or give that role another port in Config.Policies", otherRole.Role))
	case pl.asked || pl.preferOnly && !pl.policy.fixed():
		e.advise("stop what has the port: the target asks for this port and no other")
	default:
		e.advise("stop what has the port, or give the role another one in Config.Policies")
	}
}

// holderAdvice says how to find out about holders of busy ports that remain
// unknown, or "" if there is none.
func holderAdvice(skips []Skip, searched error) string {
	if errors.Is(searched, errors.ErrUnsupported) {
		return "lsof -nP -iTCP shows which programs have ports"
	}
	if searched != nil {
		return fmt.Sprintf("which programs have the ports was not found out: %v", searched)
	}
	nameless := false
	for _, s := range skips {
		if s.Reason != Busy {
			continue
		}
		nameless = nameless || len(s.Holders) == 0
		for _, h := range s.Holders {
			if h.hidden() {
				return hiddenAdvice()
			}
		}
	}
	if nameless {
		return "where no program is named, a socket that does not listen is bound to the port, or it has been closed by now"
	}
	return ""
}

// failed makes the error of a system call that no other port can help.
func failed(op string, pl plan, err error) *Error {
	e := &Error{Op: op, Role: pl.role, Policy: pl.policy, Cause: err}
	switch {
	case noDescriptors(err):
		e.Advice = "raise the limit of open files of this process or host"
	case addrNotHere(err):
		e.Advice = "the address does not belong to this host"
	case noFamily(err):
		e.Advice = "this host, or the sandbox of this process, does not have the address family: ask for the other one only, in Options"
	case errors.Is(err, fs.ErrPermission):
		e.Kind = fs.ErrPermission
		e.Advice = "a security policy of this host keeps the program from opening sockets"
	}
	return e
}

// stopped makes the error of a call whose context ended.
func stopped(op string, pl plan, ctx context.Context) *Error {
	e := &Error{Op: op, Role: pl.role, Policy: pl.policy, Kind: ctx.Err()}
	switch cause := context.Cause(ctx); {
	case cause == ErrClosed:
		e.Kind = ErrClosed // the caller's own context goes on
	case cause != ctx.Err():
		e.Cause = cause
	}
	return e
}

// appendSkip adds one port, joined to the last run where it continues it.
func appendSkip(skips []Skip, s Skip) []Skip {
	if n := len(skips); n > 0 {
		last := &skips[n-1]
		if int(last.Last)+1 == int(s.First) && last.Reason == s.Reason && last.Role == s.Role && sameHolders(last.Holders, s.Holders) {
			last.Last = s.Last
			return skips
		}
	}
	return append(skips, s)
}

func sameHolders(a, b []Holder) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// reserved reports that the administrator has reserved the whole range.
func reserved(r Range) bool {
	for _, x := range reservedPorts() {
		if x.covers(r) {
			return true
		}
	}
	return false
}

// reserveAdvice is only ever offered: the package changes no setting of a host.
func reserveAdvice(r Range) string {
	if runtime.GOOS == "windows" {
		return fmt.Sprintf("reserve it with netsh int ipv4 add excludedportrange protocol=tcp startport=%d numberofports=%d", r.First, int(r.Last)-int(r.First)+1)
	}
	return fmt.Sprintf("reserve it, that is add %s to the sysctl net.ipv4.ip_local_reserved_ports", r)
}
