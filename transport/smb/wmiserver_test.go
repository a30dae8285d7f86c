package smb_test

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/iactivation/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/iremunknown/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemlevel1login/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
)

// wmiServer answers queries of WMI out of instances. What it says of where it is leads to
// somebody else.
type wmiServer struct {
	iwbemlevel1login.UnimplementedLevel1LoginServer
	port    string
	classes map[string][]map[string]any
	code    int32             // of the activation
	codes   map[string]uint32 // of the queries of a class
	garbage bool

	mu       sync.Mutex
	queries  []string
	rows     [][]byte
	released int
}

func (s *wmiServer) that() *dcom.ORPCThat { return &dcom.ORPCThat{} }

func (s *wmiServer) RemoteActivation(context.Context, *iactivation.RemoteActivationRequest) (*iactivation.RemoteActivationResponse, error) {
	words := []uint16{7}
	words = append(append(words, utf16.Encode([]rune("203.0.113.1["+s.port+"]"))...), 0, 0)
	offset := uint16(len(words))
	words = append(words, 10, 0xFFFF, 0, 0)
	return &iactivation.RemoteActivationResponse{ORPCThat: s.that(), Interfaces: 1, HResult: s.code, OXID: 1,
		OXIDBindings:  &dcom.DualStringArray{EntriesLength: uint16(len(words)), SecurityOffset: offset, StringArray: words},
		RemoteUnknown: ipid(9), ServerVersion: &dcom.COMVersion{MajorVersion: 5, MinorVersion: 7},
		InterfaceData: []*dcom.InterfacePointer{standard(1)}, Results: []int32{0}}, nil
}

func ipid(n uint32) *dcom.IPID { return &dcom.IPID{Data1: n, Data4: make([]byte, 8)} }

// standard is a reference to an object.
func standard(n uint32) *dcom.InterfacePointer {
	b := append([]byte("MEOW"), 1, 0, 0, 0)
	b = append(b, make([]byte, 16+4)...)
	b = append(append(b, byte(n+2), 0, 0, 0), make([]byte, 16)...) // references
	b = append(binary.LittleEndian.AppendUint32(b, n), make([]byte, 12)...)
	b = append(b, 0, 0, 0, 0) // no bindings
	return &dcom.InterfacePointer{DataCount: uint32(len(b)), Data: b}
}

func customObject(o []byte) *dcom.InterfacePointer {
	b := append([]byte("MEOW"), 4, 0, 0, 0)
	b = append(b, make([]byte, 16)...)
	b = append(b, 0x12, 0xF8, 0x90, 0x45, 0x3A, 0x1D, 0xD0, 0x11, 0x89, 0x1F, 0x00, 0xAA, 0x00, 0x4B, 0x2E, 0x24)
	b = binary.LittleEndian.AppendUint32(append(b, 0, 0, 0, 0), uint32(len(o)+8))
	b = append(b, o...)
	return &dcom.InterfacePointer{DataCount: uint32(len(b)), Data: b}
}

func (s *wmiServer) NTLMLogin(_ context.Context, r *iwbemlevel1login.NTLMLoginRequest) (*iwbemlevel1login.NTLMLoginResponse, error) {
	if r.NetworkResource != "//./root/cimv2" {
		return &iwbemlevel1login.NTLMLoginResponse{That: s.that(), Return: -0x7FFBEFF2}, nil
	}
	return &iwbemlevel1login.NTLMLoginResponse{That: s.that(), Namespace: (*wmi.Services)(standard(2))}, nil
}

type wmiServices struct {
	iwbemservices.UnimplementedServicesServer
	*wmiServer
}

func (s wmiServices) ExecQuery(_ context.Context, r *iwbemservices.ExecQueryRequest) (*iwbemservices.ExecQueryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = append(s.queries, r.Query.Data)
	_, class, _ := strings.Cut(r.Query.Data, " FROM ")
	if code := s.codes[class]; code != 0 {
		return &iwbemservices.ExecQueryResponse{That: s.that(), Return: int32(code)}, nil
	}
	s.rows = nil
	for _, o := range s.classes[class] {
		s.rows = append(s.rows, encodeObject(class, o))
	}
	return &iwbemservices.ExecQueryResponse{That: s.that(), Enum: (*wmi.EnumClassObject)(standard(3))}, nil
}

type wmiEnum struct {
	ienumwbemclassobject.UnimplementedEnumClassObjectServer
	*wmiServer
}

func (s wmiEnum) Next(_ context.Context, r *ienumwbemclassobject.NextRequest) (*ienumwbemclassobject.NextResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(int(r.Count), len(s.rows))
	resp := &ienumwbemclassobject.NextResponse{That: s.that(), Count: r.Count, Returned: uint32(n)}
	for _, b := range s.rows[:n] {
		if s.garbage {
			b = b[:len(b)/2]
		}
		resp.Objects = append(resp.Objects, (*wmi.ClassObject)(customObject(b)))
	}
	if s.rows = s.rows[n:]; n < int(r.Count) {
		resp.Return = 1
	}
	return resp, nil
}

type wmiUnknown struct {
	iremunknown.UnimplementedRemoteUnknownServer
	*wmiServer
}

func (s wmiUnknown) RemoteRelease(_ context.Context, r *iremunknown.RemoteReleaseRequest) (*iremunknown.RemoteReleaseResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range r.InterfaceReferences {
		if ref.PublicReferencesCount == ref.IPID.Data1+2 {
			s.released++
		}
	}
	return &iremunknown.RemoteReleaseResponse{That: s.that()}, nil
}

// serve serves with an account, and returns where its ports are.
func (s *wmiServer) serve(t *testing.T, user, password string) map[string]string {
	s.port = "49671"
	scm := &rpcServer{user: user, password: password, ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(iactivation.ActivationSyntaxV0_0): iactivation.NewActivationServerHandle(s)}}
	exporter := &rpcServer{user: user, password: password, ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(iwbemlevel1login.Level1LoginSyntaxV0_0):         iwbemlevel1login.NewLevel1LoginServerHandle(s),
		syntax(iwbemservices.ServicesSyntaxV0_0):               iwbemservices.NewServicesServerHandle(wmiServices{wmiServer: s}),
		syntax(ienumwbemclassobject.EnumClassObjectSyntaxV0_0): ienumwbemclassobject.NewEnumClassObjectServerHandle(wmiEnum{wmiServer: s}),
		syntax(iremunknown.RemoteUnknownSyntaxV0_0):            iremunknown.NewRemoteUnknownServerHandle(wmiUnknown{wmiServer: s}),
	}}
	return map[string]string{"135": scm.tcp(t), s.port: exporter.tcp(t)}
}

// encodeObject encodes an instance as the library does.
func encodeObject(class string, values map[string]any) []byte {
	cls := wmio.Class{Name: class}
	inst := &wmio.Instance{ClassName: class}
	for name, v := range values {
		typ, err := wmio.ValueType(v)
		if err != nil {
			typ = wmio.String
		}
		cls.Properties = append(cls.Properties, &wmio.Property{Name: name, Order: uint16(len(cls.Properties)), Nullable: true, Value: wmio.Value{Type: typ}})
		inst.Properties = append(inst.Properties, &wmio.Property{Name: name, Nullable: v == nil, Value: wmio.Value{Type: typ, Value: v}})
	}
	inst.CurrentClass = cls
	b, err := wmio.Marshal(&wmio.Object{Instance: inst, Decoration: &wmio.Decoration{ServerName: "LABSERVER", Namespace: `root\cimv2`}})
	if err != nil {
		panic(err)
	}
	return b
}
