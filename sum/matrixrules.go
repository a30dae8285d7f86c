package sum

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// RuleFormat is the language of firewall rules.
type RuleFormat string

// The formats. Each is ready to be pasted, or run as a file, by an administrator.
const (
	RulesNFT       RuleFormat = "nft"       // for nft -f, into the chains input and forward of the table inet filter
	RulesFirewalld RuleFormat = "firewalld" // firewall-cmd, for now and for good
	RulesUFW       RuleFormat = "ufw"       // ufw prepend allow and ufw route prepend allow, of ufw 0.36 and later
	RulesIptables  RuleFormat = "iptables"  // iptables and ip6tables, either kind
	RulesNetsh     RuleFormat = "netsh"     // netsh advfirewall; manager and Windows targets
	RulesESXCLI    RuleFormat = "esxcli"    // for the shell of ESXi hosts; VMware targets
)

var ruleFormats = []RuleFormat{RulesNFT, RulesFirewalld, RulesUFW, RulesIptables, RulesNetsh, RulesESXCLI}

// RuleFormats returns every format.
func RuleFormats() []RuleFormat { return slices.Clone(ruleFormats) }

// Side is whose firewall rules are for.
type Side string

// The sides.
const (
	// SideManager lets in what targets dial on the manager. What the manager dials is
	// in comments: host firewalls let that out, and the answers in.
	SideManager Side = "manager"
	// SideTarget lets in what is dialled on targets, in a section for each set of
	// targets that need the same. Only the targets that have the firewall of the
	// format are served: Linux ones, Windows ones with RulesNetsh, VMware ones with
	// RulesESXCLI. A section is for the targets that it names and no others.
	SideTarget Side = "target"
	// SideBetween forwards what is dialled in both directions, with source,
	// destination and the source ports that matter, on a firewall between networks.
	// Answers are let through there as everywhere: as parts of known connections.
	SideBetween Side = "between"
)

var sides = []Side{SideManager, SideTarget, SideBetween}

// RuleOptions say what rules are written.
type RuleOptions struct {
	Format RuleFormat
	Side   Side // "" is SideManager
	// Optional opens also the ports that are used only if they are open. Else their
	// rules are there as comments.
	Optional bool
}

// openPorts is how many ports of a range without an end are opened: as many as HP
// SUM's documentation has in 60000-60007 and 61000-61007.
const openPorts = 8

// WriteRules writes the rules that let flows through a firewall, merged where
// several targets need the same, and never wider than the flows are. The text from
// targets, such as their names, is in comments only, without any character that
// could end one.
//
// A range without an end is limited to eight ports, or as many as it has, and a
// comment says so. Where firewalld cannot match source ports a comment says that.
//
// The rules of nft, iptables, ufw and firewalld are loaded by these tools in tests, and
// what then gets through is tried on a host, and for nft and iptables on a router. No
// test has Windows or ESXi: the lines of netsh are compared with what its reference
// says, and those of esxcli are run by a shell against a stand-in that answers as ESXi 7.0
// and 8.0 U2 are documented to.
//
// Nothing is written where the address of an end is unknown that a rule needs: the
// error names every such target, and matches ErrInvalid. Sides that a format has no
// rules for are an error that matches errors.ErrUnsupported.
func WriteRules(w io.Writer, flows []Flow, o RuleOptions) error {
	fail := func(err error) error { return &Error{Step: "rules", Err: err} }
	o.Side = cmp.Or(o.Side, SideManager)
	if !slices.Contains(ruleFormats, o.Format) {
		return fail(fmt.Errorf("%w: format %q; want one of %q", ErrInvalid, o.Format, ruleFormats))
	}
	if !slices.Contains(sides, o.Side) {
		return fail(fmt.Errorf("%w: side %q; want one of %q", ErrInvalid, o.Side, sides))
	}
	r := ruleWriter{RuleOptions: o, comment: "#", dialects: dialectFor(o.Format), kind: Linux}
	switch o.Format {
	case RulesNetsh:
		r.comment, r.kind = "rem", Windows
	case RulesESXCLI:
		r.kind = VMware
	}
	if o.Side == SideBetween && (o.Format == RulesNetsh || o.Format == RulesESXCLI) || o.Side == SideManager && o.Format == RulesESXCLI {
		return fail(fmt.Errorf("%w: %s has no rules for the side %q", errors.ErrUnsupported, o.Format, o.Side))
	}
	if err := r.known(flows); err != nil {
		return err
	}
	r.head()
	switch {
	case o.Side == SideTarget:
		r.targets(flows)
	default:
		r.host(flows)
	}
	b := bufio.NewWriter(w)
	end := "\n"
	if o.Format == RulesNetsh {
		end = "\r\n"
	}
	for _, l := range r.lines {
		b.WriteString(l)
		b.WriteString(end)
	}
	if err := b.Flush(); err != nil {
		return fail(err)
	}
	return nil
}

