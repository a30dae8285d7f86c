package firewall

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// A place is an input chain of others, where a gate belongs. It changes under the
// gate's lock.
type place interface {
	has(g *gate) (bool, error)
	add(ctx context.Context, g *gate) error
	// remove removes the gates of every mark and owner.
	remove(ctx context.Context, g *gate) ([]Leftover, error)
	String() string
}

// gatePrefix begins the comment of every gate; the owner that put it there follows.
// A gate serves all living owners, whoever that was.
const gatePrefix = "roundsman-gate/"

// tablePrefix begins the names of tables that belong to owners; a number and the
// owner follow.
const tablePrefix = "roundsman."

func leftover(f FrontEnd, what, owner string) Leftover {
	o, _ := parseOwner(owner)
	return Leftover{FrontEnd: f, What: what, Owner: o}
}

// A survey is what was found on the host.
type survey struct {
	rules     *ruleset
	places    []place
	firewalld bool
	strays    []place // with gates from before they were firewalld's
}

// look finds every input chain that can drop a packet for this host and that we
// can change.
func look(ctx context.Context) (*survey, error) {
	rules, err := list()
	if err != nil {
		return nil, err
	}
	s := &survey{rules: rules}
	for _, c := range rules.chains {
		if !isIP(c.Table) || !hooked(c, nftables.ChainHookInput) || c.Type != nftables.ChainTypeFilter {
			continue
		}
		t := rules.table(c.Table)
		switch {
		case strings.HasPrefix(t.Name, tablePrefix) || t.owned || t.dormant:
		case t.Name == "firewalld":
		case ofIptables(c):
			if c.Table.Name != "filter" {
				continue
			}
			p, ok := findIptables(ctx, IptablesNFT, t.Family == nftables.TableFamilyIPv6)
			if ok && p.read(ctx) == nil {
				s.add(p)
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			// Without the program, or with rules in the table that it cannot read,
			// nobody saves and restores them with it: the name is all that is alike.
			fallthrough
		default:
			s.places = append(s.places, nativeChain{c})
		}
	}
	if slices.ContainsFunc(rules.tables, func(t table) bool { return t.Name == "firewalld" && isIP(&t.Table) }) {
		s.firewalld = true
	}
	for _, v6 := range []bool{false, true} {
		tables, err := legacyTables(v6)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(tables, "filter") {
			continue
		}
		p, ok := findIptables(ctx, IptablesLegacy, v6)
		if !ok {
			return nil, &Error{
				FrontEnd: IptablesLegacy, Detail: "the kernel filters with rules of legacy iptables, and the program to change them is not installed",
				Hint: "install iptables-legacy",
			}
		}
		if err := p.read(ctx); err != nil {
			return nil, err
		}
		if !p.idle { // a table that is merely loaded, as by a program that only looked, drops nothing
			s.add(p)
		}
	}
	return s, nil
}

// add adds a chain of iptables, unless it is firewalld's.
func (s *survey) add(p iptables) {
	switch {
	case !p.firewalld:
		s.places = append(s.places, p)
	case len(p.gates) > 0:
		s.strays = append(s.strays, p)
		fallthrough
	default:
		s.firewalld = true
	}
}

// ofIptables reports whether a chain has the name of one that iptables-nft makes.
func ofIptables(c *nftables.Chain) bool {
	return c.Name == strings.ToUpper(c.Name) && c.Table.Family != nftables.TableFamilyINet &&
		slices.Contains([]string{"filter", "mangle", "raw", "security", "nat"}, c.Table.Name)
}

// frontEnds are those that are active.
func (s *survey) frontEnds(ctx context.Context) ([]FrontEnd, error) {
	var all []FrontEnd
	found := func(f FrontEnd) {
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	ufw := ufwEnabled()
	for _, p := range s.places {
		switch p := p.(type) {
		case nativeChain:
			found(NFT)
		case iptables:
			if ufw && p.hasChain(ctx, "ufw-user-input", "ufw6-user-input") {
				found(UFW)
			} else if err := ctx.Err(); err != nil {
				return nil, err
			} else {
				found(p.frontEnd)
			}
		}
	}
	if s.firewalld {
		found(Firewalld)
	}
	slices.Sort(all)
	return all, nil
}

// state tells what was found.
func (s *survey) state(ctx context.Context) (State, error) {
	frontEnds, err := s.frontEnds(ctx)
	if err != nil {
		return State{}, err
	}
	state := State{FrontEnds: frontEnds, Owners: s.owners()}
	for _, c := range s.rules.chains {
		why := s.overrides(c)
		if why == "" {
			continue
		}
		drops, err := s.rules.canDrop(c)
		if err != nil {
			return State{}, err
		}
		if drops {
			state.Blocks = append(state.Blocks, Block{Where: chainName(c), Why: why})
		}
	}
	blocks, err := legacyBlocks(ctx)
	state.Blocks = append(state.Blocks, blocks...)
	return state, err
}

// overrides says why a chain counts in spite of the gates, or "".
func (s *survey) overrides(c *nftables.Chain) string {
	if c.Hooknum == nil || strings.HasPrefix(c.Table.Name, tablePrefix) {
		return ""
	}
	t := s.rules.table(c.Table)
	switch {
	case t.dormant, t.Name == "firewalld":
		return ""
	case c.Table.Family == nftables.TableFamilyNetdev:
		if hooked(c, nftables.ChainHookIngress) {
			return "hook ingress comes before the input chains"
		}
	case c.Table.Family == nftables.TableFamilyBridge:
		if hooked(c, nftables.ChainHookPrerouting, nftables.ChainHookInput) {
			return "filters of a bridge come before the input chains"
		}
	case !isIP(c.Table):
	case hooked(c, nftables.ChainHookRef(5)): // NF_INET_INGRESS
		return "hook ingress comes before the input chains"
	case hooked(c, nftables.ChainHookPrerouting):
		return "hook prerouting comes before the input chains"
	case !hooked(c, nftables.ChainHookInput):
	case t.owned:
		return "the table belongs to another program"
	case ofIptables(c) && c.Table.Name != "filter" && c.Type == nftables.ChainTypeFilter:
		return "only the table filter of iptables is opened"
	}
	return ""
}

// legacyBlocks finds drops in tables of legacy iptables other than filter.
func legacyBlocks(ctx context.Context) ([]Block, error) {
	var blocks []Block
	for _, v6 := range []bool{false, true} {
		tables, err := legacyTables(v6)
		if err != nil {
			return nil, err
		}
		for _, name := range tables {
			if name == "filter" {
				continue
			}
			p, ok := findIptables(ctx, IptablesLegacy, v6)
			if !ok {
				break
			}
			out, err := p.run(ctx, nil, "-t", name, "-S")
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				if len(f) < 3 || f[1] == "OUTPUT" || f[1] == "FORWARD" || f[1] == "POSTROUTING" {
					continue
				}
				if f[0] == "-P" && f[2] == "DROP" || f[0] == "-A" && (strings.Contains(line, " -j DROP") || strings.Contains(line, " -j REJECT")) {
					blocks = append(blocks, Block{
						Where: fmt.Sprintf("chain %s of table %s of legacy iptables", f[1], name),
						Why:   "only the table filter of iptables is opened",
					})
				}
			}
		}
	}
	return slices.CompactFunc(blocks, func(a, b Block) bool { return a == b }), nil
}

// ufwEnabled reports whether ufw is to be active, as ufw.conf has it.
func ufwEnabled() bool {
	b, err := os.ReadFile("/etc/ufw/ufw.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if strings.EqualFold(strings.TrimSpace(line), "ENABLED=yes") {
			return true
		}
	}
	return false
}

