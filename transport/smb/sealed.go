package smb

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/midl/uuid"
	"github.com/oiweiwei/go-msrpc/msrpc/dcetypes"
	"github.com/oiweiwei/go-msrpc/msrpc/epm/epm/v3"
	"github.com/oiweiwei/go-msrpc/ssp/gssapi"
	"github.com/oiweiwei/go-msrpc/ssp/ntlm"
	"github.com/roundsman-go/roundsman/transport"
)

// mapperPort is where the endpoint mapper and the activation of DCOM listen (MS-RPCE,
// section 2.1.1.1).
const mapperPort = 135

// aside opens a TCP connection to another port of the host, in the way in which that to
// SMB was opened.
type aside func(ctx context.Context, port uint16) (net.Conn, error)

// sealed calls f with a connection of MS-RPCE over TCP to the host, on which everything
// that f binds is authenticated and encrypted at the level of packet privacy, with the
// account of the login. what says what is asked for, and which rule of the Windows
// firewall lets it in.
func (k *call) sealed(port uint16, what string, f func(ctx context.Context, cc dcerpc.Conn) error) error {
	if k.c.aside == nil {
		return noAside(what, port)
	}
	ctx := gssapi.NewSecurityContext(k.ctx, ntlmSeal{}, gssapi.WithCredential(k.c.credential()))
	return k.aside(ctx, port, true, what, f)
}

// plain is sealed without any protection: what comes must not be believed.
func (k *call) plain(port uint16, what string, f func(ctx context.Context, cc dcerpc.Conn) error) error {
	return k.aside(k.ctx, port, false, what, f)
}

func asideHint(what string, port uint16) string { return fmt.Sprintf("%s on TCP port %d", what, port) }

func noAside(what string, port uint16) error {
	return &transport.Error{Kind: errors.ErrUnsupported,
		Hint: asideHint(what, port) + " takes a user and a password: the credentials of whoever runs the program are for SMB alone"}
}

func (k *call) aside(ctx context.Context, port uint16, sealed bool, what string, f func(ctx context.Context, cc dcerpc.Conn) error) error {
	if k.c.aside == nil {
		return noAside(what, port)
	}
	hint := asideHint(what, port)
	dctx, cancel := context.WithTimeoutCause(ctx, k.c.opts.ConnectTimeout, errConnect)
	conn, err := k.c.aside(dctx, port)
	cancel()
	if err != nil {
		e := &transport.Error{Kind: transport.ErrUnreachable, Err: err, Hint: hint + " is closed to the manager"}
		if ctx.Err() == nil && errors.Is(context.Cause(dctx), errConnect) {
			e.Err = fmt.Errorf("%w: %w", transport.ErrTimeout, errConnect)
		}
		return e
	}
	c := &checked{Conn: conn, in: arriving{sealed: sealed}}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(k.c.opts.ConnectTimeout))
	err = speak(ctx, c, asideTime, f)
	bad := c.bad()
	if err != nil && ctx.Err() == nil {
		var op *net.OpError
		switch {
		case bad != nil:
			err = bad
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			return &transport.Error{Kind: transport.ErrTimeout, Err: err, Hint: hint + " does not answer: something else may listen there"}
		case errors.As(err, &op), errors.Is(err, io.EOF):
			return &transport.Error{Kind: transport.ErrConnLost, Err: err, Hint: hint + " hung up: something else may listen there, or the account is not let in"}
		case errors.Is(err, errSeal), errors.Is(err, ntlm.ErrIntegrityNotAvailable), errors.Is(err, ntlm.ErrConfidentialityNotAvailable),
			errors.Is(err, ntlm.Err128BitEncryptionNotSupported):
			return &transport.Error{Kind: transport.ErrTrust, Err: err, Hint: hint + " is answered by somebody who does not know the account's key, or changed on the way"}
		}
	}
	if bad != nil && err != nil {
		return &transport.Error{Kind: transport.ErrProtocol, Err: err, Hint: hint}
	}
	err = rpcError(err)
	var te *transport.Error
	if errors.As(err, &te) && te.Hint == "" {
		own := *te
		own.Hint = hint
		return &own
	}
	return err
}

// seal is packet privacy. The response of the login names the host (MS-NLMP, section
// 2.2.2.1, MsvAvTargetName), so that another one to which it were relayed can refuse it.
func (k *call) seal() dcerpc.Option {
	return dcerpc.SecurityOption(func(s *dcerpc.Security) {
		s.Level, s.TargetName = dcerpc.AuthLevelPktPrivacy, "host/"+k.c.host
	})
}

// asideTime is how long a server may take for a fragment beside SMB.
const asideTime = time.Minute

// credential is the account as go-msrpc wants it.
func (a account) credential() any {
	if a.hash != "" {
		return hashCredential{a}
	}
	return passwordCredential{a}
}

func (a account) UserName() string   { return a.user }
func (a account) DomainName() string { return a.domain }
func (account) Workstation() string  { return "" }

type passwordCredential struct{ account }

func (c passwordCredential) Password() string { return c.password }

