package sum

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// dialect is how a format says things.
type dialect struct {
	notes         map[Side][]string
	before, after func(Side) []string
	lines         func(s Side, n int, r rule) []string // n: rules for the same ports before
}

func dialectFor(f RuleFormat) dialect {
	none := func(Side) []string { return nil }
	d := dialect{before: none, after: none}
	switch f {
	case RulesNFT:
		d.lines = nftLines
		d.notes = sameNotes("For nft -f. Where the table or the chain that drops has another name than inet filter input (or forward), so must these lines.")
	case RulesIptables:
		d.lines = iptablesLines
		d.notes = sameNotes("They last until the next boot, unless saved as the system does that.")
	case RulesUFW:
		d.lines = ufwLines
		d.notes = sameNotes("For ufw 0.36 and later. They go before other rules, as one that rejects would count before them. One that is there already stays where it is: delete it first if that is behind a rule that rejects.")
	case RulesFirewalld:
		d.lines = firewalldLines
		zone := "They go to the default zone; for another one add --zone=NAME to each line."
		d.notes = map[Side][]string{SideManager: {zone}, SideTarget: {zone}, SideBetween: {
			"They go to a policy of their own, from any zone to any zone, and count from the reload on, which also drops what was set for now only."}}
		d.before = func(s Side) []string {
			if s != SideBetween {
				return nil
			}
			return []string{
				"firewall-cmd --permanent --info-policy=roundsman >/dev/null 2>&1 || firewall-cmd --permanent --new-policy=roundsman",
				"firewall-cmd --permanent --policy=roundsman --add-ingress-zone=ANY",
				"firewall-cmd --permanent --policy=roundsman --add-egress-zone=ANY",
			}
		}
		d.after = func(s Side) []string {
			if s != SideBetween {
				return nil
			}
			return []string{"firewall-cmd --reload"}
		}
	case RulesNetsh:
		d.lines = netshLines
		d.notes = map[Side][]string{SideTarget: {"WMI has the predefined rules DCOM-In, WMI-In and Async-In. Where it is in use the lines below let this manager alone do what they let everybody."}}
	case RulesESXCLI:
		d.notes = sameNotes("For the shell of an ESXi host, not of a vCenter. A rule set that limits no addresses stays so.")
	}
	return d
}

func sameNotes(note string) map[Side][]string {
	out := map[Side][]string{}
	for _, s := range sides {
		out[s] = []string{note}
	}
	return out
}

// sorted returns each prefix once, in order.
func sorted(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, comparePrefixes)
	return slices.Compact(list)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// address is a prefix in the shortest form that every tool takes.
func address(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func addresses(list []netip.Prefix, sep string) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = address(p)
	}
	return strings.Join(out, sep)
}

// span is a port or a range.
func span(first, last uint16, sep string) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprint(first, sep, last)
}

// pairs calls yield for every source and destination; where a rule has no
// destination, with the zero Prefix.
func (r rule) pairs(yield func(from, to netip.Prefix)) {
	to := r.to
	if to == nil {
		to = []netip.Prefix{{}}
	}
	for _, f := range r.from {
		for _, t := range to {
			yield(f, t)
		}
	}
}

func nftLines(s Side, _ int, r rule) []string {
	ip := "ip"
	if r.is6() {
		ip = "ip6"
	}
	set := func(list []netip.Prefix) string {
		if len(list) == 1 {
			return address(list[0])
		}
		return "{ " + addresses(list, ", ") + " }"
	}
	chain, match := "input", fmt.Sprintf("%s saddr %s", ip, set(r.from))
	if s == SideBetween {
		chain = "forward"
		match += fmt.Sprintf(" %s daddr %s", ip, set(r.to))
	}
	if r.sources[0] != 0 {
		match += fmt.Sprintf(" %s sport %s", r.protocol, span(r.sources[0], r.sources[1], "-"))
	}
	return []string{fmt.Sprintf("insert rule inet filter %s %s %s dport %s accept", chain, match, r.protocol, span(r.first, r.last, "-"))}
}

func iptablesLines(s Side, _ int, r rule) []string {
	program, chain := "iptables", "INPUT"
	if r.is6() {
		program = "ip6tables"
	}
	if s == SideBetween {
		chain = "FORWARD"
	}
	var out []string
	r.pairs(func(from, to netip.Prefix) {
		l := fmt.Sprintf("%s -I %s -p %s -s %s", program, chain, r.protocol, address(from))
		if to.IsValid() {
			l += " -d " + address(to)
		}
		if r.sources[0] != 0 {
			l += " --sport " + span(r.sources[0], r.sources[1], ":")
		}
		out = append(out, l+" --dport "+span(r.first, r.last, ":")+" -j ACCEPT")
	})
	return out
}

func ufwLines(s Side, _ int, r rule) []string {
	var out []string
	r.pairs(func(from, to netip.Prefix) {
		verb, dest := "ufw prepend allow", "any"
		if s == SideBetween {
			verb, dest = "ufw route prepend allow", address(to)
		}
		source := ""
		if r.sources[0] != 0 {
			source = " port " + span(r.sources[0], r.sources[1], ":")
		}
		out = append(out, fmt.Sprintf("%s proto %s from %s%s to %s port %s", verb, r.protocol, address(from), source, dest, span(r.first, r.last, ":")))
	})
	return out
}

