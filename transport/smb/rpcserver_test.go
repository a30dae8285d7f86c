package smb_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/ndr"
	"github.com/oiweiwei/go-msrpc/ssp"
	"github.com/oiweiwei/go-msrpc/ssp/credential"
	"github.com/oiweiwei/go-msrpc/ssp/gssapi"
	"github.com/oiweiwei/go-msrpc/ssp/name"
	"github.com/stretchr/testify/require"
)

// rpcServer serves interfaces of MS-RPCE to tests, with the dispatch and the NTLM of the
// library that is also the client's. With a user it insists on packet privacy.
type rpcServer struct {
	user, password string
	ifaces         map[[16]byte]dcerpc.ServerHandle
	// spoil may change a response before it is sent.
	spoil func(pdu []byte)
	// proof is shown what proves that the client knows the password.
	proof func(authenticate []byte)
	flags uint32 // of NTLM that are taken out of the challenge
}

func syntax(id *dcerpc.SyntaxID) (b [16]byte) {
	u := id.IfUUID
	binary.LittleEndian.PutUint32(b[:], u.TimeLow)
	binary.LittleEndian.PutUint16(b[4:], u.TimeMid)
	binary.LittleEndian.PutUint16(b[6:], u.TimeHiAndVersion)
	b[8], b[9] = u.ClockSeqHiAndReserved, u.ClockSeqLow
	copy(b[10:], u.Node[:])
	return b
}

// serveOn serves a listener until the test ends.
func (s *rpcServer) serveOn(t *testing.T, l net.Listener) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				defer c.Close()
				_ = (&rpcAssociation{s: s, c: c, ctx: ctx, contexts: map[uint16]dcerpc.ServerHandle{}}).serve()
			})
		}
	})
}

// tcp serves on a port of loopback, which it returns.
func (s *rpcServer) tcp(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.serveOn(t, l)
	return l.Addr().String()
}

type rpcAssociation struct {
	s        *rpcServer
	c        net.Conn
	ctx      context.Context
	security context.Context
	trailer  []byte
	contexts map[uint16]dcerpc.ServerHandle
	stub     []byte
}

var errRPC = errors.New("not understood")

func (a *rpcAssociation) serve() error {
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(a.c, head); err != nil {
			return err
		}
		size, auth := int(binary.LittleEndian.Uint16(head[8:])), int(binary.LittleEndian.Uint16(head[10:]))
		pdu := append(head, make([]byte, size-16)...)
		if _, err := io.ReadFull(a.c, pdu[16:]); err != nil {
			return err
		}
		end := size
		if auth > 0 {
			end -= auth + 8
		}
		var err error
		switch pdu[2] {
		case 11, 14:
			err = a.bind(pdu, end)
		case 16:
			if a.s.proof != nil {
				a.s.proof(pdu[end+8:])
			}
			_, err = gssapi.AcceptSecurityContext(a.security, &gssapi.Token{Payload: pdu[end+8:]}, a.options()...)
		case 0:
			err = a.request(pdu, end)
		default:
			err = errRPC
		}
		if err != nil {
			return err
		}
	}
}

func (a *rpcAssociation) options() []gssapi.Option {
	db := credential.NewLocalDatabase()
	db.Add(credential.NewFromPassword(a.s.user, a.s.password, credential.Domain("LAB")))
	return []gssapi.Option{gssapi.WithCredentialDatabase(gssapi.NewCredentialDatabase(db)), gssapi.WithMechanismType(ssp.MechanismTypeNTLM),
		gssapi.WithServerNames(&name.Name{Type: name.NetBIOSNameType, Name: "LABSERVER", Domain: "LAB"})}
}

func (a *rpcAssociation) send(typ byte, flags byte, call []byte, body, auth []byte) error {
	size := 16 + len(body)
	b := []byte{5, 0, typ, flags, 0x10, 0, 0, 0, 0, 0, 0, 0, call[0], call[1], call[2], call[3]}
	b = append(b, body...)
	if len(auth) > 0 {
		size += 8 + len(auth)
		b = append(append(b, a.trailer...), auth...)
		binary.LittleEndian.PutUint16(b[10:], uint16(len(auth)))
	}
	binary.LittleEndian.PutUint16(b[8:], uint16(size))
	if a.s.spoil != nil {
		a.s.spoil(b)
	}
	_, err := a.c.Write(b)
	return err
}

