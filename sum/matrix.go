package sum

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/transport"
)

// PortOption names a use that some rows of the port table are for, those that are
// needed WhenUsed.
type PortOption string

// The options.
const (
	// UseNetBIOS: Windows by NetBIOS names and session service.
	UseNetBIOS PortOption = "netbios"
	// UseWMI: inventories of Windows by WMI (smb.Options.WMI), beside the connection over
	// SMB: port 135, and one of those that it names. What an agent does takes none, and so
	// no deployment does. The Windows firewall has the rules DCOM-In, WMI-In and Async-In
	// for it.
	UseWMI PortOption = "wmi"
	// UseOAFetch: an OA fetches its image from port 80 of the manager.
	UseOAFetch PortOption = "oa-fetch"
	// UseSUM70: SUM 7.0 to 7.2 manages beside this program: its Windows and Linux
	// targets dial back.
	UseSUM70 PortOption = "sum-7.0"
	// UseHPSUM: HP SUM 4 to 6 manages beside this program: rows of the classic
	// tables that nothing here uses, as its web server for Windows and Linux.
	UseHPSUM PortOption = "hp-sum"
)

var portOptions = []PortOption{UseNetBIOS, UseWMI, UseOAFetch, UseSUM70, UseHPSUM}

// PortOptions returns every option.
func PortOptions() []PortOption { return slices.Clone(portOptions) }

// Party says what one end of a Flow is.
type Party string

// The parties.
const (
	PartyManager  Party = "manager"
	PartyTarget   Party = "target" // or the part of it that Target.Object names
	PartyJumpHost Party = "jump-host"
)

// Peer is one end of a Flow.
type Peer struct {
	Party Party `json:"party"`
	// Host is the name or address under which it is known, with its zone; empty for
	// the manager.
	Host string `json:"host,omitempty"`
	// Addresses are what a firewall sees of it. Without any it is unknown. They have
	// no zones, which mean nothing to others.
	Addresses []netip.Prefix `json:"addresses"`
}

// name is for messages.
func (p Peer) name() string {
	if p.Party == PartyManager {
		return "the manager"
	}
	return p.Host
}

// Flow is one row of the matrix of a fleet: who dials whom on behalf of a target.
type Flow struct {
	Target string  `json:"target"` // its name, or its URL
	Kind   Kind    `json:"kind"`
	Phases []Phase `json:"phases"`
	From   Peer    `json:"from"`
	To     Peer    `json:"to"`
	Port
	// SourceLast ends the source ports that SourceFirst begins, else 0.
	SourceLast uint16 `json:"source_last,omitempty"`
	// Option is what a row is for that is needed WhenUsed.
	Option PortOption `json:"option,omitempty"`
	// Role is the role of the manager's port that is dialled, else 0.
	Role portalloc.Role `json:"-"`
}

// Sources returns the source ports as text, or "" where they do not matter.
func (f Flow) Sources() string {
	if f.SourceFirst == 0 {
		return ""
	}
	return portalloc.Range{First: f.SourceFirst, Last: f.SourceLast}.String()
}

// Route is how a target is dialled.
type Route struct {
	// Address is what is dialled instead of Target.Address, in the same form.
	Address string
	// Via are jump hosts, as host or host:port, in the order in which they are
	// reached. They carry the connection of a Linux target, by SSH, and nothing else.
	Via []string
}

