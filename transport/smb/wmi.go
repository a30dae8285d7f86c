package smb

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/iactivation/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/iremunknown/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/oaut"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemlevel1login/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dtyp"
	"github.com/roundsman-go/roundsman/transport"
)

// The rules of the Windows firewall that let WMI in.
const (
	ruleDCOM = "DCOM (rule Windows Management Instrumentation (DCOM-In))"
	ruleWMI  = "WMI (rule Windows Management Instrumentation (WMI-In))"
)

// Bounds and flags of a query (MS-WMI, sections 2.2.6 and 3.1.4.3.18).
const (
	maxRows     = 4096
	maxRowsSize = 32 << 20 // bytes of text, of all queries
	rowsAtOnce  = 16

	returnImmediately = 0x10
	forwardOnly       = 0x20

	wbemFalse    = 1
	wbemTimedOut = 0x40004

	nextTimeout = 20 * time.Second
)

// wmiSession is a login on a namespace of WMI, within one call.
type wmiSession struct {
	ctx      context.Context
	version  *dcom.COMVersion
	services iwbemservices.ServicesClient
	enum     ienumwbemclassobject.EnumClassObjectClient
	unknown  iremunknown.RemoteUnknownClient
	refs     []*dcom.RemoteInterfaceReference // to be released
	end      time.Time
	size     int // bytes of text in the rows up to now
}

// wmi calls f with WMI on the host (MS-WMI, section 3.2): an object of its login is
// activated through port 135 (MS-DCOM, section 3.1.2.5.2.3.1), and answers on a port of
// which the host tells. Its address, too, is in the answer, and is not believed.
func (k *call) wmi(end time.Time, f func(w *wmiSession) error) error {
	var port uint16
	var login *dcom.RemoteInterfaceReference
	var unknown *dcom.IPID
	version := &dcom.COMVersion{MajorVersion: 5, MinorVersion: 7}
	err := k.sealed(mapperPort, ruleDCOM, func(ctx context.Context, cc dcerpc.Conn) error {
		cli, err := iactivation.NewActivationClient(ctx, cc, k.seal())
		if err != nil {
			return err
		}
		resp, err := cli.RemoteActivation(ctx, &iactivation.RemoteActivationRequest{
			ORPCThis: &dcom.ORPCThis{Version: version, CID: newCID()}, ClassID: wmi.Level1LoginClassID.GUID(),
			ClientImpLevel: 2, Interfaces: 1, IIDs: []*dcom.IID{iwbemlevel1login.Level1LoginIID},
			RequestedProtocolSequencesCount: 1, RequestedProtocolSequences: []uint16{floorTCP},
		})
		switch {
		case err != nil && (resp == nil || resp.Return == 0):
			return err
		case resp.Return != 0:
			return winError(resp.Return)
		case resp.HResult != 0:
			return hresultError(uint32(resp.HResult))
		case len(resp.Results) != 1 || len(resp.InterfaceData) != 1 || resp.RemoteUnknown == nil:
			return badFrame("an activation of %d interfaces", len(resp.InterfaceData))
		case resp.Results[0] != 0:
			return hresultError(uint32(resp.Results[0]))
		}
		if v := resp.ServerVersion; v != nil && v.MajorVersion == 5 && v.MinorVersion < version.MinorVersion {
			version = v
		}
		unknown = resp.RemoteUnknown
		if login, err = reference(resp.InterfaceData[0]); err != nil {
			return err
		}
		port, err = bindingPort(resp.OXIDBindings)
		return err
	})
	if err != nil {
		return err
	}
	return k.sealed(port, ruleWMI, func(ctx context.Context, cc dcerpc.Conn) error {
		w := &wmiSession{ctx: ctx, version: version, end: end}
		if err := w.login(cc, k.seal(), login, unknown); err != nil {
			return err
		}
		defer w.release()
		return f(w)
	})
}

func newCID() *dcom.CID {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return (*dcom.CID)(guid(b[:]))
}

