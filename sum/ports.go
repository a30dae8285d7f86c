package sum

import (
	"fmt"
	"slices"
)

// Phase is a part of the life of an update that needs ports.
type Phase string

// The phases.
const (
	PhaseInventory Phase = "inventory"
	PhaseDeploy    Phase = "deploy"
)

// Generation chooses between the ways of SUM 7.3 and later (Current, the
// default) and of HP SUM 4 to 6 (Classic).
type Generation string

// The generations.
const (
	Current Generation = "current"
	Classic Generation = "classic"
)

// Direction says who dials.
type Direction string

// The directions.
const (
	ToTarget  Direction = "to-target"
	ToManager Direction = "to-manager"
)

// Need says whether a row can do without the port.
type Need string

// The needs.
const (
	Required Need = "required"
	Optional Need = "optional"  // used if it is open
	WhenUsed Need = "when-used" // only for the option that Purpose names
)

// Port is one row of the port table: who dials whom, from and to which ports.
type Port struct {
	Direction Direction `json:"direction"`
	Protocol  string    `json:"protocol"` // "tcp" or "udp"
	First     uint16    `json:"first"`    // destination port, or the first of a range
	Last      uint16    `json:"last"`     // the last of the range; First for one port
	// Open says that the range has no fixed end: the next free port is taken.
	Open bool `json:"open,omitempty"`
	// SourceFirst is the first source port where the source port matters, else 0.
	SourceFirst uint16 `json:"source_first,omitempty"`
	Need        Need   `json:"need"`
	Purpose     string `json:"purpose"`
}

// Ports returns the destination port or range as text, such as "22" or "63000-63005".
func (p Port) Ports() string {
	s := fmt.Sprint(p.First)
	if p.Last != p.First {
		s += fmt.Sprint("-", p.Last)
	}
	if p.Open {
		s += "+"
	}
	return s
}

func to(port uint16, need Need, purpose string) Port {
	return Port{Direction: ToTarget, Protocol: "tcp", First: port, Last: port, Need: need, Purpose: purpose}
}

func toUDP(port uint16, need Need, purpose string) Port {
	p := to(port, need, purpose)
	p.Protocol = "udp"
	return p
}

func back(port uint16, need Need, purpose string) Port {
	p := to(port, need, purpose)
	p.Direction = ToManager
	return p
}

// PortsFor returns the rows of SUM's published port tables for a kind of target:
// what must be open between it and the manager in this phase. Rows that dial the
// target come first. The local host needs none. Superdome Flex came after the
// classic generation; its classic rows are the current ones.
//
// Sources: the port tables of the SUM 7.3 and later help pages for Current, of
// the HP SUM 4 to 6 user guides for Classic. Integrity servers are ours: as iLO,
// and with port 80 of the manager for what they fetch. So is [Redfish], which
// stands for services of any maker (DMTF DSP0266).
func PortsFor(kind Kind, phase Phase, gen Generation) []Port {
	var rows []Port
	switch kind {
	case Windows:
		rows = []Port{
			to(445, Required, "SMB: files, service control, agent channel"),
			to(135, WhenUsed, wmiPurpose(phase)),
			to(139, WhenUsed, "NetBIOS session service"),
			toUDP(137, WhenUsed, "NetBIOS names"),
			toUDP(138, WhenUsed, "NetBIOS datagrams"),
		}
	case Linux:
		rows = []Port{to(22, Required, "SSH: files, commands, agent channel")}
	case VMware:
		rows = []Port{
			to(443, Required, "vSphere API"),
			to(5989, Required, "CIM-XML over HTTPS"),
			back(63001, Required, "payloads to the host, status from it (HTTP)"),
		}
	case OA, SuperdomeX, ILO, VC, FCSwitch, SASSwitch, Integrity:
		rows = []Port{
			to(22, Required, "SSH command line"),
			to(443, Required, "HTTPS management interface"),
			to(80, Optional, "HTTP management interface"),
		}
		if kind == ILO {
			const without = ", for SUM (Redfish does without)"
			rows[0].Purpose += without
			rows[1].Purpose += " (Redfish)"
			rows[2].Purpose += without
		}
	case SuperdomeFlex, Redfish:
		rows = []Port{to(443, Required, "Redfish")}
	}
	if phase == PhaseDeploy {
		rows = append(rows, deployBack(kind, gen)...)
	}
	if gen == Classic {
		rows = append(rows, classicRows(kind)...)
	}
	// Stable: rows to the target before rows to the manager.
	slices.SortStableFunc(rows, func(a, b Port) int {
		switch {
		case a.Direction == b.Direction:
			return 0
		case a.Direction == ToTarget:
			return -1
		}
		return 1
	})
	return rows
}