// MatrixOptions are the settings that a matrix is for. The zero value has the
// defaults of a Config and knows no address but those that targets have.
type MatrixOptions struct {
	// Phase is the phase to be allowed for; "" is both.
	Phase Phase
	// Generation, Classic, Ports and HTTPRole are those of the Config; "" and nil
	// mean the same as there.
	Generation Generation
	Classic    ClassicOptions
	Ports      map[portalloc.Role]portalloc.Policy
	HTTPRole   portalloc.Role
	// Use names the options in use.
	Use []PortOption
	// All has the rows of every option in the matrix, used or not.
	All bool

	// Manager are the addresses of the manager as targets see them; none is unknown.
	Manager []netip.Addr
	// SeenAs, if set, says as what the target at an address sees the manager; where it
	// says nothing, Manager counts.
	SeenAs func(target netip.Addr) []netip.Addr
	// Lookup, if set, gives the addresses of a host name; none is unknown.
	Lookup func(host string) []netip.Addr
	// Route, if set, says how a target is dialled where its Address alone does not.
	Route func(t Target) Route
}

// Matrix returns what must be open for these targets, and nothing else: who dials
// whom, from and to which ports, in which phase and what for. It starts from
// PortsFor and applies the settings. It dials nothing and looks nothing up: the
// addresses of names, and those of the manager, are the caller's to find.
//
//   - The port in Target.Address replaces the one by which the kind is dialled: SMB
//     for Windows, SSH for Linux and for the devices with a command line, HTTPS for
//     VMware, iLO and Superdome Flex.
//   - What targets fetch over http is at the ports of the role HTTPRole, whichever the
//     table names; an OA and an Integrity server know port 80 only.
//   - Where targets are given one of several ports, each is a row: the manager takes
//     the first that is free. All of them are required then.
//   - Rows of an option are there when MatrixOptions.Use names it; those of WMI, which the
//     table has in both phases, are for inventories alone. Of NetBIOS that of datagrams, which
//     nothing here sends, is there with MatrixOptions.All alone, and that of its sessions
//     where Target.Address names no port.
//   - A host behind a vCenter (Target.Object) is who answers on the CIM port and who
//     dials back. Its addresses are known where the object is an address or a full
//     domain name: no other object name is looked up.
//
// A target that has been understood and cannot work, as a SAS switch at an IPv6
// address or an Integrity server where the settings have no port 80, is an error, as
// is one that is malformed, there twice, or called as another. The errors are those of all targets,
// joined, each an *Error that matches ErrInvalid; the flows of the others are
// returned with them. Local targets have no flows. The order is that of the targets,
// and within one that of the port table.
func Matrix(targets []Target, o MatrixOptions) ([]Flow, error) {
	m, err := newMatrix(targets, o)
	if err != nil {
		return nil, &Error{Step: "matrix", Err: err}
	}
	var (
		out   []Flow
		errs  []error
		seen  = map[string]string{}
		named = map[string]bool{}
	)
	for _, t := range m.targets {
		flows, err := m.target(t)
		other, twice := seen[t.id()]
		switch {
		case err != nil:
		case twice:
			err = fmt.Errorf("%w: the same place as %s", ErrInvalid, other)
		case named[t.key()]:
			err = fmt.Errorf("%w: another target has this name", ErrInvalid)
		}
		seen[t.id()], named[t.key()] = t.key(), true
		if err != nil {
			errs = append(errs, &Error{Target: t.key(), Step: "matrix", Err: err})
			continue
		}
		out = append(out, flows...)
	}
	return out, errors.Join(errs...)
}

// matrix is what all targets of a matrix share.
type matrix struct {
	MatrixOptions
	policies map[portalloc.Role]portalloc.Policy
	phases   []Phase
	targets  []Target // with their kinds as the table spells them
	agents   int      // targets that have one
}