func (w *wmiSession) this() *dcom.ORPCThis { return &dcom.ORPCThis{Version: w.version, CID: newCID()} }

// login opens the namespace root\cimv2.
func (w *wmiSession) login(cc dcerpc.Conn, seal dcerpc.Option, object *dcom.RemoteInterfaceReference, unknown *dcom.IPID) error {
	cli, err := iwbemlevel1login.NewLevel1LoginClient(w.ctx, cc, seal, dcom.WithIPID(object.IPID))
	if err != nil {
		return err
	}
	resp, err := cli.NTLMLogin(w.ctx, &iwbemlevel1login.NTLMLoginRequest{This: w.this(), NetworkResource: "//./root/cimv2"})
	if err != nil {
		return answered(err, resp != nil, func() int32 { return resp.Return })
	}
	namespace, err := reference(resp.Namespace.InterfacePointer())
	if err != nil {
		return err
	}
	// Without a security of their own they have that of the connection.
	if w.services, err = iwbemservices.NewServicesClient(w.ctx, cc, dcom.WithIPID(namespace.IPID)); err != nil {
		return err
	}
	if w.enum, err = ienumwbemclassobject.NewEnumClassObjectClient(w.ctx, cc); err != nil {
		return err
	}
	w.unknown, err = iremunknown.NewRemoteUnknownClient(w.ctx, cc, dcom.WithIPID(unknown))
	w.refs = append(w.refs, object, namespace)
	return err
}

// answered is the error of an operation: the result that it returned, or else err.
func answered(err error, ok bool, result func() int32) error {
	if ok && result() != 0 {
		return hresultError(uint32(result()))
	}
	return err
}

// release gives back what the server keeps for the session. What is not given back it
// drops when nobody pings for it, after some minutes (MS-DCOM, section 3.1.1.5.4).
func (w *wmiSession) release() {
	if w.ctx.Err() != nil {
		return
	}
	_, _ = w.unknown.RemoteRelease(w.ctx, &iremunknown.RemoteReleaseRequest{This: w.this(),
		InterfaceReferencesCount: uint16(len(w.refs)), InterfaceReferences: w.refs})
}

// query calls f for each instance of a class, with the properties given.
func (w *wmiSession) query(class string, properties []string, f func(r row)) error {
	resp, err := w.services.ExecQuery(w.ctx, &iwbemservices.ExecQueryRequest{This: w.this(), QueryLanguage: &oaut.String{Data: "WQL"},
		Query: &oaut.String{Data: "SELECT " + strings.Join(properties, ", ") + " FROM " + class}, Flags: returnImmediately | forwardOnly})
	if err != nil {
		return answered(err, resp != nil, func() int32 { return resp.Return })
	}
	rows, err := reference(resp.Enum.InterfacePointer())
	if err != nil {
		return err
	}
	w.refs = append(w.refs, rows)
	enum := w.enum.IPID(w.ctx, rows.IPID)
	for n := 0; ; {
		if time.Now().After(w.end) {
			return fmt.Errorf("%w: not finished in time, %d are listed", transport.ErrTimeout, n)
		}
		resp, err := enum.Next(w.ctx, &ienumwbemclassobject.NextRequest{This: w.this(), Timeout: int32(nextTimeout.Milliseconds()), Count: rowsAtOnce})
		if resp == nil {
			return err
		}
		result := uint32(resp.Return)
		if err != nil && result != wbemFalse && result != wbemTimedOut {
			return answered(err, true, func() int32 { return resp.Return })
		}
		for _, o := range resp.Objects {
			b, err := custom(o.InterfacePointer())
			if err != nil {
				return err
			}
			r, err := decodeObject(b, properties...)
			if err != nil {
				return err
			}
			if n++; n > maxRows {
				return fmt.Errorf("there are more than %d", maxRows)
			}
			if err := w.keep(r); err != nil {
				return err
			}
			f(r)
		}
		if result == wbemFalse || result == 0 && len(resp.Objects) == 0 {
			return nil
		}
	}
}

