package portalloc

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const maxPort = 65535

// Policy says which ports a role may have and in which order they are tried.
// The zero Policy turns the role off.
type Policy struct {
	// Prefer is tried first, in this order, and also where the host's
	// administrator has reserved the port: it is named, not searched.
	Prefer []uint16

	// First and Last bound the range, both included, that is tried after Prefer,
	// upwards unless RandomStart or Random is set. Both are zero where there is no
	// range.
	//
	// Ports in it that another role prefers are passed over, and ports that the
	// administrator has reserved (see [SystemReserved]), unless the whole range
	// is: then it was reserved for this role.
	First, Last uint16

	// Overflow goes on above Last, upwards to 65535, when the range has no free
	// port. It passes over ports that belong to other roles or that the
	// administrator has reserved.
	Overflow bool

	// RandomStart begins at a random port of the range and goes upwards from it,
	// after Last on to First, until all have been tried: HP SUM's option for the
	// classic source ports.
	RandomStart bool

	// Random draws every port of the range at random, so that nobody can predict
	// the next one from the last. It excludes RandomStart.
	Random bool
}

// Fixed is the policy of a role that has this port or none.
func Fixed(port uint16) Policy { return Policy{Prefer: []uint16{port}} }

// DefaultPolicies returns the documented ports of a generation. Every role is in
// the map, those that are off with a zero Policy. The map is the caller's own.
//
//	LocalIPC, ManagerToTarget  classic only: 60000-60007 and up, first free
//	TargetToManager            classic only: 61000-61007 and up, first free
//	Agent                      classic only: 62286 and up, first free
//	HTTP                       80, else a random one of 63000-63005
//	Port, SSLPort              63001, 63002
//	FTP                        off
//	Dynamic                    a random one of 1025-65535
func DefaultPolicies(g Generation) map[Role]Policy {
	m := map[Role]Policy{
		LocalIPC:        {},
		ManagerToTarget: {},
		TargetToManager: {},
		Agent:           {},
		HTTP:            {Prefer: []uint16{80}, First: 63000, Last: 63005, Random: true},
		Port:            Fixed(63001),
		SSLPort:         Fixed(63002),
		FTP:             {},
		Dynamic:         {First: 1025, Last: maxPort, Random: true},
	}
	if g == Classic {
		m[LocalIPC] = Policy{First: 60000, Last: 60007, Overflow: true}
		m[ManagerToTarget] = Policy{First: 60000, Last: 60007, Overflow: true}
		m[TargetToManager] = Policy{First: 61000, Last: 61007, Overflow: true}
		m[Agent] = Policy{First: 62286, Last: 62286, Overflow: true}
	}
	return m
}

// String describes the ports, for example "80, then 63000-63005 in random
// order".
func (p Policy) String() string {
	if p.off() {
		return "no port"
	}
	var parts []string
	for _, port := range p.Prefer {
		parts = append(parts, strconv.Itoa(int(port)))
	}
	if p.First != 0 {
		s := Range{p.First, p.Last}.String()
		switch {
		case p.RandomStart:
			s += " from a random start"
		case p.Random:
			s += " in random order"
		}
		if p.Overflow {
			s += " and up"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", then ")
}

func (p Policy) off() bool { return len(p.Prefer) == 0 && p.First == 0 }

// fixed reports that the role has its preferred ports or none, so that no other
// role may have them.
func (p Policy) fixed() bool { return len(p.Prefer) > 0 && p.First == 0 }

// wants returns the ports that others with a choice leave to the role: those it
// prefers, and a range of a single port.
func (p Policy) wants() []uint16 {
	if p.First != 0 && p.First == p.Last && !p.Overflow {
		return append(slices.Clone(p.Prefer), p.First)
	}
	return p.Prefer
}

func (p Policy) check() error {
	for _, port := range p.Prefer {
		if port == 0 {
			return errors.New("port 0 is preferred")
		}
	}
	switch {
	case (p.First == 0) != (p.Last == 0):
		return fmt.Errorf("the range %d-%d has only one end", p.First, p.Last)
	case p.First > p.Last:
		return fmt.Errorf("the range %d-%d runs downwards", p.First, p.Last)
	case p.First == 0 && (p.Overflow || p.RandomStart || p.Random):
		return errors.New("without a range there is nothing to overflow or to choose from at random")
	case p.RandomStart && p.Random:
		return errors.New("RandomStart and Random exclude each other")
	}
	return nil
}

// Range is a run of ports, both ends included.
type Range struct{ First, Last uint16 }

// String returns "80" or "63000-63005".
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r Range) contains(port uint16) bool { return r.First <= port && port <= r.Last }

func (r Range) covers(o Range) bool { return r.First <= o.First && o.Last <= r.Last }

func (r Range) overlaps(o Range) bool { return r.First <= o.Last && o.First <= r.Last }
