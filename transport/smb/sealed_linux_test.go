package smb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcetypes"
	"github.com/oiweiwei/go-msrpc/msrpc/epm/epm/v3"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// stubbornManager refuses to be opened.
type stubbornManager struct {
	svcctl.UnimplementedSvcctlServer
	code uint32
}

func (m stubbornManager) OpenSCMW(context.Context, *svcctl.OpenSCMWRequest) (*svcctl.OpenSCMWResponse, error) {
	return &svcctl.OpenSCMWResponse{SCM: &svcctl.Handle{}, Return: m.code}, nil
}

// refusing takes the pipe svcctl from a server, and answers with a code there.
func refusing(t *testing.T, srv *smbtest.Server, code uint32) {
	require.NoError(t, os.Remove(filepath.Join(configDir(t, srv), "rpc", "np", "svcctl")))
	l, err := srv.Listen("svcctl")
	require.NoError(t, err)
	s := &rpcServer{ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(svcctl.SvcctlSyntaxV2_0): svcctl.NewSvcctlServerHandle(stubbornManager{code: code})}}
	s.serveOn(t, l)
}

// The seal, and the endpoint mapper, are those of Samba.
func TestSealed(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	registered(t, srv, [][4]string{{`HKLM\SOFTWARE\Roundsman`, "x", "sz", "y"}})
	addr := sambaRPC(t, srv, t.TempDir(), "rpcd_epmapper", "rpcd_winreg")
	for what, change := range map[string]func(ep *transport.Endpoint){
		"password": func(*transport.Endpoint) {},
		"hash": func(ep *transport.Endpoint) {
			ep.Credentials.Password = transport.Secret{}
			ep.Options = smb.Options{NTHash: transport.NewSecret(ntHash(srv.Password()))}
		},
	} {
		ep := endpoint(srv)
		change(&ep)
		names, err := smb.SealedKeys(t.Context(), dialWith(t, beside(srv, at(addr)), ep))
		require.NoError(t, err, what)
		require.Contains(t, names, "SOFTWARE", what)
	}
}

// openManager is a service control manager that knows no service.
type openManager struct {
	svcctl.UnimplementedSvcctlServer
}

func (openManager) OpenSCMW(context.Context, *svcctl.OpenSCMWRequest) (*svcctl.OpenSCMWResponse, error) {
	return &svcctl.OpenSCMWResponse{SCM: &svcctl.Handle{Attributes: 1}}, nil
}

func (openManager) OpenServiceW(context.Context, *svcctl.OpenServiceWRequest) (*svcctl.OpenServiceWResponse, error) {
	return &svcctl.OpenServiceWResponse{Service: &svcctl.Handle{}, Return: 1060}, nil
}

func (openManager) CloseService(context.Context, *svcctl.CloseServiceRequest) (*svcctl.CloseServiceResponse, error) {
	return &svcctl.CloseServiceResponse{ServiceObject: &svcctl.Handle{}}, nil
}

// mapper names a port, on a host of somebody else.
type mapper struct {
	epm.UnimplementedEpmServer
	port uint16
}

func (m mapper) Map(context.Context, *epm.MapRequest) (*epm.MapResponse, error) {
	tower := dcetypes.FloorsToTower([]*dcetypes.Floor{{Protocol: 0x0B, Data: []byte{0, 0}},
		{Protocol: 7, Data: binary.BigEndian.AppendUint16(nil, m.port)}, {Protocol: 9, Data: []byte{203, 0, 113, 1}}})
	tower.TowerLength = uint32(len(tower.TowerOctetString))
	return &epm.MapResponse{EntryHandle: &epm.LookupHandle{}, MaxTowers: 4, TowersLength: 1, Towers: []*dcetypes.Tower{tower}}, nil
}

