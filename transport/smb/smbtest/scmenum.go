package smbtest

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
)

// maxBuffer is what a client may ask for at once (MS-SCMR, 3.1.4.39).
const maxBuffer = 256 << 10

// status is SERVICE_STATUS (MS-SCMR, 2.2.47).
func (s *service) status() *svcctl.ServiceStatus {
	out := &svcctl.ServiceStatus{ServiceType: s.Type, CurrentState: uint32(s.State), Win32ExitCode: uint32(s.ExitCode), ServiceSpecificExitCode: s.SpecificExitCode}
	switch s.State {
	case Running:
		out.ControlsAccepted = acceptStop
	case StartPending, StopPending:
		out.CheckPoint, out.WaitHint = 1, 2000
	}
	return out
}

// appendStatus appends SERVICE_STATUS, or SERVICE_STATUS_PROCESS (2.2.49), as it
// stands in a buffer.
func appendStatus(b []byte, s *service, process bool) []byte {
	st := s.status()
	for _, v := range []uint32{st.ServiceType, st.CurrentState, st.ControlsAccepted, st.Win32ExitCode, st.ServiceSpecificExitCode, st.CheckPoint, st.WaitHint} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	if process {
		b = binary.LittleEndian.AppendUint32(b, s.PID)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	return b
}

// utf16z is a string with its end, as Windows keeps it.
func utf16z(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// enumerate fills a buffer with an array of ENUM_SERVICE_STATUSW, or
// ENUM_SERVICE_STATUS_PROCESSW (MS-SCMR, 2.2.11 and 2.2.12), and the names that
// it refers to. It is called with the lock held.
func (s *Services) enumerate(typ, state, size, resume uint32, process bool) (buf []byte, count, next, need uint32, code Win32) {
	var all []*service
	for _, svc := range s.byName {
		active := svc.State != Stopped
		if svc.Type&typ != 0 && (active && state&1 != 0 || !active && state&2 != 0) {
			all = append(all, svc)
		}
	}
	slices.SortFunc(all, func(a, b *service) int { return strings.Compare(a.Name, b.Name) })
	all = all[min(int(resume), len(all)):]
	entry := 36
	if process {
		entry = 44
	}
	used, fit := 0, 0
	for i, svc := range all {
		n := entry + len(utf16z(svc.Name)) + len(utf16z(svc.DisplayName))
		if i == fit && used+n <= int(size) {
			used, fit = used+n, fit+1
		} else {
			need += uint32(n)
		}
	}
	var names []byte
	for _, svc := range all[:fit] {
		for _, name := range []string{svc.Name, svc.DisplayName} {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(entry*fit+len(names)))
			names = append(names, utf16z(name)...)
		}
		buf = appendStatus(buf, svc, process)
	}
	buf = append(buf, names...)
	buf = append(buf, make([]byte, int(size)-len(buf))...)
	if fit < len(all) {
		code, next = ErrMoreData, resume+uint32(fit)
	}
	return buf, uint32(fit), next, need, code
}

func (c *scm) EnumServicesStatusW(_ context.Context, r *svcctl.EnumServicesStatusWRequest) (*svcctl.EnumServicesStatusWResponse, error) {
	_, code := c.enter("EnumServicesStatusW", r.ServiceManager, true, managerEnumerate)
	defer c.leave()
	code = c.services.here(code)
	size := min(r.BufferLength, maxBuffer)
	out := &svcctl.EnumServicesStatusWResponse{BufferLength: size, Buffer: make([]byte, size)}
	if code == 0 {
		out.Buffer, out.ServicesReturned, out.ResumeIndex, out.BytesNeededLength, code = c.services.enumerate(r.ServiceType, r.ServiceState, size, r.ResumeIndex, false)
	}
	out.Return = uint32(code)
	return out, nil
}

func (c *scm) EnumServicesStatusExW(_ context.Context, r *svcctl.EnumServicesStatusExWRequest) (*svcctl.EnumServicesStatusExWResponse, error) {
	_, code := c.enter("EnumServicesStatusExW", r.ServiceManager, true, managerEnumerate)
	defer c.leave()
	code = c.services.here(code)
	size := min(r.BufferLength, maxBuffer)
	out := &svcctl.EnumServicesStatusExWResponse{BufferLength: size, Buffer: make([]byte, size)}
	if code == 0 && r.InfoLevel != 0 {
		code = ErrInvalidLevel
	}
	if code == 0 {
		out.Buffer, out.ServicesReturned, out.ResumeIndex, out.BytesNeededLength, code = c.services.enumerate(r.ServiceType, r.ServiceState, size, r.ResumeIndex, true)
	}
	out.Return = uint32(code)
	return out, nil
}

// EnumDependentServicesW says that no service depends on another.
func (c *scm) EnumDependentServicesW(_ context.Context, r *svcctl.EnumDependentServicesWRequest) (*svcctl.EnumDependentServicesWResponse, error) {
	_, code := c.enter("EnumDependentServicesW", r.Service, false, serviceEnumDep)
	defer c.leave()
	size := min(r.BufferLength, maxBuffer)
	return &svcctl.EnumDependentServicesWResponse{BufferLength: size, Services: make([]byte, size), Return: uint32(code)}, nil
}
