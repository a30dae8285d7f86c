package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An ownTable is a table of this process. Its input chains take the mark from packets
// that others gave it, and put it on those that match an opening. There are two kinds:
//
//   - One that belongs to a netlink socket: no other process can change it, "flush
//     ruleset" passes it over, and the kernel destroys it with the socket, that
//     is, at the latest with this process.
//   - A timed one, for kernels that have no such tables: its openings end by
//     themselves after a time, unless they are renewed before. So does the element
//     of the set "alive", by which others see that its owner lives.
type ownTable struct {
	conn *nftables.Conn
	raw  *netlink.Conn // of conn
	nftables.Table
	ttl        time.Duration // of a timed table; else 0
	mark, mask uint32
	allow      *nftables.Chain
	alive      *nftables.Set // of a timed table
	sets       map[length]*nftables.Set
}

// A length is that of the prefixes of one family. Each has a set and a rule
// that masks a packet's source: sets of ranges that are concatenated with a port
// came to the kernel (Linux 5.6) later than sets with timeouts did (4.1).
type length struct {
	v6   bool
	bits int
}

func (b length) String() string {
	if b.v6 {
		return fmt.Sprintf("peers6_%d", b.bits)
	}
	return fmt.Sprintf("peers4_%d", b.bits)
}

// aliveSet is the name of the set in a timed table that is empty when its owner is
// dead.
const aliveSet = "alive"

// errNoOwner: the kernel has no tables with owners (Linux 5.12).
var errNoOwner = &Error{
	Kind:   errors.ErrUnsupported,
	Detail: "this kernel's nftables has no tables that end with the process (Linux 5.12 and later)",
}

// newOwnTable makes the table, with these openings; with a ttl a timed one, else one
// with the flag that ties it to the socket.
func newOwnTable(name string, flag uint32, ttl time.Duration, mark, mask uint32, openings []Opening) (*ownTable, error) {
	t := &ownTable{
		Table: nftables.Table{Name: name, Family: nftables.TableFamilyINet},
		ttl:   ttl, mark: mark, mask: mask, sets: map[length]*nftables.Set{},
	}
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
	if ttl == 0 {
		err = t.create(flag)
	} else {
		t.conn.AddTable(&t.Table)
	}
	if err == nil {
		if err = t.fill(openings); err != nil {
			err = fmt.Errorf("make the chains of table inet %s: %w", name, err)
		}
	}
	if err != nil {
		_ = t.conn.CloseLasting() // the kernel destroys the table that the socket owns
		return nil, err
	}
	return t, nil
}

// create sends the request for the table itself, which the library makes without
// flags.
func (t *ownTable) create(flag uint32) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flag)},
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

// fill makes what is in the table: a chain "allow" that marks, a chain "strip" that
// takes away a mark that is not from us, and those that call them, before every
// other input chain and once more after the mangle chains, which may set marks. The
// tables of all managers strip at one priority and mark at the next, so that none
// strips what another has marked.
func (t *ownTable) fill(openings []Opening) error {
	t.allow = t.conn.AddChain(&nftables.Chain{Name: "allow", Table: &t.Table})
	strip := t.conn.AddChain(&nftables.Chain{Name: "strip", Table: &t.Table})
	t.conn.AddRule(&nftables.Rule{Table: &t.Table, Chain: strip, Exprs: append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: native(t.mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: native(t.mark)},
	}, t.setMark(0)...)})
	if t.ttl > 0 {
		t.alive = &nftables.Set{Table: &t.Table, ID: 1, Name: aliveSet, KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian, HasTimeout: true}
		if err := t.conn.AddSet(t.alive, t.sign()); err != nil {
			return err
		}
	}
	for name, priority := range map[string]nftables.ChainPriority{
		"first":  *nftables.ChainPriorityFirst,
		"mangle": *nftables.ChainPriorityMangle + 1,
	} {
		for i, calls := range []*nftables.Chain{strip, t.allow} {
			chain := t.conn.AddChain(&nftables.Chain{
				Name: name + "_" + calls.Name, Table: &t.Table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(priority + nftables.ChainPriority(i)),
			})
			t.conn.AddRule(&nftables.Rule{Table: &t.Table, Chain: chain, Exprs: []expr.Any{
				&expr.Verdict{Kind: expr.VerdictJump, Chain: calls.Name},
			}})
		}
	}
	return t.apply(openings, nil)
}

// setMark sets our bits of a packet's mark.
func (t *ownTable) setMark(to uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: native(^t.mask), Xor: native(to)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1},
	}
}