// ownerOf returns whose table it is, if it is one of ours.
func ownerOf(t table) (Owner, bool) {
	name, ok := strings.CutPrefix(t.Name, tablePrefix)
	if !ok || t.Family != nftables.TableFamilyINet {
		return Owner{}, false
	}
	_, name, _ = strings.Cut(name, "-")
	return parseOwner(name)
}

// A nativeChain is an input chain of a table that nft administers.
type nativeChain struct{ chain *nftables.Chain }

func (n nativeChain) String() string { return chainName(n.chain) }

func (n nativeChain) has(g *gate) (bool, error) {
	rules, err := chainRules(n.chain)
	return slices.ContainsFunc(rules, func(r rule) bool {
		return strings.HasPrefix(r.comment, gatePrefix) && r.mark == g.mark && r.mask == g.mask
	}), err
}

func (n nativeChain) add(_ context.Context, g *gate) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	exprs := []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}}
	if g.mask != 0xffffffff {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(g.mask), Xor: native(0)})
	}
	conn.InsertRule(&nftables.Rule{
		Table: n.chain.Table, Chain: n.chain,
		Exprs: append(exprs,
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(g.mark)},
			&expr.Verdict{Kind: expr.VerdictAccept}),
		UserData: userdata.AppendString(nil, userdata.TypeComment, gatePrefix+g.owner.String()),
	})
	if err := conn.Flush(); err != nil {
		return &Error{FrontEnd: NFT, Cause: fmt.Errorf("insert a rule in %s: %w", n, err)}
	}
	return nil
}

func (n nativeChain) remove(context.Context, *gate) ([]Leftover, error) {
	rules, err := chainRules(n.chain)
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var left []Leftover
	for _, r := range rules {
		owner, ok := strings.CutPrefix(r.comment, gatePrefix)
		if !ok {
			continue
		}
		if err := conn.DelRule(&nftables.Rule{Table: n.chain.Table, Chain: n.chain, Handle: r.handle}); err != nil {
			return nil, err
		}
		left = append(left, leftover(NFT, "gate in "+n.String(), owner))
	}
	if err := conn.Flush(); err != nil {
		return nil, &Error{FrontEnd: NFT, Cause: fmt.Errorf("delete a rule of %s: %w", n, err)}
	}
	return left, nil
}
