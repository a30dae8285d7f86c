package smbtest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"strings"

	"github.com/oiweiwei/go-msrpc/msrpc/dtyp"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
)

// Rights and constants of MS-SCMR, 3.1.4.
const (
	managerCreate    = 0x0002
	managerEnumerate = 0x0004
	managerAll       = 0xF003F

	serviceQueryConfig  = 0x0001
	serviceChangeConfig = 0x0002
	serviceQueryStatus  = 0x0004
	serviceEnumDep      = 0x0008
	serviceStart        = 0x0010
	serviceStop         = 0x0020
	serviceInterrogate  = 0x0080
	serviceDelete       = 0x10000
	serviceAll          = 0xF01FF

	typeOwnProcess   = 0x10
	typeShareProcess = 0x20
	typeInteractive  = 0x100
	startAuto        = 2
	startDemand      = 3
	startDisabled    = 4

	controlStop        = 1
	controlInterrogate = 4
	acceptStop         = 1

	noChange = 0xFFFFFFFF
)

// granted maps generic rights (MS-DTYP, 2.4.3) to those of an object.
func granted(desired, all, read, write, execute uint32) uint32 {
	for _, m := range []struct{ generic, rights uint32 }{
		{0x10000000, all}, {0x02000000, all}, // GENERIC_ALL, MAXIMUM_ALLOWED
		{0x80000000, read}, {0x40000000, write}, {0x20000000, execute},
	} {
		if desired&m.generic != 0 {
			desired = desired&^m.generic | m.rights
		}
	}
	return desired
}

func managerAccess(desired uint32) uint32 {
	return granted(desired, managerAll, 0x20014, 0x20022, 0x20009) | 1 // SC_MANAGER_CONNECT comes by itself
}

func serviceAccess(desired uint32) uint32 {
	return granted(desired, serviceAll, 0x2008D, 0x20002, 0x20170)
}

// newHandle registers a handle. It is called with the lock held.
func (s *Services) newHandle(h *handle) [16]byte {
	var id [16]byte
	rand.Read(id[:])
	if s.handles == nil {
		s.handles = make(map[[16]byte]*handle)
	}
	s.handles[id] = h
	return id
}

func (s *Services) closeHandle(id [16]byte) Win32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[id]
	if h == nil {
		return ErrInvalidHandle
	}
	delete(s.handles, id)
	if h.there != 0 {
		return s.there(func(b Backend) error { return b.CloseService(h.there) })
	}
	if h.svc != nil {
		s.reap(h.svc)
	}
	return 0
}

// scm is the service control manager as one client sees it: handles are good only
// on the connection that opened them.
type scm struct {
	svcctl.UnimplementedSvcctlServer
	services *Services
	ordinary bool // the client is no administrator
	use      func(Backend, string) (started func(), err error)
	mine     map[[16]byte]bool // guarded by services.mu
}

// runDown closes what a client left open (C706, 5.1.6).
func (c *scm) runDown() {
	c.services.mu.Lock()
	mine := c.mine
	c.mine = nil
	c.services.mu.Unlock()
	for id := range mine {
		_ = c.services.closeHandle(id)
	}
}

// open makes a handle. It is called with the lock held.
func (c *scm) open(h *handle) *svcctl.Handle {
	id := c.services.newHandle(h)
	if c.mine == nil {
		c.mine = make(map[[16]byte]bool)
	}
	c.mine[id] = true
	return &svcctl.Handle{UUID: &dtyp.GUID{Data1: binary.LittleEndian.Uint32(id[:]), Data2: binary.LittleEndian.Uint16(id[4:]), Data3: binary.LittleEndian.Uint16(id[6:]), Data4: id[8:]}}
}

func handleID(h *svcctl.Handle) (id [16]byte) {
	if h != nil && h.UUID != nil {
		binary.LittleEndian.PutUint32(id[:], h.UUID.Data1)
		binary.LittleEndian.PutUint16(id[4:], h.UUID.Data2)
		binary.LittleEndian.PutUint16(id[6:], h.UUID.Data3)
		copy(id[8:], h.UUID.Data4)
	}
	return id
}