// rule is what is let through, of one family.
type rule struct {
	protocol    string
	first, last uint16
	sources     [2]uint16      // the first and the last, or 0
	from, to    []netip.Prefix // to: nil is the host that has the rule
	optional    bool

	targets []string
	why     string
}

func (r rule) ports() string { return Port{First: r.first, Last: r.last}.Ports() + "/" + r.protocol }

func (r rule) is6() bool { return r.from[0].Addr().Is6() }

// ruleWriter collects lines.
type ruleWriter struct {
	RuleOptions
	dialects dialect
	comment  string
	kind     Kind // of the targets that have such a firewall
	lines    []string
}

// concerns reports whether a flow makes a rule, and for which ends it needs
// addresses.
func (r *ruleWriter) concerns(f Flow) (from, to bool) {
	switch {
	case r.Side == SideBetween:
		return true, true
	case r.Side == SideManager:
		return f.To.Party == PartyManager, false
	case f.Kind != r.kind:
		return false, false
	case f.To.Party == PartyTarget:
		return true, false
	}
	return false, f.To.Party == PartyManager && r.Format == RulesESXCLI
}

// known returns an error for each end whose address is needed and unknown.
func (r *ruleWriter) known(flows []Flow) error {
	var errs []error
	seen := map[[2]string]bool{}
	for _, f := range flows {
		from, to := r.concerns(f)
		for _, end := range []struct {
			peer Peer
			need bool
		}{{f.From, from}, {f.To, to}} {
			key := [2]string{f.Target, end.peer.name()}
			if !end.need || len(end.peer.Addresses) > 0 || seen[key] {
				continue
			}
			seen[key] = true
			errs = append(errs, &Error{Target: f.Target, Step: "rules",
				Err: fmt.Errorf("%w: the address of %s is not known, and a rule without it would be for everybody", ErrInvalid, end.peer.name())})
		}
	}
	return errors.Join(errs...)
}

func (r *ruleWriter) add(lines ...string) { r.lines = append(r.lines, lines...) }

// remark adds a comment. What is no letter, digit or harmless mark in it becomes
// "_". Our own text keeps marks that structure it; what comes from users has gone
// through plain before.
func (r *ruleWriter) remark(format string, args ...any) {
	r.add(r.comment + " " + r.only(" .,:;/@()[]+-_=", fmt.Sprintf(format, args...)))
}

// plain is a name without anything that is more than text where a comment is none:
// an interactive zsh takes "#" for a command that it does not find, and then runs
// what follows a semicolon. The brackets of an address at worst match no file.
func (r *ruleWriter) plain(name string) string { return r.only(" ._:-/@,[]+", name) }

// only replaces what is neither letter, digit nor one of marks. The systems that read
// a file in a code page of their own get no letters but those of ASCII.
func (r *ruleWriter) only(marks, text string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c)), strings.ContainsRune(marks, c):
			return c
		case c > unicode.MaxASCII && r.Format != RulesNetsh && r.Format != RulesESXCLI && c != unicode.ReplacementChar && (unicode.IsLetter(c) || unicode.IsDigit(c)):
			return c
		}
		return '_'
	}, text)
}