// atPorts dials the ports of a host at addresses of loopback.
func atPorts(ports map[string]string) func(ctx context.Context, port string) (net.Conn, error) {
	return func(ctx context.Context, port string) (net.Conn, error) {
		addr, ok := ports[port]
		if !ok {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errElsewhere}
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// Where the pipe refuses what it is for, and only there, the service control manager is
// asked over TCP, on the host that SMB was opened to.
func TestSealedManager(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	refusing(t, srv, 1764)
	mapping := &rpcServer{ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(epm.EpmSyntaxV3_0): epm.NewEpmServerHandle(mapper{port: 49670})}}
	manager := func() *rpcServer {
		return &rpcServer{user: srv.User(), password: srv.Password(), ifaces: map[[16]byte]dcerpc.ServerHandle{
			syntax(svcctl.SvcctlSyntaxV2_0): svcctl.NewSvcctlServerHandle(openManager{})}}
	}
	ask := func(s *rpcServer) error {
		ports := map[string]string{"135": mapping.tcp(t)}
		if s != nil {
			ports["49670"] = s.tcp(t)
		}
		conn := dialWith(t, beside(srv, atPorts(ports)), endpoint(srv))
		for range 2 {
			_, err := transport.QueryService(t.Context(), conn, "roundsman-nowhere")
			if transport.CodeOf(err) != (transport.Code{Space: "win32", Value: "1060"}) {
				return err
			}
		}
		return nil
	}
	named := manager()
	proofs := make(chan []byte, 2)
	named.proof = func(b []byte) { proofs <- bytes.Clone(b) }
	require.NoError(t, ask(named))
	var spn []byte
	for _, u := range utf16.Encode([]rune("host/127.0.0.1")) {
		spn = binary.LittleEndian.AppendUint16(spn, u)
	}
	require.True(t, bytes.Contains(<-proofs, spn), "it is for this host alone")

	// Nobody else can answer, and nothing can be changed on the way.
	changed := manager()
	changed.spoil = func(pdu []byte) {
		if pdu[2] == 2 {
			pdu[30] ^= 1
		}
	}
	require.ErrorIs(t, ask(changed), transport.ErrTrust)
	signed := manager()
	signed.spoil = func(pdu []byte) {
		if pdu[2] == 2 {
			pdu[len(pdu)-9] ^= 1
		}
	}
	require.ErrorIs(t, ask(signed), transport.ErrTrust)
	for _, flag := range []uint32{0x10, 0x20, 0x80000, 0x20000000, 0x40000000} {
		weak := manager()
		weak.flags = flag
		require.ErrorIs(t, ask(weak), transport.ErrTrust, "%#x", flag)
	}
	bare := manager()
	bare.user = ""
	require.Error(t, ask(bare), "no seal at all")

	// Nobody can answer without a seal in the form of another message: go-msrpc reads
	// these as responses, or as nothing that went wrong.
	for typ, ends := range map[byte]error{2: transport.ErrProtocol, 3: transport.ErrProtocol, 12: transport.ErrProtocol, 13: transport.ErrProtocol,
		15: transport.ErrProtocol, 17: transport.ErrProtocol} {
		bare := manager()
		bare.spoil = func(pdu []byte) {
			if pdu[2] == 2 || pdu[2] == 3 {
				clear(pdu[16:])
				pdu[2], pdu[10] = typ, 0
			}
		}
		ports := map[string]string{"135": mapping.tcp(t), "49670": bare.tcp(t)}
		conn := dialWith(t, beside(srv, atPorts(ports)), endpoint(srv))
		require.ErrorIs(t, transport.DeleteService(t.Context(), conn, "roundsman-there"), ends, "%d", typ)
	}
	// A fault never has a seal, and so no meaning beyond that.
	liar := manager()
	liar.spoil = func(pdu []byte) {
		if pdu[2] == 2 {
			clear(pdu[16:])
			pdu[2], pdu[10] = 3, 0
			binary.LittleEndian.PutUint32(pdu[24:], 1060)
		}
	}
	err := ask(liar)
	require.ErrorIs(t, err, transport.ErrRejected)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, transport.Code{Space: "rpc", Value: "0x00000424"}, transport.CodeOf(err))

	err = ask(nil)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorContains(t, err, "49670")
	closed := dialWith(t, beside(srv, nil), endpoint(srv))
	_, err = transport.QueryService(t.Context(), closed, "roundsman-nowhere")
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorContains(t, err, "1764")
	require.ErrorContains(t, err, "135")
}

func TestManagerOfThePipeAlone(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	refusing(t, srv, 5)
	var dialled atomic.Int32
	conn := dialWith(t, beside(srv, func(context.Context, string) (net.Conn, error) {
		dialled.Add(1)
		return nil, errElsewhere
	}), endpoint(srv))
	_, err := transport.QueryService(t.Context(), conn, "roundsman-nowhere")
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Zero(t, dialled.Load())
}

// What was wrong with the port is not remembered: the endpoint mapper is not protected.
func TestManagerElsewhere(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	refusing(t, srv, 1764)
	mapping := func(port uint16) string {
		return (&rpcServer{ifaces: map[[16]byte]dcerpc.ServerHandle{
			syntax(epm.EpmSyntaxV3_0): epm.NewEpmServerHandle(mapper{port: port})}}).tcp(t)
	}
	manager := &rpcServer{user: srv.User(), password: srv.Password(), ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(svcctl.SvcctlSyntaxV2_0): svcctl.NewSvcctlServerHandle(openManager{})}}
	ports := map[string]string{"135": mapping(49999), "49670": manager.tcp(t)}
	conn := dialWith(t, beside(srv, atPorts(ports)), endpoint(srv))
	_, err := transport.QueryService(t.Context(), conn, "roundsman-nowhere")
	require.ErrorIs(t, err, transport.ErrUnreachable)
	ports["135"] = mapping(49670)
	_, err = transport.QueryService(t.Context(), conn, "roundsman-nowhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Who logs a connection does not log its password.
func TestFormatted(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	for _, opts := range []smb.Options{{}, {NTHash: transport.NewSecret(ntHash(srv.Password()))}} {
		opts.KeepAlive = -1
		ep := endpoint(srv)
		if !opts.NTHash.IsZero() {
			ep.Credentials.Password = transport.Secret{}
		}
		ep.Options = opts
		conn := dial(t, ep)
		hash, err := hex.DecodeString(ntHash(srv.Password()))
		require.NoError(t, err)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			text := fmt.Sprintf(verb, conn)
			for _, secret := range []string{srv.Password(), hex.EncodeToString([]byte(srv.Password())), string(hash), hex.EncodeToString(hash)} {
				require.NotContains(t, text, secret, verb)
			}
		}
	}
}