// enter takes the lock, notes the call and finds the handle that it is for, with
// the rights that it needs. Where the result is not 0 it is the answer.
func (c *scm) enter(call string, h *svcctl.Handle, manager bool, rights uint32) (*handle, Win32) {
	s := c.services
	s.mu.Lock()
	id := handleID(h)
	found := s.handles[id]
	if found != nil && found.svc != nil {
		call += " " + found.svc.Name
	}
	s.calls = append(s.calls, call)
	switch {
	case s.faults.Denied:
		return nil, ErrAccessDenied
	case found == nil || !c.mine[id] || (found.svc == nil) != manager:
		return nil, ErrInvalidHandle
	case found.access&rights != rights:
		return nil, ErrAccessDenied
	}
	return found, 0
}

func (c *scm) leave() { c.services.mu.Unlock() }

func text(s string) string { return strings.TrimRight(s, "\x00") }

func (c *scm) OpenSCMW(_ context.Context, r *svcctl.OpenSCMWRequest) (*svcctl.OpenSCMWResponse, error) {
	s := c.services
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "OpenSCManagerW")
	access := managerAccess(r.DesiredAccess)
	out := &svcctl.OpenSCMWResponse{SCM: &svcctl.Handle{}}
	db := text(r.DatabaseName)
	switch {
	case s.faults.Denied || (s.faults.CreateDenied || c.ordinary) && access&managerCreate != 0:
		out.Return = uint32(ErrAccessDenied)
	case db != "" && !strings.EqualFold(db, "ServicesActive"):
		out.Return = uint32(ErrNoDatabase)
	default:
		out.SCM = c.open(&handle{access: access})
	}
	return out, nil
}

func (c *scm) CloseService(_ context.Context, r *svcctl.CloseServiceRequest) (*svcctl.CloseServiceResponse, error) {
	id := handleID(r.ServiceObject)
	c.services.mu.Lock()
	mine := c.mine[id]
	delete(c.mine, id)
	c.services.mu.Unlock()
	if !mine {
		return &svcctl.CloseServiceResponse{ServiceObject: r.ServiceObject, Return: uint32(ErrInvalidHandle)}, nil
	}
	return &svcctl.CloseServiceResponse{ServiceObject: &svcctl.Handle{}, Return: uint32(c.services.closeHandle(id))}, nil
}

func (c *scm) CreateServiceW(_ context.Context, r *svcctl.CreateServiceWRequest) (*svcctl.CreateServiceWResponse, error) {
	name, display, command := text(r.ServiceName), text(r.DisplayName), text(r.BinaryPathName)
	_, code := c.enter("CreateServiceW "+name, r.ServiceManager, true, managerCreate)
	defer c.leave()
	out := &svcctl.CreateServiceWResponse{Service: &svcctl.Handle{}}
	if code == 0 {
		code = c.services.mayCreate(name, display, command, r.ServiceType, r.StartType)
	}
	if display == "" {
		display = name
	}
	if code == 0 && c.services.Backend != nil {
		out.Service, code = c.createThere(name, display, command, r.StartType, r.DesiredAccess)
		out.Return = uint32(code)
		return out, nil
	}
	if code != 0 {
		out.Return = uint32(code)
		return out, nil
	}
	svc := &service{Service: Service{Name: name, DisplayName: display, Command: command, Account: text(r.ServiceStartName),
		Type: r.ServiceType, StartType: r.StartType, State: Stopped, ExitCode: ErrNeverStarted}}
	c.services.put(svc)
	out.Service = c.open(&handle{svc: svc, access: serviceAccess(r.DesiredAccess)})
	return out, nil
}