type hashCredential struct{ account }

func (c hashCredential) NTHash() []byte { return []byte(c.hash) }

// ntlmSeal makes contexts of NTLM that check what they unseal. Version 1.5.2 of the
// library computes the signature of a sealed message, and compares it with nothing: what
// comes could have been changed on the way, or have been made by anybody.
type ntlmSeal struct{ ntlm.Mechanism }

func (ntlmSeal) New(ctx context.Context) (gssapi.Mechanism, error) {
	m, err := ntlm.Mechanism{}.New(ctx)
	if err != nil {
		return nil, err
	}
	return ntlmSealing{m.(*ntlm.Mechanism)}, nil
}

type ntlmSealing struct{ *ntlm.Mechanism }

// errSeal is the failure of a check.
var errSeal = errors.New("the seal of a message is broken")

// sealFlags are SIGN, SEAL, EXTENDED_SESSIONSECURITY, 128 and KEY_EXCH (MS-NLMP, section
// 2.2.2.5). Without one of them keys are short, or signatures are none.
const sealFlags = 0x10 | 0x20 | 0x80000 | 0x20000000 | 0x40000000

// Init refuses a challenge (MS-NLMP, section 2.2.1.2) that offers less than a seal.
func (m ntlmSealing) Init(ctx context.Context, tok *gssapi.Token) (*gssapi.Token, error) {
	if b := tok.Payload; b != nil && (len(b) < 24 || binary.LittleEndian.Uint32(b[20:])&sealFlags != sealFlags) {
		return nil, fmt.Errorf("%w: the server offers weaker ones", errSeal)
	}
	return m.Mechanism.Init(ctx, tok)
}

func (m ntlmSealing) UnwrapEx(ctx context.Context, tok *gssapi.MessageTokenEx) (*gssapi.MessageTokenEx, error) {
	got := slices.Clone(tok.Signature)
	out, err := m.Mechanism.UnwrapEx(ctx, tok)
	if err != nil {
		return nil, err
	}
	if len(got) != verifier || !hmac.Equal(got, out.Signature) {
		return nil, errSeal
	}
	return out, nil
}

// endpoint asks the endpoint mapper of the host for the TCP port of an interface (C706,
// appendix L and section 2.2.1.2 of MS-RPCE). Nobody proves that the answer is right: who
// listens there has to.
func (k *call) endpoint(iface *dcerpc.SyntaxID, what string) (port uint16, err error) {
	err = k.plain(mapperPort, what, func(ctx context.Context, cc dcerpc.Conn) error {
		cli, err := epm.NewEpmClient(ctx, cc, dcerpc.WithInsecure())
		if err != nil {
			return err
		}
		tower := dcetypes.FloorsToTower([]*dcetypes.Floor{
			{Protocol: floorUUID, UUID: iface.IfUUID, VersionMajor: iface.IfVersionMajor, Data: binary.LittleEndian.AppendUint16(nil, iface.IfVersionMinor)},
			{Protocol: floorUUID, UUID: uuid.MustParse("8a885d04-1ceb-11c9-9fe8-08002b104860"), VersionMajor: 2, Data: []byte{0, 0}},
			{Protocol: 0x0B, Data: []byte{0, 0}}, // connection-oriented
			{Protocol: floorTCP, Data: []byte{0, 0}},
			{Protocol: 0x09, Data: []byte{0, 0, 0, 0}}, // IP
		})
		tower.TowerLength = uint32(len(tower.TowerOctetString))
		resp, err := cli.Map(ctx, &epm.MapRequest{MapTower: tower, EntryHandle: &epm.LookupHandle{}, MaxTowers: 4})
		if err != nil {
			return err
		}
		for _, t := range resp.Towers {
			if t == nil {
				continue
			}
			if port = towerPort(t.TowerOctetString); port != 0 {
				return nil
			}
		}
		return &transport.Error{Kind: errors.ErrUnsupported, Code: transport.Code{Space: "epm", Value: fmt.Sprintf("0x%08X", resp.Status)},
			Err: errors.New("the endpoint mapper knows no TCP port of it")}
	})
	return port, err
}

const (
	floorUUID = 0x0D
	floorTCP  = 0x07
)

// towerPort finds the TCP port in a tower of protocols (C706, appendix L), or 0. The
// address that is in it, too, is that of nobody in particular.
func towerPort(b []byte) uint16 {
	le := binary.LittleEndian
	field := func() (f []byte, ok bool) {
		if len(b) < 2 || len(b)-2 < int(le.Uint16(b)) {
			return nil, false
		}
		n := 2 + int(le.Uint16(b))
		f, b = b[2:n], b[n:]
		return f, true
	}
	if len(b) < 2 {
		return 0
	}
	floors := int(le.Uint16(b))
	b = b[2:]
	for range min(floors, 16) {
		protocol, ok := field()
		data, dok := field()
		if !ok || !dok {
			return 0
		}
		if len(protocol) == 1 && protocol[0] == floorTCP && len(data) == 2 {
			return binary.BigEndian.Uint16(data)
		}
	}
	return 0
}