func newMatrix(targets []Target, o MatrixOptions) (*matrix, error) {
	m := &matrix{MatrixOptions: o, phases: []Phase{PhaseInventory, PhaseDeploy}, targets: slices.Clone(targets)}
	switch m.Generation = cmp.Or(o.Generation, Current); {
	case m.Generation != Current && m.Generation != Classic:
		return nil, fmt.Errorf("%w: generation %q; want %q or %q", ErrInvalid, o.Generation, Current, Classic)
	case m.Generation != Classic && o.Classic.set():
		return nil, fmt.Errorf("%w: options for the generation %q, which this is not", ErrInvalid, Classic)
	}
	switch o.Phase {
	case "":
	case PhaseInventory, PhaseDeploy:
		m.phases = []Phase{o.Phase}
	default:
		return nil, fmt.Errorf("%w: phase %q; want %q or %q", ErrInvalid, o.Phase, PhaseInventory, PhaseDeploy)
	}
	for _, u := range o.Use {
		if !slices.Contains(portOptions, u) {
			return nil, fmt.Errorf("%w: option %q; want one of %q", ErrInvalid, u, portOptions)
		}
	}
	var err error
	if m.HTTPRole, err = httpRole(o.HTTPRole, m.Generation); err != nil {
		return nil, fmt.Errorf("%w: the role for payloads over http is %w", ErrInvalid, err)
	}
	for _, a := range o.Manager {
		if !usable(a) {
			return nil, fmt.Errorf("%w: the manager's address %v is none that a target can see", ErrInvalid, a)
		}
	}
	// It checks the policies as it does for a session, and opens nothing.
	ports, err := portalloc.New(portalloc.Config{Generation: m.Generation.ports(), Policies: o.Ports})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	m.policies = portalloc.DefaultPolicies(m.Generation.ports())
	for r := range m.policies {
		m.policies[r] = ports.Policy(r)
	}
	for i := range m.targets {
		t := &m.targets[i]
		if k, err := ParseKind(string(t.Kind)); err == nil {
			t.Kind = k
		}
		if t.Kind == Windows || t.Kind == Linux {
			m.agents++
		}
	}
	return m, nil
}

// usable reports whether an address can be the end of a connection.
func usable(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// hostPortOf splits an address whose host can be dialled.
func hostPortOf(address string, port uint16) (string, uint16, error) {
	host, port, err := transport.Endpoint{Address: address}.HostPort(port)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	case !isHost(host):
		return "", 0, fmt.Errorf("%w: the address %q has no host that can be dialled; want a name, or an IPv4 or IPv6 address", ErrInvalid, address)
	}
	return host, port, nil
}

// isHost reports whether a text is an address or can be a name. Only digits and dots
// are the one or nothing (RFC 1123, section 2.1).
func isHost(s string) bool {
	if strings.ContainsAny(s, ":%") || strings.Trim(s, "0123456789.") == "" {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.Trim(label, hostChars) != "" || strings.ContainsAny(label, "[]") {
			return false
		}
	}
	return len(s) <= 254 // with a dot at the end
}

// dialled is the port by which a kind is dialled: the one of its row that a port in
// a target's address replaces.
func dialled(kind Kind) uint16 {
	switch kind {
	case Windows:
		return 445
	case VMware, ILO, SuperdomeFlex, Redfish:
		return 443
	}
	return 22
}