// sign is the sign of life of a timed table.
func (t *ownTable) sign() []nftables.SetElement {
	return []nftables.SetElement{{Key: native(t.mark), Timeout: t.ttl}}
}

// set returns the set for prefixes of a length. One that is not there yet is made in the next
// transaction, with the rule that looks into it.
func (t *ownTable) set(b length) (*nftables.Set, error) {
	if s := t.sets[b]; s != nil {
		return s, nil
	}
	proto, offset, size, address := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4), nftables.TypeIPAddr
	if b.v6 {
		proto, offset, size, address = unix.NFPROTO_IPV6, 8, 16, nftables.TypeIP6Addr
	}
	key, err := nftables.ConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	s := &nftables.Set{Table: &t.Table, ID: uint32(len(t.sets) + 2), Name: b.String(), KeyType: key, HasTimeout: t.ttl > 0}
	if err := t.conn.AddSet(s, nil); err != nil {
		return nil, err
	}
	t.sets[b] = s
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{proto}},
		&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if b.bits < int(size)*8 {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: size,
			Mask: ones(b.bits, int(size)), Xor: make([]byte, size),
		})
	}
	// The fields of the key lie in registers one behind the other.
	protocol := unix.NFT_REG32_00 + size/4
	exprs = append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: protocol + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: s.Name, SetID: s.ID})
	t.conn.AddRule(&nftables.Rule{Table: &t.Table, Chain: t.allow, Exprs: append(exprs, t.setMark(t.mark)...)})
	return s, nil
}

// apply changes the openings in one transaction. After an error the socket's
// state is unknown, and the table must be made anew.
func (t *ownTable) apply(add, remove []Opening) error {
	if err := t.change(remove, t.conn.SetDeleteElements); err != nil {
		return err
	}
	if err := t.change(add, t.conn.SetAddElements); err != nil {
		return err
	}
	t.deadline()
	return t.conn.Flush()
}

// renew lets the openings of a timed table last for another ttl, in one
// transaction. Kernels before 6.13 leave an element's time as it is when it is
// added again, so it is deleted in between; and added before, because it may
// have ended.
func (t *ownTable) renew(openings []Opening) error {
	for _, send := range []func(*nftables.Set, []nftables.SetElement) error{
		t.conn.SetAddElements, t.conn.SetDeleteElements, t.conn.SetAddElements,
	} {
		if err := send(t.alive, t.sign()); err != nil {
			return err
		}
		if err := t.change(openings, send); err != nil {
			return err
		}
	}
	t.deadline()
	return t.conn.Flush()
}

// change puts openings into the next transaction.
func (t *ownTable) change(openings []Opening, send func(*nftables.Set, []nftables.SetElement) error) error {
	elements := map[*nftables.Set][]nftables.SetElement{}
	for _, o := range openings {
		s, err := t.set(length{o.From.Addr().Is6(), o.From.Bits()})
		if err != nil {
			return err
		}
		elements[s] = append(elements[s], t.element(o))
	}
	for s, all := range elements {
		// The list of a message holds 64 KiB, some 700 elements for IPv6.
		for len(all) > 0 {
			n := min(len(all), 256)
			if err := send(s, all[:n]); err != nil {
				return err
			}
			all = all[n:]
		}
	}
	return nil
}

// close deletes the table and closes the socket. That alone destroys a table that
// belongs to it; to delete it before makes sure that it is gone now.
func (t *ownTable) close() error {
	t.conn.DelTable(&t.Table)
	t.deadline()
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// discard is close for a socket whose state is unknown.
func (t *ownTable) discard() {
	_ = t.conn.CloseLasting()
	if t.ttl > 0 {
		if conn, err := nftables.New(); err == nil {
			conn.DelTable(&t.Table)
			_ = conn.Flush() // somebody else may have deleted it
		}
	}
}

// element is an opening as a member of a set. Every field fills whole registers of
// 4 bytes.
func (t *ownTable) element(o Opening) nftables.SetElement {
	protocol := byte(unix.IPPROTO_TCP)
	if o.Network == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	return nftables.SetElement{
		Key:     append(o.From.Addr().AsSlice(), protocol, 0, 0, 0, byte(o.Port>>8), byte(o.Port), 0, 0),
		Timeout: t.ttl,
	}
}

// ones is a mask of size bytes with so many leading bits.
func ones(bits, size int) []byte {
	b := make([]byte, size)
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
