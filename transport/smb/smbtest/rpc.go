package smbtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/oiweiwei/go-msrpc/ndr"
)

// Connection-oriented DCE/RPC without authentication of its own, as far as one
// interface on a named pipe needs it (C706, chapter 12; MS-RPCE, 2.2.2).

// Types of packets (C706, 12.1).
const (
	pduRequest      = 0
	pduResponse     = 2
	pduFault        = 3
	pduBind         = 11
	pduBindAck      = 12
	pduBindNak      = 13
	pduAlterContext = 14
	pduAlterResp    = 15
	pduCancel       = 18
	pduOrphaned     = 19
)

const (
	flagFirst  = 0x01
	flagLast   = 0x02
	flagObject = 0x80

	headerSize = 16
	maxFrag    = 4280    // what Windows offers on a named pipe
	maxStub    = 1 << 20 // of a request, put together
	maxUnits   = 64      // contexts of a bind
)

// Statuses of faults (C706, appendix N; MS-ERREF).
const (
	faultOpRange = 0x1C010002 // nca_s_op_rng_error
	faultContext = 0x1C00001A // nca_s_fault_context_mismatch
	faultStub    = 0x000006F7 // RPC_X_BAD_STUB_DATA
)

// syntaxes are the identifiers of an interface and of a transfer syntax with their
// versions, as they stand in a packet.
var (
	svcctlSyntax = [20]byte{0x81, 0xbb, 0x7a, 0x36, 0x44, 0x98, 0xf1, 0x35, 0xad, 0x32, 0x98, 0xf0, 0x38, 0x00, 0x10, 0x03, 2}
	ndrSyntax    = [20]byte{0x04, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48, 0x60, 2}
)

var errPDU = errors.New("smbtest: malformed RPC packet")

// pdu is one packet.
type pdu struct {
	typ, flags byte
	auth       uint16
	call       uint32
	body       []byte // without the header, with the authentication data
}

// readPDU reads one packet. Only little-endian ones are understood, which is what
// every client sends.
func readPDU(r io.Reader) (pdu, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return pdu{}, err
	}
	n := int(binary.LittleEndian.Uint16(h[8:]))
	if h[0] != 5 || h[4]&0xf0 != 0x10 || n < headerSize {
		return pdu{}, errPDU
	}
	p := pdu{typ: h[2], flags: h[3], auth: binary.LittleEndian.Uint16(h[10:]), call: binary.LittleEndian.Uint32(h[12:]), body: make([]byte, n-headerSize)}
	_, err := io.ReadFull(r, p.body)
	return p, err
}

func (p pdu) bytes() []byte {
	b := []byte{5, 0, p.typ, p.flags, 0x10, 0, 0, 0}
	b = binary.LittleEndian.AppendUint16(b, uint16(headerSize+len(p.body)))
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, p.call)
	return append(b, p.body...)
}

// bind is what a bind or alter-context packet asks for.
type bind struct {
	maxRecv  uint16
	group    uint32
	contexts []contextItem
}

type contextItem struct {
	id       uint16
	abstract [20]byte
	transfer [][20]byte
}

func parseBind(b []byte) (bind, error) {
	if len(b) < 12 {
		return bind{}, errPDU
	}
	out := bind{maxRecv: binary.LittleEndian.Uint16(b[2:]), group: binary.LittleEndian.Uint32(b[4:])}
	n := int(b[8])
	b = b[12:]
	if n > maxUnits {
		return bind{}, errPDU
	}
	for range n {
		if len(b) < 24 {
			return bind{}, errPDU
		}
		c := contextItem{id: binary.LittleEndian.Uint16(b), abstract: [20]byte(b[4:24])}
		m := int(b[2])
		if b = b[24:]; len(b) < 20*m {
			return bind{}, errPDU
		}
		for range m {
			c.transfer = append(c.transfer, [20]byte(b))
			b = b[20:]
		}
		out.contexts = append(out.contexts, c)
	}
	return out, nil
}

// ack answers a bind, and notes in accepted which contexts may be used.
func (q bind) ack(accepted map[uint16]bool, address string) []byte {
	b := binary.LittleEndian.AppendUint16(nil, maxFrag)
	b = binary.LittleEndian.AppendUint16(b, maxFrag)
	b = binary.LittleEndian.AppendUint32(b, max(q.group, 1))
	if address == "" {
		b = binary.LittleEndian.AppendUint16(b, 0)
	} else {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(address)+1))
		b = append(append(b, address...), 0)
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	b = append(b, byte(len(q.contexts)), 0, 0, 0)
	for _, c := range q.contexts {
		result, reason, syntax := uint16(2), uint16(2), [20]byte{} // the transfer syntaxes are not supported
		if c.abstract != svcctlSyntax {
			reason = 1 // nor is the interface
		}
		for _, t := range c.transfer {
			if c.abstract == svcctlSyntax && t == ndrSyntax {
				result, reason, syntax = 0, 0, ndrSyntax
				accepted[c.id] = true
			}
		}
		b = binary.LittleEndian.AppendUint16(b, result)
		b = binary.LittleEndian.AppendUint16(b, reason)
		b = append(b, syntax[:]...)
	}
	return b
}