func (s *Services) mayCreate(name, display, command string, typ, start uint32) Win32 {
	if name == "" || len(name) > 256 || strings.ContainsAny(name, `/\`) {
		return ErrInvalidName
	}
	kind := typ &^ typeInteractive
	if command == "" || kind != typeOwnProcess && kind != typeShareProcess || start < startAuto || start > startDisabled {
		return ErrInvalidParameter
	}
	if old := s.byName[strings.ToLower(name)]; old != nil {
		if old.Deleted {
			return ErrMarkedForDelete
		}
		return ErrServiceExists
	}
	return s.displayTaken(nil, display)
}

// displayTaken reports a display name that another service has.
func (s *Services) displayTaken(self *service, display string) Win32 {
	for _, other := range s.byName {
		if other != self && display != "" && (strings.EqualFold(other.DisplayName, display) || strings.EqualFold(other.Name, display)) {
			return ErrDuplicateName
		}
	}
	return 0
}

func (c *scm) OpenServiceW(_ context.Context, r *svcctl.OpenServiceWRequest) (*svcctl.OpenServiceWResponse, error) {
	_, code := c.enter("OpenServiceW "+text(r.ServiceName), r.ServiceManager, true, 0)
	defer c.leave()
	out := &svcctl.OpenServiceWResponse{Service: &svcctl.Handle{}}
	if code == 0 && c.services.Backend != nil {
		out.Service, code = c.openThere(text(r.ServiceName), r.DesiredAccess)
		out.Return = uint32(code)
		return out, nil
	}
	svc := c.services.byName[strings.ToLower(text(r.ServiceName))]
	if code == 0 && svc == nil {
		code = ErrNoService
	}
	if out.Return = uint32(code); code == 0 {
		out.Service = c.open(&handle{svc: svc, access: serviceAccess(r.DesiredAccess)})
	}
	return out, nil
}

func (c *scm) StartServiceW(_ context.Context, r *svcctl.StartServiceWRequest) (*svcctl.StartServiceWResponse, error) {
	h, code := c.enter("StartServiceW", r.Service, false, serviceStart)
	defer c.leave()
	if code == 0 {
		var args []string
		for _, a := range r.Argv {
			if a != nil {
				args = append(args, text(a.StringPointer))
			}
		}
		if c.services.Backend != nil {
			code = c.startThere(h, args)
		} else {
			code = c.services.start(h.svc, args)
		}
	}
	return &svcctl.StartServiceWResponse{Return: uint32(code)}, nil
}

func (c *scm) ControlService(_ context.Context, r *svcctl.ControlServiceRequest) (*svcctl.ControlServiceResponse, error) {
	rights := uint32(serviceInterrogate)
	if r.Control == controlStop {
		rights = serviceStop
	}
	h, code := c.enter("ControlService", r.Service, false, rights)
	defer c.leave()
	out := &svcctl.ControlServiceResponse{ServiceStatus: &svcctl.ServiceStatus{}, Return: uint32(code)}
	if code == 0 && c.services.Backend != nil {
		code = c.controlThere(h, r.Control)
		out.ServiceStatus, out.Return = h.svc.status(), uint32(code)
		return out, nil
	}
	if code != 0 {
		return out, nil
	}
	switch {
	case r.Control != controlStop && r.Control != controlInterrogate:
		code = ErrInvalidControl
	case h.svc.State == Stopped:
		code = ErrNotActive
	case r.Control == controlStop && h.svc.State != Running:
		code = ErrCannotAcceptCtrl
	case r.Control == controlStop:
		c.services.stop(h.svc)
	}
	out.ServiceStatus, out.Return = h.svc.status(), uint32(code)
	return out, nil
}

func (c *scm) DeleteService(_ context.Context, r *svcctl.DeleteServiceRequest) (*svcctl.DeleteServiceResponse, error) {
	h, code := c.enter("DeleteService", r.Service, false, serviceDelete)
	defer c.leave()
	switch {
	case code != 0:
	case c.services.Backend != nil:
		code = c.services.there(func(b Backend) error { return b.DeleteService(h.there) })
	case h.svc.Deleted:
		code = ErrMarkedForDelete
	default:
		h.svc.Deleted = true
	}
	return &svcctl.DeleteServiceResponse{Return: uint32(code)}, nil
}

func (c *scm) QueryServiceStatus(_ context.Context, r *svcctl.QueryServiceStatusRequest) (*svcctl.QueryServiceStatusResponse, error) {
	h, code := c.enter("QueryServiceStatus", r.Service, false, serviceQueryStatus)
	defer c.leave()
	if code == 0 {
		code = c.services.refresh(h)
	}
	out := &svcctl.QueryServiceStatusResponse{ServiceStatus: &svcctl.ServiceStatus{}, Return: uint32(code)}
	if code == 0 {
		out.ServiceStatus = h.svc.status()
	}
	return out, nil
}

func (c *scm) QueryServiceStatusEx(_ context.Context, r *svcctl.QueryServiceStatusExRequest) (*svcctl.QueryServiceStatusExResponse, error) {
	h, code := c.enter("QueryServiceStatusEx", r.Service, false, serviceQueryStatus)
	defer c.leave()
	out := &svcctl.QueryServiceStatusExResponse{BufferLength: r.BufferLength, Buffer: make([]byte, min(r.BufferLength, maxBuffer))}
	switch {
	case code != 0:
	case r.InfoLevel != 0:
		code = ErrInvalidLevel
	case r.BufferLength < 36:
		code, out.BytesNeededLength = ErrInsufficientBuffer, 36
	default:
		if code = c.services.refresh(h); code == 0 {
			copy(out.Buffer, appendStatus(nil, h.svc, true))
		}
	}
	out.Return = uint32(code)
	return out, nil
}

func (c *scm) QueryServiceConfigW(_ context.Context, r *svcctl.QueryServiceConfigWRequest) (*svcctl.QueryServiceConfigWResponse, error) {
	h, code := c.enter("QueryServiceConfigW", r.Service, false, serviceQueryConfig)
	defer c.leave()
	code = c.services.here(code)
	out := &svcctl.QueryServiceConfigWResponse{ServiceConfig: &svcctl.QueryServiceConfigW{}}
	if code == 0 {
		account := h.svc.Account
		if account == "" {
			account = "LocalSystem"
		}
		need := 36
		for _, s := range []string{h.svc.Command, "", "", account, h.svc.DisplayName} {
			need += len(utf16z(s))
		}
		if out.BytesNeededLength = uint32(need); r.BufferLength < uint32(need) {
			code = ErrInsufficientBuffer
		} else {
			out.ServiceConfig = &svcctl.QueryServiceConfigW{ServiceType: h.svc.Type, StartType: h.svc.StartType, ErrorControl: 1,
				BinaryPathName: h.svc.Command, ServiceStartName: account, DisplayName: h.svc.DisplayName}
		}
	}
	out.Return = uint32(code)
	return out, nil
}

func (c *scm) ChangeServiceConfigW(_ context.Context, r *svcctl.ChangeServiceConfigWRequest) (*svcctl.ChangeServiceConfigWResponse, error) {
	h, code := c.enter("ChangeServiceConfigW", r.Service, false, serviceChangeConfig)
	defer c.leave()
	code = c.services.here(code)
	display := text(r.DisplayName)
	if code == 0 {
		if code = c.services.displayTaken(h.svc, display); h.svc.Deleted {
			code = ErrMarkedForDelete
		}
	}
	if code == 0 {
		if r.ServiceType != noChange {
			h.svc.Type = r.ServiceType
		}
		if r.StartType != noChange {
			h.svc.StartType = r.StartType
		}
		if s := text(r.BinaryPathName); s != "" {
			h.svc.Command = s
		}
		if s := text(r.ServiceStartName); s != "" {
			h.svc.Account = s
		}
		if display != "" {
			h.svc.DisplayName = display
		}
	}
	return &svcctl.ChangeServiceConfigWResponse{TagID: r.TagID, Return: uint32(code)}, nil
}

// ChangeServiceConfig2W keeps a description; failure actions and the like have no
// effect here.
func (c *scm) ChangeServiceConfig2W(_ context.Context, r *svcctl.ChangeServiceConfig2WRequest) (*svcctl.ChangeServiceConfig2WResponse, error) {
	h, code := c.enter("ChangeServiceConfig2W", r.Service, false, serviceChangeConfig)
	defer c.leave()
	code = c.services.here(code)
	if code == 0 && h.svc.Deleted {
		code = ErrMarkedForDelete
	}
	if code == 0 && r.Info != nil && r.Info.ConfigInfoW != nil {
		if d, ok := r.Info.ConfigInfoW.GetValue().(*svcctl.ServiceDescriptionW); ok && d != nil {
			h.svc.Description = text(d.Description)
		}
	}
	return &svcctl.ChangeServiceConfig2WResponse{Return: uint32(code)}, nil
}
