package sum

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// FindingCode says what a Finding is about. Codes are stable: programs may rely on
// them. They go with a Severity: one that is Passed says that what the code names is
// not so, as "busy" where no other manager works.
type FindingCode string

// The codes. Those of ports have a direction.
const (
	FindReached     FindingCode = "reached"          // it answers
	FindRefused     FindingCode = "refused"          // a TCP reset: nobody listens, or a firewall rejects
	FindFiltered    FindingCode = "filtered"         // no answer: a firewall drops, or nobody is there
	FindNoRoute     FindingCode = "no-route"         // the network, or a firewall, says that there is no way
	FindNoName      FindingCode = "unknown-name"     // the name has no address
	FindService     FindingCode = "wrong-service"    // something else answers
	FindIdentity    FindingCode = "wrong-identity"   // another than is known of it
	FindUnknown     FindingCode = "unknown-identity" // nothing is known to compare it with
	FindLogin       FindingCode = "wrong-credentials"
	FindNoPassword  FindingCode = "no-password"     // nobody has given the password that is needed
	FindRights      FindingCode = "no-elevation"    // the login is good, and does not get the rights (sudo)
	FindInvalid     FindingCode = "invalid"         // how the target is given, or what it is to be reached with, makes no sense
	FindTimeout     FindingCode = "timeout"         // it answers, and does not come to an end of the login
	FindUnreachable FindingCode = "unreachable"     // for a reason that is not known
	FindConnLost    FindingCode = "connection-lost" // in the midst of the login
	FindFailed      FindingCode = "failed"          // what was tried failed in another way
	FindUntried     FindingCode = "untried"         // nobody could try
	FindUnsupported FindingCode = "unsupported"     // there is no driver for the kind
	FindTaken       FindingCode = "port-taken"      // another program has a port
	FindFirewall    FindingCode = "firewall"        // a host's firewall is in the way, or cannot be opened
	FindDenied      FindingCode = "denied"          // the manager's own system does not let it have a port

	FindNotRoot   FindingCode = "not-root"
	FindSpace     FindingCode = "no-space"
	FindNoExec    FindingCode = "noexec"
	FindPolicy    FindingCode = "policy"       // SELinux, fapolicyd
	FindDirectory FindingCode = "no-directory" // for the agent, for another reason
	FindBinary    FindingCode = "no-binary"    // no agent for the target's system
	FindClock     FindingCode = "clock"
	FindBusy      FindingCode = "busy" // a job runs, of another manager or a killed run, or a restart is due
)

// Severity says what follows from a Finding.
type Severity string

// The severities.
const (
	Passed Severity = "passed" // as it should be
	Notice Severity = "notice" // worth knowing
	Blocks Severity = "blocks" // work would fail
)

// Finding is one thing that Preflight found out about a target.
type Finding struct {
	Code     FindingCode `json:"code"`
	Severity Severity    `json:"severity"`
	// Direction, Protocol and Port say which way it is about; Port 0 is none.
	Direction Direction `json:"direction,omitempty"`
	Protocol  string    `json:"protocol,omitempty"`
	Port      uint16    `json:"port,omitempty"`
	// Sample says that Port is one of many that may be used, and another each time.
	Sample bool `json:"sample,omitempty"`
	// Addr is what was dialled, as host:port.
	Addr string `json:"addr,omitempty"`
	// Text says what was found, Advice what can be done.
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
	// Err is the error that it was found by, or nil.
	Err error `json:"-"`
}

// String is one line for operators.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(string(f.Code))
	if f.Port != 0 {
		fmt.Fprintf(&b, " %s %d/%s", f.Direction, f.Port, f.Protocol)
	}
	b.WriteString(": " + f.Text)
	if f.Advice != "" {
		b.WriteString("; " + f.Advice)
	}
	return b.String()
}

// toPort is a finding of a port of the target, which the manager dials.
func toPort(port uint16, addr string) Finding {
	return Finding{Direction: ToTarget, Protocol: "tcp", Port: port, Addr: addr}
}

// backPort is a finding of a port of the manager, which the target dials.
func backPort(port uint16, addr string) Finding {
	return Finding{Direction: ToManager, Protocol: "tcp", Port: port, Addr: addr}
}

// as completes a finding.
func (f Finding) as(code FindingCode, s Severity, text, advice string) Finding {
	f.Code, f.Severity, f.Text, f.Advice = code, s, text, advice
	return f
}

// reached completes a finding of a port by how its dial ended. bad is the severity
// where it was not reached.
func (f Finding) reached(how, said string, bad Severity) Finding {
	who, other := "the target", "the manager"
	if f.Direction == ToManager {
		who, other = other, who
	}
	way := fmt.Sprintf("%s to %s, TCP port %d", other, f.Addr, f.Port)
	if host, _, err := net.SplitHostPort(f.Addr); err == nil {
		way = fmt.Sprintf("%s to %s at %s, TCP port %d", other, who, host, f.Port)
	}
	with := ""
	if said != "" {
		with = " (" + said + ")"
	}
	switch how {
	case agent.ReachedPeer:
		return f.as(FindReached, Passed, "from "+way+": reached", "")
	case agent.ReachedRefused:
		return f.as(FindRefused, bad, "from "+way+": refused"+with,
			fmt.Sprintf("nothing listens there, or a firewall rejects: start the service, or let %s through to that port", other))
	case agent.ReachedForbids:
		return f.as(FindFirewall, bad, "from "+way+": the firewall of "+other+" does not let it out"+with, fmt.Sprintf("let %s send to that port", other))
	case agent.ReachedNothing:
		return f.as(FindFiltered, bad, "from "+way+": no answer"+with,
			fmt.Sprintf("a firewall drops what %s sends, or the address is nobody's: let %s through to that port, on the host and in between", other, other))
	case agent.ReachedNoRoute:
		return f.as(FindNoRoute, bad, "from "+way+": no route"+with, "mend the routes of both hosts and of the network between them; a firewall that rejects by ICMP looks the same")
	}
	return f.as(FindFailed, bad, "from "+way+": failed"+with, "")
}

// hostPort joins an address and a port.
func hostPort(a netip.Addr, port uint16) string {
	return netip.AddrPortFrom(a.Unmap(), port).String()
}