// target returns the flows of one target.
func (m *matrix) target(t Target) ([]Flow, error) {
	kind := t.Kind
	if !slices.Contains(kinds, kind) {
		return nil, fmt.Errorf("%w: kind %q; want one of %q", ErrInvalid, kind, kinds)
	}
	if kind == Local {
		if t.Address != "" {
			return nil, fmt.Errorf("%w: the manager's own host has no address, and this one has %q", ErrInvalid, t.Address)
		}
		return nil, nil
	}
	var route Route
	if m.Route != nil {
		route = m.Route(t)
	}
	host, port, err := hostPortOf(cmp.Or(route.Address, t.Address), dialled(kind))
	if err != nil {
		return nil, err
	}
	p, err := m.place(kind, host)
	if err != nil {
		return nil, err
	}
	part := p // who has the ports besides the one that is dialled, and dials back
	if kind == VMware && t.Object != "" {
		if part, err = m.part(kind, t.Object); err != nil {
			return nil, err
		}
	}
	_, other, _ := hostPortOf(cmp.Or(route.Address, t.Address), port-1)
	named := other == port // by the address
	hops, err := m.hops(route.Via)
	if err != nil {
		return nil, err
	}

	var out []Flow
	// The first of two rows for one port stays: that by which the kind is dialled
	// comes first in the table.
	add := func(ph Phase, f Flow, at place) {
		f.Target, f.Kind = t.key(), kind
		if f.From.Party == "" { // not the way through jump hosts
			f.From, f.To = at.manager, at.target
			if f.Direction == ToManager {
				f.From, f.To = f.To, f.From
			}
		}
		for i := range out {
			if o := &out[i]; o.Direction == f.Direction && o.Protocol == f.Protocol && o.First == f.First && o.Last == f.Last &&
				o.From.Host == f.From.Host && o.To.Host == f.To.Host {
				if !slices.Contains(o.Phases, ph) {
					o.Phases = append(o.Phases, ph)
				}
				return
			}
		}
		f.Phases = []Phase{ph}
		out = append(out, f)
	}
	for _, ph := range m.phases {
		for _, row := range PortsFor(kind, ph, m.Generation) {
			switch o := option(kind, row); {
			case m.All:
			case o == UseWMI && ph != PhaseInventory,
				o == UseNetBIOS && row.First == 139 && named, // it takes the place of a port that nobody named
				o == UseNetBIOS && row.First == 138:          // nothing here sends datagrams
				continue
			}
			main := row.Direction == ToTarget && row.Protocol == "tcp" && row.First == dialled(kind) && row.Need == Required
			if main {
				row.First, row.Last = port, port
				for i := range hops {
					add(ph, hops[i], p)
				}
			}
			flows, err := m.flows(kind, row)
			if err != nil {
				return nil, err
			}
			for _, f := range flows {
				switch {
				case main && len(hops) > 0:
					last := hops[len(hops)-1].To
					f.From, f.To = narrow(last, p.target), narrow(p.target, last)
					add(ph, f, p)
				case main:
					add(ph, f, p)
				default:
					add(ph, f, part)
				}
			}
		}
	}
	return out, nil
}

// option returns what a row is for that is there only when it is used, else "".
func option(kind Kind, p Port) PortOption {
	switch {
	case p.Need != WhenUsed:
		return ""
	case kind == Windows && p.Direction == ToTarget && p.First == 135:
		return UseWMI
	case kind == Windows && p.Direction == ToTarget && p.First >= 137 && p.First <= 139:
		return UseNetBIOS
	case kind == OA:
		return UseOAFetch
	case p.Direction == ToManager && (p.First == 63001 || p.First == 63002):
		return UseSUM70
	}
	return UseHPSUM
}

// rpcFirst and rpcLast are the dynamic ports of RPC on Windows since Vista and Server
// 2008, unless somebody gave it others (rpccfg).
const rpcFirst, rpcLast = 49152, math.MaxUint16

// flows applies the settings to a row of the table.
func (m *matrix) flows(kind Kind, p Port) ([]Flow, error) {
	f := Flow{Port: p, Option: option(kind, p)}
	if f.Option != "" && !m.All && !slices.Contains(m.Use, f.Option) {
		return nil, nil
	}
	moves := p.First == 1025 && p.Last == math.MaxUint16
	switch {
	case moves && m.Classic.Stay:
		return nil, nil
	case f.Option == UseWMI:
		named := f
		named.First, named.Last, named.Purpose = rpcFirst, rpcLast, "WMI, on the one of these ports that port 135 names (RPC)"
		return []Flow{f, named}, nil
	case p.Direction == ToTarget:
		return m.sources(f)
	case moves:
		return m.listens(f, portalloc.Dynamic)
	case p.First == 61000:
		return m.listens(f, portalloc.TargetToManager)
	case p.First == 63002:
		return m.listens(f, portalloc.SSLPort)
	case f.Option == UseSUM70:
		return m.listens(f, portalloc.Port)
	case f.Option == UseHPSUM:
		return m.listens(f, portalloc.HTTP)
	case p.First == 80 && (kind == OA || kind == Integrity):
		for _, r := range []portalloc.Role{m.HTTPRole, portalloc.Port, portalloc.HTTP} {
			if slices.Contains(m.policies[r].Prefer, 80) {
				f.Role = r
				return []Flow{f}, nil
			}
		}
		return nil, fmt.Errorf("%w: it fetches from port 80 of the manager and no other, and the settings have that for nobody: %s is %v, %s is %v", ErrInvalid,
			portalloc.Port, m.policies[portalloc.Port], portalloc.HTTP, m.policies[portalloc.HTTP])
	}
	if kind == Redfish {
		return m.listens(f, m.HTTPRole)
	}
	if f.First == 80 || f.First == 63000 { // two rows for what is one policy here
		f.Purpose = "payloads to the target, status from it (HTTP)"
	}
	f.Need = Required // whichever port the manager gets
	return m.listens(f, m.HTTPRole)
}

