package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An ownTable is a table that belongs to a netlink socket: no other process can
// change it, "flush ruleset" passes it over, and the kernel destroys it with the
// socket, that is, at the latest with this process. Its input chains put the mark
// on packets that match an opening.
type ownTable struct {
	conn *nftables.Conn
	raw  *netlink.Conn // of conn
	nftables.Table
	sets [2]*nftables.Set // IPv4, IPv6
}

// errNoOwner: the kernel has no tables with owners (Linux 5.12).
var errNoOwner = &Error{
	Kind:   errors.ErrUnsupported,
	Detail: "this kernel's nftables has no tables that end with the process (Linux 5.12 and later)",
}

// newOwnTable makes the table, with these openings.
func newOwnTable(name string, mark, mask uint32, openings []Opening) (*ownTable, error) {
	t := &ownTable{Table: nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	var err error
	t.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.raw = c
		// One transaction has to fit. Where this is refused, smaller ones do.
		_ = c.SetWriteBuffer(8 << 20)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	if err := t.create(); err != nil {
		_ = t.conn.CloseLasting()
		return nil, err
	}
	if err := t.fill(mark, mask, openings); err != nil {
		_ = t.conn.CloseLasting() // the kernel destroys the table
		return nil, fmt.Errorf("make the chains of table inet %s: %w", name, err)
	}
	return t, nil
}

// create sends the request for the table itself, which the library makes without
// flags.
func (t *ownTable) create() error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner)},
	})
	if err != nil {
		return err
	}
	batch := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	t.deadline()
	_, err = t.raw.SendMessages([]netlink.Message{
		batch(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
		},
		batch(unix.NFNL_MSG_BATCH_END),
	})
	if err == nil {
		_, err = t.raw.Receive()
	}
	return ownerError(t.Name, err)
}

// ownerError tells an old kernel, which refuses the flag, from other errors.
func ownerError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		e := *errNoOwner
		e.Cause = err
		return &e
	}
	return fmt.Errorf("make table inet %s: %w", name, err)
}

// deadline keeps an answer that never comes from blocking for ever.
func (t *ownTable) deadline() { _ = t.raw.SetDeadline(time.Now().Add(10 * time.Second)) }

// fill makes what is in the table: a chain "allow" that marks, and two that call
// it, before every other input chain and once more after the mangle chains,
// which may set marks.
func (t *ownTable) fill(mark, mask uint32, openings []Opening) error {
	address := [2]nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr}
	allow := t.conn.AddChain(&nftables.Chain{Name: "allow", Table: &t.Table})
	for i, name := range []string{"peers4", "peers6"} {
		key, err := nftables.ConcatSetType(address[i], nftables.TypeInetProto, nftables.TypeInetService)
		if err != nil {
			return err
		}
		t.sets[i] = &nftables.Set{Table: &t.Table, ID: uint32(i + 1), Name: name, KeyType: key, Interval: true, Concatenation: true}
		if err := t.conn.AddSet(t.sets[i], nil); err != nil {
			return err
		}
	}
	for i, match := range []struct {
		proto          byte
		offset, length uint32 // of the source address
	}{{unix.NFPROTO_IPV4, 12, 4}, {unix.NFPROTO_IPV6, 8, 16}} {
		// The fields of the key lie in registers one behind the other.
		protocol := unix.NFT_REG32_00 + match.length/4
		t.conn.AddRule(&nftables.Rule{Table: &t.Table, Chain: allow, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{match.proto}},
			&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: match.offset, Len: match.length},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
			&expr.Payload{DestRegister: protocol + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.sets[i].Name, SetID: t.sets[i].ID},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
			&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: native(^mask), Xor: native(mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1},
		}})
	}
	for name, priority := range map[string]*nftables.ChainPriority{
		"first":  nftables.ChainPriorityFirst,
		"mangle": nftables.ChainPriorityRef(*nftables.ChainPriorityMangle + 1),
	} {
		chain := t.conn.AddChain(&nftables.Chain{
			Name: name, Table: &t.Table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: priority,
		})
		t.conn.AddRule(&nftables.Rule{Table: &t.Table, Chain: chain, Exprs: []expr.Any{
			&expr.Verdict{Kind: expr.VerdictJump, Chain: allow.Name},
		}})
	}
	return t.apply(openings, nil)
}

// apply changes the openings in one transaction. After an error the socket's
// state is unknown, and the table must be made anew.
func (t *ownTable) apply(add, remove []Opening) error {
	for _, change := range []struct {
		openings []Opening
		send     func(*nftables.Set, []nftables.SetElement) error
	}{{remove, t.conn.SetDeleteElements}, {add, t.conn.SetAddElements}} {
		var elements [2][]nftables.SetElement
		for _, o := range change.openings {
			i := 0
			if o.From.Addr().Is6() {
				i = 1
			}
			elements[i] = append(elements[i], element(o))
		}
		for i := range elements {
			// The list of a message holds 64 KiB, some 500 elements for IPv6.
			for len(elements[i]) > 0 {
				n := min(len(elements[i]), 256)
				if err := change.send(t.sets[i], elements[i][:n]); err != nil {
					return err
				}
				elements[i] = elements[i][n:]
			}
		}
	}
	t.deadline()
	return t.conn.Flush()
}

// close closes the socket. That alone destroys the table; to delete it before
// makes sure that it is gone now.
func (t *ownTable) close() error {
	t.conn.DelTable(&t.Table)
	t.deadline()
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// element is an opening as a member of a set: from the first to the last address
// of the prefix. Every field fills whole registers of 4 bytes.
func element(o Opening) nftables.SetElement {
	protocol := byte(unix.IPPROTO_TCP)
	if o.Network == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	key := func(a netip.Addr) []byte {
		return append(a.AsSlice(), protocol, 0, 0, 0, byte(o.Port>>8), byte(o.Port), 0, 0)
	}
	return nftables.SetElement{Key: key(o.From.Addr()), KeyEnd: key(last(o.From))}
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