// keep counts a row, which is kept.
func (w *wmiSession) keep(r row) error {
	if w.size += r.size(); w.size > maxRowsSize {
		return badFrame("more than %d bytes of text in the rows of WMI", maxRowsSize)
	}
	return nil
}

// Parts of an object reference (MS-DCOM, section 2.2.18).
const (
	objrefSignature = 0x574F454D
	objrefStandard  = 1
	objrefCustom    = 4
	objrefHeader    = 24
)

// classObject is the class that unmarshals objects of WMI (MS-WMI, section 2.2.4),
// {4590F812-1D3A-11D0-891F-00AA004B2E24}.
var classObject = []byte{0x12, 0xF8, 0x90, 0x45, 0x3A, 0x1D, 0xD0, 0x11, 0x89, 0x1F, 0x00, 0xAA, 0x00, 0x4B, 0x2E, 0x24}

func objref(p *dcom.InterfacePointer, kind uint32) ([]byte, error) {
	if p == nil || len(p.Data) < objrefHeader || binary.LittleEndian.Uint32(p.Data) != objrefSignature ||
		binary.LittleEndian.Uint32(p.Data[4:]) != kind {
		return nil, badFrame("a reference to an object of another kind than %d", kind)
	}
	return p.Data[objrefHeader:], nil
}

// reference finds in a STDOBJREF the identifier of the interface, and how many references
// to it were given. Of where it is, too, it says something, which is not believed.
func reference(p *dcom.InterfacePointer) (*dcom.RemoteInterfaceReference, error) {
	b, err := objref(p, objrefStandard)
	if err != nil {
		return nil, err
	}
	if len(b) < 40 {
		return nil, badFrame("a reference to an object of %d bytes", len(b))
	}
	return &dcom.RemoteInterfaceReference{IPID: (*dcom.IPID)(guid(b[24:40])), PublicReferencesCount: binary.LittleEndian.Uint32(b[4:])}, nil
}

// custom finds the encoded object in an OBJREF_CUSTOM of WMI.
func custom(p *dcom.InterfacePointer) ([]byte, error) {
	b, err := objref(p, objrefCustom)
	if err != nil {
		return nil, err
	}
	if len(b) < 24 || !bytes.Equal(b[:16], classObject) || binary.LittleEndian.Uint32(b[16:]) != 0 {
		return nil, badFrame("a custom object that is none of WMI")
	}
	return b[24:], nil
}

// guid reads the 16 bytes of a GUID.
func guid(b []byte) *dtyp.GUID {
	le := binary.LittleEndian
	return &dtyp.GUID{Data1: le.Uint32(b), Data2: le.Uint16(b[4:]), Data3: le.Uint16(b[6:]), Data4: bytes.Clone(b[8:16])}
}

// bindingPort finds the TCP port in the bindings of an object exporter (MS-DCOM, section
// 2.2.19), such as "db1.lab.example[49670]".
func bindingPort(a *dcom.DualStringArray) (uint16, error) {
	if a == nil {
		return 0, badFrame("an activation that tells no bindings")
	}
	words := a.StringArray[:min(len(a.StringArray), int(a.SecurityOffset))]
	for len(words) > 0 && words[0] != 0 {
		tower := words[0]
		words = words[1:]
		n := 0
		for n < len(words) && words[n] != 0 {
			n++
		}
		name := string(utf16.Decode(words[:n]))
		words = words[min(n+1, len(words)):]
		if tower != floorTCP || !strings.HasSuffix(name, "]") {
			continue
		}
		text := name[strings.LastIndexByte(name, '[')+1 : len(name)-1]
		if port, err := strconv.ParseUint(text, 10, 16); err == nil && port != 0 {
			return uint16(port), nil
		}
	}
	return 0, badFrame("an activation that tells no TCP port")
}

// noSuchClass reports whether the host has no such class or property.
func noSuchClass(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist)
}
