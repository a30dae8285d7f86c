package firewall

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A defenderRule is a rule of Windows Defender Firewall that is ours: one port,
// for a list of peers.
type defenderRule struct {
	port port
	from []netip.Prefix // sorted; empty: there may be such a rule, but there should not
	// remote is the list as the host wrote it after it was set. Windows has forms of
	// its own, and others' changes are seen by comparing.
	remote string
	// aside is the name that the rule got, or should have got, to be removed by; "" if
	// that is done.
	aside string
}

// A change is what a rule is to become.
type change struct {
	name          string
	port          port
	before, after []netip.Prefix
}

// perRule is how many peers a rule has at most. No limit is documented; rules with
// thousands of addresses are known to be slow.
const perRule = 200

// defenderGroup is the Grouping of our rules, by which administrators find them.
const defenderGroup = "roundsman"

// defenderPrefix begins the names of an owner's rules. Names need not be unique in
// Windows, but Item and Remove go by them: the instance tells the Firewalls of one
// process apart. What else bears such a name is a copy that somebody made.
func defenderPrefix(o Owner, instance string) string {
	return fmt.Sprintf("roundsman:%s:%d:%s:%s ", o.Run, o.PID, o.Start, instance)
}

// asideName is a name that no other rule has. Whose the rule is can still be read.
func asideName(name string) string {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // it never fails
	return name + " closing " + hex.EncodeToString(id)
}

// plainPath is a path as rules have it, without the prefix of those that are not
// parsed: "Naming Files, Paths, and Namespaces", Win32.
func plainPath(path string) string {
	if share, ok := strings.CutPrefix(path, `\\?\UNC\`); ok {
		return `\\` + share
	}
	return strings.TrimPrefix(path, `\\?\`)
}

// defenderOwner reads whose a rule is from its name.
func defenderOwner(name string) (Owner, bool) {
	head, _, ok := strings.Cut(name, " ")
	parts := strings.Split(head, ":")
	if !ok || len(parts) != 5 || parts[0] != "roundsman" || !runName.MatchString(parts[1]) || parts[3] == "" {
		return Owner{}, false
	}
	pid, err := strconv.Atoi(parts[2])
	if err != nil || pid <= 0 {
		return Owner{}, false
	}
	return Owner{Run: parts[1], PID: pid, Start: parts[3]}, true
}

// planRules says which rules change, what opens before what closes: an opening that
// takes the place of another is there first.
func planRules(prefix string, rules map[string]*defenderRule, add, remove []Opening) []change {
	after := map[string][]netip.Prefix{}
	ports := map[string]port{}
	for name, r := range rules {
		after[name], ports[name] = slices.Clone(r.from), r.port
	}
	touched := map[string]bool{}
	for _, o := range remove {
		for name, from := range after {
			if i := slices.Index(from, o.From); i >= 0 && ports[name] == (port{o.Network, o.Port}) {
				after[name], touched[name] = slices.Delete(from, i, i+1), true
			}
		}
	}
	for _, o := range add {
		p := port{o.Network, o.Port}
		name := roomFor(prefix, p, after, ports, touched)
		after[name], ports[name], touched[name] = append(after[name], o.From), p, true
	}
	var changes []change
	for _, name := range slices.Sorted(maps.Keys(touched)) {
		c := change{name: name, port: ports[name], after: after[name]}
		if r := rules[name]; r != nil {
			c.before = r.from
		}
		slices.SortFunc(c.after, comparePrefixes)
		changes = append(changes, c)
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.order(), b.order()) })
	return changes
}

// order is 0 for a change that opens something.
func (c change) order() int {
	if slices.ContainsFunc(c.after, func(p netip.Prefix) bool { return !slices.Contains(c.before, p) }) {
		return 0
	}
	return 1
}

// roomFor is the name of the rule that takes one more peer: one that changes
// anyway, then another, then a new one.
func roomFor(prefix string, p port, after map[string][]netip.Prefix, ports map[string]port, touched map[string]bool) string {
	free := ""
	for n := 1; ; n++ {
		name := prefix + strconv.Itoa(int(p.number)) + "/" + p.network
		if n > 1 {
			name += " #" + strconv.Itoa(n)
		}
		if _, ok := ports[name]; !ok {
			return cmp.Or(free, name)
		}
		if len(after[name]) < perRule {
			if touched[name] {
				return name
			}
			free = cmp.Or(free, name)
		}
	}
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// remoteAddresses writes peers as INetFwRule::put_RemoteAddresses takes them. All
// addresses of one family are a range, because a prefix of length 0 is not
// documented; "*" is those of both.
func remoteAddresses(from []netip.Prefix) string {
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	if slices.Contains(from, all4) && slices.Contains(from, all6) {
		return "*"
	}
	tokens := make([]string, 0, len(from))
	for _, p := range from {
		switch {
		case p == all4:
			tokens = append(tokens, "0.0.0.0-255.255.255.255")
		case p == all6:
			tokens = append(tokens, "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		case p.IsSingleIP():
			tokens = append(tokens, p.Addr().String())
		default:
			tokens = append(tokens, p.String())
		}
	}
	return strings.Join(tokens, ",")
}

// A put is a property of an object and the value that it gets.
type put struct {
	name  string
	value any
}

// Values of icftypes.h.
const (
	fwTCP       int32 = 6
	fwUDP       int32 = 17
	fwAny       int32 = 256
	fwIn        int32 = 1
	fwBlock     int32 = 0
	fwAllow     int32 = 1
	fwDomain    int32 = 1
	fwPrivate   int32 = 2
	fwPublic    int32 = 4
	fwAll       int32 = 0x7fffffff
	fwOverride  int32 = 1 // NET_FW_MODIFY_STATE_GP_OVERRIDE
	fwInBlocked int32 = 2 // NET_FW_MODIFY_STATE_INBOUND_BLOCKED
)

// rulePuts are the properties of a new rule, in an order that Windows takes: the
// protocol before the ports.
func rulePuts(name, app string, o Owner, p port, from []netip.Prefix) []put {
	protocol := fwTCP
	if p.network == "udp" {
		protocol = fwUDP
	}
	return []put{
		{"Name", name},
		{"Description", fmt.Sprintf("Opened by process %d for its run %q, and removed when that ends. The next roundsman removes it if the process was killed.", o.PID, o.Run)},
		{"ApplicationName", app},
		{"Protocol", protocol},
		{"LocalPorts", strconv.Itoa(int(p.number))},
		{"RemoteAddresses", remoteAddresses(from)},
		{"Direction", fwIn},
		{"Profiles", fwAll},
		{"EdgeTraversal", false},
		{"Grouping", defenderGroup},
		{"Action", fwAllow},
		{"Enabled", true},
	}
}
