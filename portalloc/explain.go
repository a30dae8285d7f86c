package portalloc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"
)

// holderTime bounds the search for the programs that hold ports: a host with
// many processes must not turn a clear error into a wait.
const holderTime = 2 * time.Second

// exhausted makes the error of a plan of which no port could be had. The full
// list of reasons is worked out here and not during the search, which is to be
// fast when it succeeds.
func (a *Allocator) exhausted(ctx context.Context, op string, pl plan, tried map[uint16]Skip) *Error {
	p := pl.policy
	e := &Error{Op: op, Role: pl.role, Policy: p, Kind: ErrExhausted}
	if pl.preferOnly {
		e.Policy = Policy{Prefer: p.Prefer}
	}

	ctx, cancel := context.WithTimeout(ctx, holderTime)
	defer cancel()
	busy := make(map[uint16][]Holder)
	for port, s := range tried {
		if s.Reason == Busy {
			busy[port] = nil
		}
	}
	findHolders(ctx, busy)

	add := func(port uint16, spans []span) {
		s, ok := tried[port]
		if !ok {
			s = a.whyNot(port, spans)
		}
		if s.Reason == Busy {
			s.Holders = busy[port]
		}
		e.Skips = appendSkip(e.Skips, s)
	}
	for _, port := range p.Prefer {
		add(port, pl.near)
	}
	if p.First != 0 && !pl.preferOnly {
		for port := int(p.First); port <= int(p.Last); port++ {
			add(uint16(port), pl.near)
		}
		for port := int(p.Last) + 1; p.Overflow && port <= maxPort; port++ {
			add(uint16(port), pl.open)
		}
	}
	a.judge(e, pl)
	return e
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

// judge turns a list of reasons into the kind of error and the advice.
func (a *Allocator) judge(e *Error, pl plan) {
	if pl.policy.fixed() || pl.preferOnly {
		e.Kind = ErrBusy
		e.Advice = "stop what has the port, or give the role another one in Config.Policies"
		if pl.preferOnly && !pl.policy.fixed() {
			e.Advice = "stop what has the port: the target asks for this port and no other"
		}
		allDenied := true
		for _, s := range e.Skips {
			allDenied = allDenied && s.Reason == Denied
			if e.Cause == nil {
				e.Cause = s.Err
			}
			if s.Reason == OtherRole {
				e.Advice = fmt.Sprintf("use the listener of role %s, or give that role another port", s.Role)
			}
		}
		if allDenied {
			e.Kind, e.Advice = fs.ErrPermission, deniedAdvice
		}
		return
	}
	e.Advice = "stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies"
	own := Range{pl.policy.First, pl.policy.Last}
	if eph, ok := ephemeralPorts(); ok && pl.role != Dynamic && own.overlaps(eph) {
		e.Advice += "; outgoing connections of this host also use this range: " + reserveAdvice(own)
	}
}

// failed makes the error of a system call that no other port can help.
func failed(op string, pl plan, err error) *Error {
	e := &Error{Op: op, Role: pl.role, Policy: pl.policy, Cause: err}
	switch {
	case noDescriptors(err):
		e.Advice = "raise the limit of open files of this process or host"
	case addrNotHere(err):
		e.Advice = "the address does not belong to this host"
	case errors.Is(err, fs.ErrPermission):
		e.Kind = fs.ErrPermission
		e.Advice = "a security policy of this host keeps the program from using the port"
	}
	return e
}

// stopped makes the error of a call whose context ended.
func stopped(op string, pl plan, ctx context.Context) *Error {
	e := &Error{Op: op, Role: pl.role, Policy: pl.policy, Kind: ctx.Err()}
	if cause := context.Cause(ctx); cause != ctx.Err() {
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

// reserveAdvice is only ever offered: the package changes no setting of a host.
func reserveAdvice(r Range) string {
	if runtime.GOOS == "windows" {
		return fmt.Sprintf("netsh int ipv4 add excludedportrange protocol=tcp startport=%d numberofports=%d", r.First, int(r.Last)-int(r.First)+1)
	}
	return fmt.Sprintf("reserve it with sysctl net.ipv4.ip_local_reserved_ports=%s", r)
}