// some names a few targets.
func (r *ruleWriter) some(names []string) string {
	var list []string
	for _, n := range names {
		if n = r.plain(n); slices.Contains(list, n) {
			continue
		}
		if len(list) == 8 {
			return strings.Join(list, ", ") + " and others"
		}
		list = append(list, n)
	}
	return strings.Join(list, ", ")
}

func (r *ruleWriter) head() {
	r.remark("roundsman preflight: %s rules, side: %s", r.Format, r.Side)
	r.remark("Answers are not listed: the firewall must let in established connections, as nearly all do.")
	for _, l := range r.dialects.notes[r.Side] {
		r.remark("%s", l)
	}
}

// host writes the rules of the one firewall that all flows are for.
func (r *ruleWriter) host(flows []Flow) {
	var rules []rule
	out := map[string][]string{} // what the manager dials, by port
	var order []string
	for _, f := range flows {
		if from, _ := r.concerns(f); from {
			rules = append(rules, r.rules(f)...)
		} else if f.From.Party == PartyManager {
			key := f.Ports() + "/" + f.Protocol + ", " + f.Purpose
			if out[key] == nil {
				order = append(order, key)
			}
			out[key] = append(out[key], f.Target)
		}
	}
	for _, key := range order {
		r.remark("out to %s: %s", r.some(out[key]), key)
	}
	rules = merge(rules)
	if len(rules) == 0 {
		r.remark("nothing is to be opened")
		return
	}
	r.write(rules, true)
}

// write writes rules with a comment above each.
func (r *ruleWriter) write(rules []rule, names bool) {
	seen := map[string]bool{} // what two purposes need is opened once
	active := slices.ContainsFunc(rules, func(x rule) bool { return !x.optional || r.Optional })
	if active {
		r.add(r.dialects.before(r.Side)...)
	}
	same := map[string]int{} // lines of rules for the same ports
	for _, x := range rules {
		who := ""
		if names {
			who = r.some(x.targets) + ": "
		}
		r.remark("%s%s, %s", who, x.ports(), x.why)
		for _, l := range r.dialects.lines(r.Side, same[x.ports()], x) {
			if !strings.HasPrefix(l, r.comment+" ") {
				same[x.ports()]++
				if x.optional && !r.Optional {
					l = r.comment + " " + l
				}
			}
			if !seen[l] {
				seen[l] = true
				r.add(l)
			}
		}
	}
	if active {
		r.add(r.dialects.after(r.Side)...)
	}
}

// targets writes a section for each set of targets that need the same rules.
func (r *ruleWriter) targets(flows []Flow) {
	type section struct {
		names []string
		lines []string
	}
	var (
		names    []string
		byTarget = map[string][]Flow{}
		others   = map[Kind][]string{} // without such a firewall
		jumps    = map[string]bool{}
	)
	for _, f := range flows {
		name := f.Target
		switch {
		case f.Kind != r.kind:
			others[f.Kind] = append(others[f.Kind], name)
			continue
		case f.To.Party == PartyJumpHost:
			if text := fmt.Sprintf("The jump host %s has to let in %s: %s/%s", r.plain(f.To.Host), r.plain(f.From.name()), f.Ports(), f.Protocol); !jumps[text] {
				jumps[text] = true
				r.remark("%s", text)
			}
			continue
		}
		if byTarget[name] == nil {
			names = append(names, name)
		}
		byTarget[name] = append(byTarget[name], f)
	}
	var sections []*section
	byText := map[string]*section{}
	for _, name := range names {
		s := &section{names: []string{name}, lines: r.section(byTarget[name])}
		text := strings.Join(s.lines, "\n")
		if same := byText[text]; same != nil {
			same.names = append(same.names, name)
			continue
		}
		byText[text] = s
		sections = append(sections, s)
	}
	for _, k := range kinds {
		if len(others[k]) > 0 {
			r.remark("nothing for targets of kind %s here, which have no such firewall: %s", k, r.some(others[k]))
		}
	}
	if len(sections) == 0 {
		r.remark("nothing is to be opened")
	}
	for _, s := range sections {
		r.add("")
		r.remark("On these targets and no others:")
		for part := range slices.Chunk(s.names, 8) {
			r.remark("  %s", r.plain(strings.Join(part, ", ")))
		}
		r.add(s.lines...)
	}
}