// sources fills in the source ports where they matter.
func (m *matrix) sources(f Flow) ([]Flow, error) {
	if f.SourceFirst == 0 {
		return []Flow{f}, nil
	}
	p := m.policies[portalloc.ManagerToTarget]
	first, last := p.First, p.Last
	for _, port := range p.Prefer {
		if first == 0 {
			first, last = port, port
		}
		first, last = min(first, port), max(last, port)
	}
	if first == 0 {
		return nil, fmt.Errorf("%w: the role %v has no port to dial from", ErrInvalid, portalloc.ManagerToTarget)
	}
	if p.Overflow {
		last = math.MaxUint16
	}
	f.SourceFirst, f.SourceLast = first, last
	if f.First == 62286 {
		f.Purpose = "agent (SOAP over TLS)" // the table's text has source ports
	}
	return []Flow{f}, nil
}

// ifFree ends the purpose of a port that is one of several.
const ifFree = ", if free"

// listens gives a row the ports of a role of the manager.
func (m *matrix) listens(f Flow, r portalloc.Role) ([]Flow, error) {
	p := m.policies[r]
	f.Role, f.Open = r, false
	var out []Flow
	add := func(first, last uint16) {
		f := f
		f.First, f.Last = first, last
		out = append(out, f)
	}
	for _, port := range p.Prefer {
		add(port, port)
	}
	switch {
	case p.First == 0:
	case r == portalloc.Dynamic || p.Overflow:
		last := p.Last
		if r == portalloc.TargetToManager && m.Classic.PortPerTarget && p.Overflow {
			last = uint16(min(math.MaxUint16, max(int(last), int(p.First)+m.agents-1)))
		}
		add(p.First, last)
		out[len(out)-1].Open = p.Overflow
	default:
		// What other roles prefer is passed over: the web server never takes "port"
		// and "ssl_port".
		first := int(p.First)
		for port := first; port <= int(p.Last)+1; port++ {
			if port <= int(p.Last) && !m.preferred(r, uint16(port)) {
				continue
			}
			if port > first {
				add(uint16(first), uint16(port-1))
			}
			first = port + 1
		}
	}
	// Without a way back of its own an agent is asked, and stays where it is.
	if len(out) == 0 && f.Need == Required && r != portalloc.TargetToManager {
		return nil, fmt.Errorf("%w: it dials a port of the role %v on the manager, which the settings have turned off", ErrInvalid, r)
	}
	if purpose := f.Purpose; len(out) > 1 {
		for i := range out {
			out[i].Purpose = purpose + ifFree
		}
	}
	return out, nil
}

// preferred reports whether a role other than r insists on a port or begins with it.
func (m *matrix) preferred(r portalloc.Role, port uint16) bool {
	for other, p := range m.policies {
		if other != r && slices.Contains(p.Prefer, port) {
			return true
		}
	}
	return false
}
