package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Netlink attributes and flags: include/uapi/linux/netfilter/nf_tables.h.
const (
	tableOwner   = 0x2 // NFT_TABLE_F_OWNER
	tableDormant = 0x1 // NFT_TABLE_F_DORMANT
)

// A table is one of the host's tables.
type table struct {
	nftables.Table
	owned   bool // by the socket of a living process
	alive   bool // one of ours whose owner lives
	dormant bool
}

// A ruleset is the tables and chains of the host at one moment.
type ruleset struct {
	tables []table
	chains []*nftables.Chain
}

func (r *ruleset) table(t *nftables.Table) table {
	for _, have := range r.tables {
		if have.Name == t.Name && have.Family == t.Family {
			return have
		}
	}
	return table{Table: *t}
}

// list reads all tables and chains.
func list() (*ruleset, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	r := &ruleset{}
	for _, t := range tables {
		// The flags are big-endian, and v0.3.0 of the library reads them as native.
		flags := t.Flags | bits.ReverseBytes32(t.Flags)
		have := table{Table: *t, owned: flags&tableOwner != 0, dormant: flags&tableDormant != 0}
		if strings.HasPrefix(t.Name, tablePrefix) {
			have.alive = have.owned
			if !have.owned {
				if have.alive, err = hasElements(t, aliveSet); err != nil {
					return nil, err
				}
			}
		}
		r.tables = append(r.tables, have)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyUnspecified)
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	for _, c := range chains {
		if c.Table != nil {
			r.chains = append(r.chains, c)
		}
	}
	return r, nil
}

// A rule is what matters here of a rule of the host: rules of others hold
// expressions that no library knows.
type rule struct {
	handle  uint64
	comment string
	mark    uint32   // of a gate: what it compares
	mask    uint32   // of a gate: in which bits
	drops   bool     // an expression of it drops or rejects
	jumps   []string // chains
}

// chainRules reads the rules of a chain.
func chainRules(c *nftables.Chain) ([]rule, error) {
	messages, err := dump(unix.NFT_MSG_GETRULE, c.Table, []netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(c.Table.Name + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(c.Name + "\x00")},
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of %s: %w", chainName(c), err)
	}
	var rules []rule
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		r, err := decodeRule(m.Data[4:])
		if err != nil {
			return nil, fmt.Errorf("a rule of %s: %w", chainName(c), err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// dump requests what is in a table.
func dump(request uint16, t *nftables.Table, about []netlink.Attribute) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	attrs, err := netlink.MarshalAttributes(about)
	if err != nil {
		return nil, err
	}
	return conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | request),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
}

// hasElements reports whether a set is there and not empty. What has timed out is
// no longer an element.
func hasElements(t *nftables.Table, set string) (bool, error) {
	messages, err := dump(unix.NFT_MSG_GETSETELEM, t, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00")},
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list the set %s of table %s: %w", set, t.Name, err)
	}
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return false, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS && len(ad.Bytes()) > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

func decodeRule(b []byte) (rule, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return rule{}, err
	}
	ad.ByteOrder = binary.BigEndian
	r := rule{mask: 0xffffffff}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_HANDLE:
			r.handle = ad.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.comment = ruleComment(ad.Bytes())
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					ad.Nested(r.decodeExpression)
				}
				return ad.Err()
			})
		}
	}
	return r, ad.Err()
}

// ruleComment finds the comment in a rule's user data: a sequence of type, length,
// value, as nft writes it. Others may write anything there.
func ruleComment(b []byte) string {
	for len(b) >= 2 && len(b)-2 >= int(b[1]) {
		if value := b[2 : 2+int(b[1])]; b[0] == byte(userdata.TypeComment) {
			return strings.TrimSuffix(string(value), "\x00")
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func (r *rule) decodeExpression(ad *netlink.AttributeDecoder) error {
	name := ""
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
			r.drops = r.drops || name == "reject"
		case unix.NFTA_EXPR_DATA:
			switch name {
			case "immediate":
				ad.Nested(r.decodeImmediate)
			case "bitwise":
				ad.Nested(number(unix.NFTA_BITWISE_MASK, &r.mask))
			case "cmp":
				ad.Nested(number(unix.NFTA_CMP_DATA, &r.mark))
			case "target": // of xtables
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.NFTA_TARGET_NAME {
							t := ad.String()
							r.drops = r.drops || t == "DROP" || t == "REJECT"
						}
					}
					return ad.Err()
				})
			}
		}
	}
	return ad.Err()
}

// number reads the value of 4 bytes, in native order, that an attribute holds.
func number(attribute uint16, v *uint32) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() != attribute {
				continue
			}
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if b := ad.Bytes(); ad.Type() == unix.NFTA_DATA_VALUE && len(b) == 4 {
						*v = binary.NativeEndian.Uint32(b)
					}
				}
				return ad.Err()
			})
		}
		return ad.Err()
	}
}

func (r *rule) decodeImmediate(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				if ad.Type() != unix.NFTA_DATA_VERDICT {
					continue
				}
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						switch ad.Type() {
						case unix.NFTA_VERDICT_CODE:
							r.drops = r.drops || int32(ad.Uint32()) == int32(expr.VerdictDrop)
						case unix.NFTA_VERDICT_CHAIN:
							r.jumps = append(r.jumps, ad.String())
						}
					}
					return ad.Err()
				})
			}
			return ad.Err()
		})
	}
	return ad.Err()
}

// canDrop reports whether a base chain can drop by its policy, or a rule of it or
// of a chain that it jumps to. Jumps through verdict maps are not followed.
func (r *ruleset) canDrop(base *nftables.Chain) (bool, error) {
	if base.Policy != nil && *base.Policy == nftables.ChainPolicyDrop {
		return true, nil
	}
	seen := map[string]bool{}
	next := []string{base.Name}
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		rules, err := chainRules(&nftables.Chain{Table: base.Table, Name: name})
		if err != nil {
			return false, err
		}
		for _, rule := range rules {
			if rule.drops {
				return true, nil
			}
			next = append(next, rule.jumps...)
		}
	}
	return false, nil
}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyBridge: "bridge",
}

func chainName(c *nftables.Chain) string {
	return strings.Join([]string{"chain", familyNames[c.Table.Family], c.Table.Name, c.Name}, " ")
}

// isIP reports whether a table sees IP packets on their way to this host.
func isIP(t *nftables.Table) bool {
	return slices.Contains([]nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}, t.Family)
}

func hooked(c *nftables.Chain, hooks ...*nftables.ChainHook) bool {
	return c.Hooknum != nil && slices.ContainsFunc(hooks, func(h *nftables.ChainHook) bool { return *h == *c.Hooknum })
}