// section returns the lines for one target.
func (r *ruleWriter) section(flows []Flow) []string {
	part := &ruleWriter{RuleOptions: r.RuleOptions, dialects: r.dialects, comment: r.comment, kind: r.kind}
	if r.Format == RulesESXCLI {
		flows = slices.Clone(flows)
		for i := range flows { // it is for comments alone
			flows[i].To.Host = r.plain(flows[i].To.Host)
		}
		for _, f := range flows {
			part.esxi(f, flows)
		}
		return part.lines
	}
	var rules []rule
	for _, f := range flows {
		if from, _ := r.concerns(f); from {
			rules = append(rules, r.rules(f)...)
		}
	}
	part.write(merge(rules), false)
	return part.lines
}

// rules returns the rules of a flow, one for each family.
func (r *ruleWriter) rules(f Flow) []rule {
	x := rule{protocol: f.Protocol, first: f.First, last: f.Last, sources: [2]uint16{f.SourceFirst, f.SourceLast},
		optional: f.Need == Optional, targets: []string{f.Target}}
	phases := make([]string, len(f.Phases))
	for i, p := range f.Phases {
		phases[i] = string(p)
	}
	need := string(f.Need)
	if f.Option != "" {
		need = "for " + string(f.Option)
	}
	x.why = fmt.Sprintf("%s (%s; %s)", f.Purpose, strings.Join(phases, ", "), need)
	if f.Open {
		x.last = max(f.Last, uint16(min(65535, int(f.First)+openPorts-1)))
		x.why += fmt.Sprintf("; ends at %d here: where all of these are taken, a higher one serves", x.last)
	}
	if x.sources[0] != 0 {
		x.why += "; from source ports " + f.Sources()
	}
	var out []rule
	for _, six := range []bool{false, true} {
		x.from, x.to = family(f.From.Addresses, six), nil
		if r.Side == SideBetween {
			if x.to = family(f.To.Addresses, six); len(x.to) == 0 {
				continue
			}
		}
		if len(x.from) > 0 {
			out = append(out, x)
		}
	}
	return out
}

func family(list []netip.Prefix, six bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		if p.Addr().Is6() == six {
			out = append(out, p)
		}
	}
	return out
}

// merge makes one rule of those that differ in the sources alone, or in the
// destinations alone: so what they let through together is what each did.
func merge(rules []rule) []rule {
	pass := func(rules []rule, key func(rule) []netip.Prefix, add func(to *rule, r rule)) []rule {
		at := map[string]int{}
		var out []rule
		for _, r := range rules {
			k := fmt.Sprint(r.protocol, " ", r.first, " ", r.last, r.sources, r.optional, r.is6(), r.why, key(r))
			if i, ok := at[k]; ok {
				add(&out[i], r)
				out[i].targets = append(out[i].targets, r.targets...)
				continue
			}
			at[k] = len(out)
			out = append(out, r)
		}
		for i := range out {
			out[i].from, out[i].to = sorted(out[i].from), sorted(out[i].to)
		}
		return out
	}
	rules = pass(rules, func(r rule) []netip.Prefix { return r.to }, func(to *rule, r rule) { to.from = append(to.from, r.from...) })
	return pass(rules, func(r rule) []netip.Prefix { return r.from }, func(to *rule, r rule) { to.to = append(to.to, r.to...) })
}