// firewalldLines has no source ports: a rich rule matches either the one or the
// other.
func firewalldLines(s Side, _ int, r rule) []string {
	family := "ipv4"
	if r.is6() {
		family = "ipv6"
	}
	var out []string
	if r.sources[0] != 0 {
		out = append(out, "# firewalld cannot match the source ports and the port in one rule: it lets any source port in")
	}
	r.pairs(func(from, to netip.Prefix) {
		dest := ""
		if to.IsValid() {
			dest = fmt.Sprintf(` destination address="%s"`, address(to))
		}
		// Before a rule of the zone that rejects what it lets in.
		first := `priority="-1" `
		if s == SideBetween {
			first = "" // the policy as a whole comes before those of zones
		}
		rich := fmt.Sprintf(`--add-rich-rule='rule %sfamily="%s" source address="%s"%s port port="%s" protocol="%s" accept'`,
			first, family, address(from), dest, span(r.first, r.last, "-"), r.protocol)
		if s == SideBetween {
			out = append(out, "firewall-cmd --permanent --policy=roundsman "+rich)
			return
		}
		out = append(out, "firewall-cmd "+rich, "firewall-cmd --permanent "+rich)
	})
	return out
}

// netshAddresses is how many addresses a line may have: cmd.exe takes lines of 8191
// characters, and an IPv6 address has 39.
const netshAddresses = 150

// netshLines names rules by what they let in, whatever else the fleet needs, and says by the
// same names how they go; without blanks, so that neither needs quotes. n is how many rules
// for the same ports came before.
func netshLines(_ Side, n int, r rule) []string {
	var out []string
	for from := range slices.Chunk(r.from, netshAddresses) {
		name := fmt.Sprintf("roundsman-%s-%s", r.protocol, span(r.first, r.last, "-"))
		if n++; n > 1 {
			name += fmt.Sprintf("-part%d", n)
		}
		source := ""
		if r.sources[0] != 0 {
			source = " remoteport=" + span(r.sources[0], r.sources[1], "-")
		}
		service := ""
		if r.first == rpcFirst && r.last == rpcLast { // as WMI-In has it
			service = " service=winmgmt"
		}
		out = append(out,
			"rem to remove it: netsh advfirewall firewall delete rule name="+name,
			fmt.Sprintf(`netsh advfirewall firewall add rule name=%s dir=in action=allow%s protocol=%s localport=%s%s remoteip=%s`,
				name, service, strings.ToUpper(r.protocol), span(r.first, r.last, "-"), source, addresses(from, ",")))
	}
	return out
}

// esxi writes what a flow needs on an ESXi host. Its firewall knows rule sets of
// fixed ports: they are turned on, and where they limit addresses the manager's are
// added. The rule set of port 443 in is never changed otherwise: without it the
// vCenter loses the host.
func (r *ruleWriter) esxi(f Flow, all []Flow) {
	manager := f.From
	set, turnOn := "", true
	switch {
	case f.Direction == ToManager:
		manager = f.To
		if f.First == f.Last && (f.First == 80 || f.First == 443) {
			set = "httpClient"
		}
	case f.First == 5989:
		set = "CIMHttpsServer"
	case f.First == 443:
		set, turnOn = "vSphereClient", false
	}
	way := "in"
	if f.Direction == ToManager {
		way = "out"
	}
	r.remark("%s %s/%s, %s", way, f.Ports(), f.Protocol, f.Purpose)
	if f.Direction == ToTarget && slices.ContainsFunc(all, func(o Flow) bool { return o.Direction == ToTarget && o.To.Host != f.To.Host && f.First != 5989 }) {
		r.remark("That is %s, which is not the host: nothing for it here.", f.To.Host)
		return
	}
	if set == "" {
		r.remark("esxcli cannot open this port: no rule set of ESXi has it, httpClient is 80 and 443 out, and own ones take a VIB.")
		if f.Direction == ToManager {
			r.remark("Ways round it: upload to a datastore, over 443 in; or let the manager serve on 80 or 443, as with --port port=80.")
		}
		return
	}
	const rulesets = "esxcli network firewall ruleset "
	// Behind that column ESXi 8.0 U2 has two more that say true or false.
	on := rulesets + "list --ruleset-id=" + set + " | grep -qE '^ *" + set + " +true' || "
	if turnOn {
		r.add(on + rulesets + "set --ruleset-id=" + set + " --allowed-all=false")
	}
	for _, p := range manager.Addresses {
		r.add(rulesets + "allowedip list --ruleset-id=" + set + " | grep -qw All || " + rulesets + "allowedip add --ruleset-id=" + set + " --ip-address=" + address(p))
	}
	if turnOn {
		if set == "CIMHttpsServer" {
			r.remark("From ESXi 8.0 U2 on the CIM service turns it on itself, where the next line cannot: esxcli system wbem set --enable=true")
		}
		r.add(on + rulesets + "set --ruleset-id=" + set + " --enabled=true")
	}
}