// serveRPC answers the clients of a pipe until the listener ends, and returns when
// the last of them is gone. Each gets a copy of the manager.
func serveRPC(l net.Listener, manager scm) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			own := manager
			defer own.runDown()
			a := newAssociation(c, own.dispatch)
			for {
				p, err := readPDU(c)
				if err != nil || a.handle(p) != nil {
					return
				}
			}
		})
	}
}

// association is one client of the endpoint.
type association struct {
	w io.Writer
	// dispatch runs one operation. What it returns beside 0 is the status of a fault.
	dispatch func(op int, stub []byte) ([]byte, uint32)
	accepted map[uint16]bool
	maxSend  int
	// The request that is coming in.
	call    uint32
	context uint16
	op      uint16
	stub    []byte
	open    bool
}

func newAssociation(w io.Writer, dispatch func(int, []byte) ([]byte, uint32)) *association {
	return &association{w: w, dispatch: dispatch, accepted: make(map[uint16]bool), maxSend: maxFrag}
}

func (a *association) send(typ, flags byte, call uint32, body []byte) error {
	_, err := a.w.Write(pdu{typ: typ, flags: flags, call: call, body: body}.bytes())
	return err
}

func (a *association) fault(call uint32, context uint16, status uint32) error {
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint16(b, context)
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, status)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return a.send(pduFault, flagFirst|flagLast, call, b)
}

// handle answers one packet. An error ends the association.
func (a *association) handle(p pdu) error {
	switch p.typ {
	case pduBind, pduAlterContext:
		if p.auth != 0 {
			// Authentication type not recognized, and the versions of the protocol.
			return a.send(pduBindNak, flagFirst|flagLast, p.call, []byte{8, 0, 1, 5, 0})
		}
		q, err := parseBind(p.body)
		if err != nil {
			return err
		}
		typ, address := byte(pduAlterResp), ""
		if p.typ == pduBind {
			typ, address = pduBindAck, `\PIPE\ntsvcs`
			a.maxSend = max(1024, min(maxFrag, int(q.maxRecv)))
		}
		return a.send(typ, flagFirst|flagLast, p.call, q.ack(a.accepted, address))
	case pduRequest:
		return a.request(p)
	case pduCancel, pduOrphaned:
		return nil
	}
	return fmt.Errorf("%w: type %d", errPDU, p.typ)
}

func (a *association) request(p pdu) error {
	b := p.body
	if len(b) < 8 || p.auth != 0 {
		return errPDU
	}
	context, op := binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:])
	b = b[8:]
	if p.flags&flagObject != 0 {
		if len(b) < 16 {
			return errPDU
		}
		b = b[16:]
	}
	if p.flags&flagFirst != 0 {
		a.call, a.context, a.op, a.stub, a.open = p.call, context, op, nil, true
	}
	if !a.open || a.call != p.call || len(a.stub)+len(b) > maxStub {
		return errPDU
	}
	a.stub = append(a.stub, b...)
	if p.flags&flagLast == 0 {
		return nil
	}
	a.open = false
	if !a.accepted[a.context] {
		return a.fault(a.call, a.context, faultContext)
	}
	stub, status := a.dispatch(int(a.op), a.stub)
	if status != 0 {
		return a.fault(a.call, a.context, status)
	}
	return a.respond(stub)
}

// respond sends a response in as many fragments as it takes.
func (a *association) respond(stub []byte) error {
	for flags := byte(flagFirst); ; flags = 0 {
		n := min(len(stub), a.maxSend-headerSize-8)
		if n == len(stub) {
			flags |= flagLast
		}
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(stub)))
		b = binary.LittleEndian.AppendUint16(b, a.context)
		b = append(b, 0, 0)
		if err := a.send(pduResponse, flags, a.call, append(b, stub[:n]...)); err != nil {
			return err
		}
		if stub = stub[n:]; flags&flagLast != 0 {
			return nil
		}
	}
}

// dispatch runs one operation of the manager.
func (c *scm) dispatch(op int, stub []byte) ([]byte, uint32) {
	ctx := context.Background()
	out, err := svcctl.SvcctlServerHandle(ctx, c, op, ndr.NDR20(stub))
	switch {
	case errors.Is(err, dcerpc.ErrNotImplemented) || err == nil && out == nil:
		return nil, faultOpRange
	case err != nil:
		return nil, faultStub
	}
	w := ndr.NDR20(nil)
	if err := out.MarshalNDRResponse(ctx, w); err != nil {
		return nil, faultStub
	}
	return w.Bytes(), 0
}