// wmiPurpose is what port 135 of a Windows server is for. SUM's table has it in both
// phases.
func wmiPurpose(phase Phase) string {
	if phase == PhaseDeploy {
		return "WMI (DCOM), in the table of SUM: nothing here takes it to deploy"
	}
	return "WMI (DCOM), for an inventory without an agent; it names a further port"
}

// deployBack returns what a target dials on the manager while it is updated.
func deployBack(kind Kind, gen Generation) []Port {
	http := []Port{back(63001, Required, "payloads to the target, status from it (HTTP)")}
	https := back(63002, Required, "payloads to the target, status from it (HTTPS)")
	if gen == Classic {
		http = webServer()
	}
	switch kind {
	case OA:
		return []Port{back(80, WhenUsed, "the OA fetches an image by URL")}
	case SuperdomeX:
		if gen == Classic {
			return http
		}
		return append(http, https)
	case ILO, VC, FCSwitch, SASSwitch:
		return http
	case SuperdomeFlex:
		return []Port{https}
	case Redfish:
		for i := range http {
			http[i].Need, http[i].Purpose = Optional, "payloads, where the service fetches them instead of taking them (HTTP)"
		}
		return http
	case Integrity:
		if gen == Classic {
			http = http[1:] // its first row is port 80 again
		}
		return append([]Port{back(80, Required, "the server fetches its firmware (no other port will do)")}, http...)
	}
	return nil
}

// webServer is the classic web server of the manager: port 80 where that is
// free, else one of a small range.
func webServer() []Port {
	pool := back(63000, Required, "payloads and logs, where port 80 is taken (HTTP)")
	pool.Last = 63005
	return []Port{back(80, Optional, "payloads and logs (HTTP)"), pool}
}

// classicRows returns what the classic agent conversation adds.
func classicRows(kind Kind) []Port {
	if kind != Windows && kind != Linux {
		return nil
	}
	rows := []Port{
		{Direction: ToTarget, Protocol: "tcp", First: 62286, Last: 62286, Open: true, SourceFirst: 60000,
			Need: Required, Purpose: "agent, from source ports 60000 and up (SOAP over TLS)"},
		{Direction: ToManager, Protocol: "tcp", First: 61000, Last: 61007, Open: true,
			Need: Required, Purpose: "status from the agent (TLS)"},
		{Direction: ToTarget, Protocol: "tcp", First: 1025, Last: 65535, SourceFirst: 60000,
			Need: Optional, Purpose: "where the conversation with the agent moves to, unless it is to stay"},
		{Direction: ToManager, Protocol: "tcp", First: 1025, Last: 65535,
			Need: Optional, Purpose: "where status from the agent moves to, unless it is to stay"},
		back(63001, WhenUsed, "status to SUM 7.0 to 7.2 (HTTP)"),
		back(63002, WhenUsed, "status to SUM 7.0 to 7.2 (HTTPS)"),
	}
	for _, p := range webServer() {
		p.Need, p.Purpose = WhenUsed, "payloads and logs of HP SUM itself; here they go through the agent (HTTP)"
		rows = append(rows, p)
	}
	if kind == Windows {
		rows = append(rows,
			to(22, WhenUsed, "inventory over SSH (HP SUM 6.0)"),
			to(443, WhenUsed, "secure data port (HP SUM 6.0)"))
	}
	return rows
}