func (a *rpcAssociation) bind(pdu []byte, end int) error {
	le := binary.LittleEndian
	body := append(le.AppendUint16(nil, 4280), 0xB8, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, pdu[24], 0, 0, 0)
	at := 28
	for range pdu[24] {
		id, n := le.Uint16(pdu[at:]), int(pdu[at+2])
		handle := a.s.ifaces[[16]byte(pdu[at+4:at+20])]
		if handle == nil {
			body = append(append(body, 2, 0, 1, 0), make([]byte, 20)...)
		} else {
			a.contexts[id] = handle
			body = append(append(body, 0, 0, 0, 0), pdu[at+24:at+44]...)
		}
		at += 24 + 20*n
	}
	var auth []byte
	if a.s.user != "" && pdu[2] == 11 {
		if end == len(pdu) || pdu[end] != 10 || pdu[end+1] != 6 {
			return a.send(13, 3, pdu[12:], []byte{8, 0, 1, 5, 0}, nil)
		}
		a.trailer = append([]byte{10, 6, 0, 0}, pdu[end+4:end+8]...)
		a.security = gssapi.NewSecurityContext(a.ctx, ssp.NTLM)
		tok, err := gssapi.AcceptSecurityContext(a.security, &gssapi.Token{Payload: pdu[end+8:]}, a.options()...)
		if err != nil {
			return err
		}
		auth = tok.Payload
		le.PutUint32(auth[20:], le.Uint32(auth[20:])&^a.s.flags)
	}
	return a.send(pdu[2]+1, 3|pdu[3]&4, pdu[12:], body, auth)
}

func (a *rpcAssociation) fault(call []byte, status uint32) error {
	body := binary.LittleEndian.AppendUint32(make([]byte, 8), status)
	return a.send(3, 3, call, append(body, 0, 0, 0, 0), nil)
}

// payloads are the parts of a fragment as they are sealed.
func payloads(pdu []byte, start, end int) *gssapi.MessageTokenEx {
	const sign, seal = gssapi.Integrity, gssapi.Integrity | gssapi.Confidentiality
	return &gssapi.MessageTokenEx{Payloads: []*gssapi.PayloadEx{{Payload: pdu[:start], Capabilities: sign},
		{Payload: pdu[start:end], Capabilities: seal}, {Payload: pdu[end : end+8], Capabilities: sign}}}
}

func (a *rpcAssociation) request(pdu []byte, end int) error {
	start := 24
	if pdu[3]&0x80 != 0 {
		start = 40
	}
	if a.s.user != "" {
		if end == len(pdu) || a.security == nil {
			return a.fault(pdu[12:], 5)
		}
		tok := payloads(pdu, start, end)
		out, err := gssapi.UnwrapEx(a.security, tok)
		if err != nil {
			return a.fault(pdu[12:], 5)
		}
		if string(out.Signature) != string(pdu[end+8:]) {
			return a.fault(pdu[12:], 5)
		}
		end -= int(pdu[end+2])
	}
	a.stub = append(a.stub, pdu[start:end]...)
	if pdu[3]&2 == 0 {
		return nil
	}
	stub := a.stub
	a.stub = nil
	handle := a.contexts[binary.LittleEndian.Uint16(pdu[20:])]
	if handle == nil {
		return a.fault(pdu[12:], 0x1C00001A)
	}
	op, err := handle(a.ctx, int(binary.LittleEndian.Uint16(pdu[22:])), ndr.NDR20(stub))
	if err != nil {
		return a.fault(pdu[12:], 0x1C010002)
	}
	w := ndr.NDR20(nil)
	if err := op.MarshalNDRResponse(a.ctx, w); err != nil {
		return a.fault(pdu[12:], 0x6F7)
	}
	return a.respond(pdu, w.Bytes())
}

func (a *rpcAssociation) respond(pdu, stub []byte) error {
	const most = 4000 // a multiple of 16
	for flags := byte(1); ; flags = 0 {
		part := stub[:min(len(stub), most)]
		stub = stub[len(part):]
		if len(stub) == 0 {
			flags |= 2
		}
		body := append([]byte{0, 0, 0, 0, pdu[20], pdu[21], 0, 0}, part...)
		var auth []byte
		if a.s.user != "" {
			pad := (16 - len(part)%16) % 16
			body = append(body, make([]byte, pad)...)
			a.trailer[2] = byte(pad)
			whole := []byte{5, 0, 2, flags, 0x10, 0, 0, 0, 0, 0, 16, 0, pdu[12], pdu[13], pdu[14], pdu[15]}
			binary.LittleEndian.PutUint16(whole[8:], uint16(16+len(body)+8+16))
			whole = append(append(whole, body...), a.trailer...)
			tok, err := gssapi.WrapEx(a.security, payloads(whole, 24, 16+len(body)))
			if err != nil {
				return err
			}
			body, auth = whole[16:16+len(body)], tok.Signature
		}
		if err := a.send(2, flags, pdu[12:], body, auth); err != nil {
			return err
		}
		if flags&2 != 0 {
			return nil
		}
	}
}
