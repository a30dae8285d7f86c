package smbtest_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

const all = 0x02000000 // MAXIMUM_ALLOWED

// scm wraps the calls that these tests make. Each returns the code of Windows.
type scm struct {
	t *testing.T
	c svcctl.SvcctlClient
	m *svcctl.Handle
}

func manager(t *testing.T, s *smbtest.Server) scm {
	t.Helper()
	c := control(t, login(t, s))
	r, err := c.OpenSCMW(t.Context(), &svcctl.OpenSCMWRequest{DesiredAccess: 0xF003F})
	require.NoError(t, err)
	return scm{t, c, r.SCM}
}

func (s scm) create(name, command string) (*svcctl.Handle, smbtest.Win32) {
	s.t.Helper()
	r, err := s.c.CreateServiceW(s.t.Context(), &svcctl.CreateServiceWRequest{ServiceManager: s.m, ServiceName: name, DisplayName: name + " display",
		DesiredAccess: 0xF01FF, ServiceType: 0x10, StartType: 3, BinaryPathName: command})
	require.NotNil(s.t, r, "%v", err)
	return r.Service, smbtest.Win32(r.Return)
}

func (s scm) open(name string, access uint32) (*svcctl.Handle, smbtest.Win32) {
	s.t.Helper()
	r, err := s.c.OpenServiceW(s.t.Context(), &svcctl.OpenServiceWRequest{ServiceManager: s.m, ServiceName: name, DesiredAccess: access})
	require.NotNil(s.t, r, "%v", err)
	return r.Service, smbtest.Win32(r.Return)
}

func (s scm) start(h *svcctl.Handle, args ...string) smbtest.Win32 {
	s.t.Helper()
	req := &svcctl.StartServiceWRequest{Service: h, Argc: uint32(len(args))}
	for _, a := range args {
		req.Argv = append(req.Argv, &svcctl.UnicodeString{StringPointer: a})
	}
	r, err := s.c.StartServiceW(s.t.Context(), req)
	require.NotNil(s.t, r, "%v", err)
	return smbtest.Win32(r.Return)
}

func (s scm) stop(h *svcctl.Handle) (smbtest.State, smbtest.Win32) {
	s.t.Helper()
	r, err := s.c.ControlService(s.t.Context(), &svcctl.ControlServiceRequest{Service: h, Control: 1})
	require.NotNil(s.t, r, "%v", err)
	return smbtest.State(r.ServiceStatus.CurrentState), smbtest.Win32(r.Return)
}

func (s scm) query(h *svcctl.Handle) *svcctl.ServiceStatus {
	s.t.Helper()
	r, err := s.c.QueryServiceStatus(s.t.Context(), &svcctl.QueryServiceStatusRequest{Service: h})
	require.NoError(s.t, err)
	return r.ServiceStatus
}

func (s scm) await(h *svcctl.Handle, want smbtest.State) *svcctl.ServiceStatus {
	s.t.Helper()
	var st *svcctl.ServiceStatus
	eventually(s.t, func() bool { st = s.query(h); return smbtest.State(st.CurrentState) == want }, "the service is not "+want.String())
	return st
}

func (s scm) delete(h *svcctl.Handle) smbtest.Win32 {
	s.t.Helper()
	r, err := s.c.DeleteService(s.t.Context(), &svcctl.DeleteServiceRequest{Service: h})
	require.NotNil(s.t, r, "%v", err)
	return smbtest.Win32(r.Return)
}

func (s scm) close(h *svcctl.Handle) smbtest.Win32 {
	s.t.Helper()
	r, err := s.c.CloseService(s.t.Context(), &svcctl.CloseServiceRequest{ServiceObject: h})
	require.NotNil(s.t, r, "%v", err)
	return smbtest.Win32(r.Return)
}

func TestServiceLifecycle(t *testing.T) {
	var ran [][]string
	stops := 0
	services := &smbtest.Services{Run: func(name string, argv []string) (func(), error) {
		ran = append(ran, append([]string{name}, argv...))
		return func() { stops++ }, nil
	}}
	s := newServer(t, smbtest.Config{Signing: "optional", Services: services})
	m := manager(t, s)

	_, code := m.open("agent", all)
	require.Equal(t, smbtest.ErrNoService, code)
	h, code := m.create("Agent", `"C:\Windows\two words\agent.exe" serve --name "a b"`)
	require.Zero(t, code)
	_, code = m.create("aGENT", "x")
	require.Equal(t, smbtest.ErrServiceExists, code)
	_, code = m.create(`a\b`, "x")
	require.Equal(t, smbtest.ErrInvalidName, code)
	_, code = m.create("x", "")
	require.Equal(t, smbtest.ErrInvalidParameter, code)
	for _, display := range []string{"agent display", "AGENT"} {
		r, err := m.c.CreateServiceW(t.Context(), &svcctl.CreateServiceWRequest{ServiceManager: m.m, ServiceName: "other", DisplayName: display, ServiceType: 0x10, StartType: 3, BinaryPathName: "x"})
		require.NotNil(t, r, "%v", err)
		require.Equal(t, smbtest.ErrDuplicateName, smbtest.Win32(r.Return))
	}
	require.Equal(t, uint32(smbtest.ErrNeverStarted), m.query(h).Win32ExitCode)
	_, code = m.stop(h)
	require.Equal(t, smbtest.ErrNotActive, code)

	for range 2 {
		require.Zero(t, m.start(h, "Agent", "with space"))
		st := m.query(h)
		require.Equal(t, smbtest.Running, smbtest.State(st.CurrentState))
		require.Equal(t, uint32(1), st.ControlsAccepted)
		require.Equal(t, smbtest.ErrAlreadyRunning, m.start(h))
		svc, ok := services.Lookup("agent")
		require.True(t, ok)
		require.Equal(t, []string{"Agent", "with space"}, svc.Args)
		ex, err := m.c.QueryServiceStatusEx(t.Context(), &svcctl.QueryServiceStatusExRequest{Service: h, BufferLength: 36})
		require.NoError(t, err)
		require.Equal(t, uint32(smbtest.Running), binary.LittleEndian.Uint32(ex.Buffer[4:]))
		require.Equal(t, svc.PID, binary.LittleEndian.Uint32(ex.Buffer[28:]))
		require.NotZero(t, svc.PID)
		state, code := m.stop(h)
		require.Zero(t, code)
		require.Equal(t, smbtest.StopPending, state)
		m.await(h, smbtest.Stopped)
	}
	require.Equal(t, [][]string{
		{"Agent", `C:\Windows\two words\agent.exe`, "serve", "--name", "a b"},
		{"Agent", `C:\Windows\two words\agent.exe`, "serve", "--name", "a b"},
	}, ran)
	require.Equal(t, 2, stops)

	config, err := m.c.QueryServiceConfigW(t.Context(), &svcctl.QueryServiceConfigWRequest{Service: h, BufferLength: 8192})
	require.NoError(t, err)
	require.Equal(t, `"C:\Windows\two words\agent.exe" serve --name "a b"`, config.ServiceConfig.BinaryPathName)
	require.Equal(t, "Agent display", config.ServiceConfig.DisplayName)
	_, err = m.c.ChangeServiceConfigW(t.Context(), &svcctl.ChangeServiceConfigWRequest{Service: h, ServiceType: 0xFFFFFFFF, StartType: 4, ErrorControl: 0xFFFFFFFF})
	require.NoError(t, err)
	require.Equal(t, smbtest.ErrDisabled, m.start(h))

	// Deleted while somebody has it open: marked until the last handle goes.
	other, code := m.open("AGENT", 4) // SERVICE_QUERY_STATUS
	require.Zero(t, code)
	require.Equal(t, smbtest.ErrAccessDenied, m.delete(other))
	require.Equal(t, smbtest.ErrAccessDenied, m.start(other))
	require.Zero(t, m.delete(h))
	require.Equal(t, smbtest.ErrMarkedForDelete, m.delete(h))
	require.Equal(t, smbtest.ErrMarkedForDelete, m.start(h))
	_, code = m.create("agent", "x")
	require.Equal(t, smbtest.ErrMarkedForDelete, code)
	require.Equal(t, 3, services.Handles())
	// A handle is good on its own connection only.
	stranger := manager(t, s)
	require.Equal(t, smbtest.ErrInvalidHandle, stranger.start(h))
	require.Equal(t, smbtest.ErrInvalidHandle, stranger.close(h))
	require.Zero(t, stranger.close(stranger.m))
	require.Zero(t, m.close(h))
	require.Equal(t, smbtest.ErrInvalidHandle, m.close(h))
	require.Equal(t, smbtest.ErrInvalidHandle, m.start(h))
	require.Equal(t, smbtest.ErrInvalidHandle, m.start(m.m))
	require.Len(t, services.List(), 1)
	require.Zero(t, m.close(other))
	require.Empty(t, services.List())
	_, code = m.open("agent", all)
	require.Equal(t, smbtest.ErrNoService, code)
	require.Zero(t, m.close(m.m))
	require.Zero(t, services.Handles())
	require.Contains(t, services.Calls(), "DeleteService Agent")
}

// TestDeleteWhileRunning: a service that runs is marked, and goes when it has
// stopped; a client that vanishes leaves no handle behind.
func TestDeleteWhileRunning(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	m := manager(t, s)
	h, code := m.create("agent", "x")
	require.Zero(t, code)
	require.Zero(t, m.start(h))
	require.Zero(t, m.delete(h))
	release, err := s.Services().Hold("agent")
	require.NoError(t, err)
	require.Equal(t, 3, s.Services().Handles())
	s.CloseConnections()
	eventually(t, func() bool { return s.Services().Handles() == 1 }, "the handles of a lost client stay open")
	svc, ok := s.Services().Lookup("agent")
	require.True(t, ok)
	require.True(t, svc.Deleted)
	m = manager(t, s)
	h, code = m.open("agent", all)
	require.Zero(t, code)
	_, code = m.stop(h)
	require.Zero(t, code)
	m.await(h, smbtest.Stopped)
	require.Zero(t, m.close(h))
	require.Len(t, s.Services().List(), 1)
	release()
	release()
	require.Empty(t, s.Services().List())
	_, err = s.Services().Hold("agent")
	require.ErrorIs(t, err, smbtest.ErrNoService)
}

func TestServiceFaults(t *testing.T) {
	services := new(smbtest.Services)
	s := newServer(t, smbtest.Config{Signing: "optional", Services: services})
	m := manager(t, s)
	h, code := m.create("agent", "x")
	require.Zero(t, code)

	services.SetFaults(smbtest.Faults{Denied: true})
	require.Equal(t, smbtest.ErrAccessDenied, m.start(h))
	_, code = m.open("agent", all)
	require.Equal(t, smbtest.ErrAccessDenied, code)
	_, code = m.create("other", "x")
	require.Equal(t, smbtest.ErrAccessDenied, code)

	services.SetFaults(smbtest.Faults{CreateDenied: true})
	r, err := m.c.OpenSCMW(t.Context(), &svcctl.OpenSCMWRequest{DesiredAccess: 0x80000000})
	require.NoError(t, err)
	require.Zero(t, m.close(r.SCM))
	r, _ = m.c.OpenSCMW(t.Context(), &svcctl.OpenSCMWRequest{DesiredAccess: all})
	require.Equal(t, uint32(smbtest.ErrAccessDenied), r.Return)

	for _, want := range []smbtest.Win32{smbtest.ErrStartTimeout, 1069} {
		services.SetFaults(smbtest.Faults{StartError: want})
		require.Equal(t, want, m.start(h))
		require.Equal(t, uint32(smbtest.Stopped), m.query(h).CurrentState)
	}

	services.SetFaults(smbtest.Faults{ExitCode: smbtest.ErrProcessAborted})
	require.Zero(t, m.start(h))
	require.Equal(t, uint32(smbtest.ErrProcessAborted), m.await(h, smbtest.Stopped).Win32ExitCode)

	services.SetFaults(smbtest.Faults{HoldStart: true, HoldStop: true})
	require.Zero(t, m.start(h))
	require.Equal(t, uint32(smbtest.StartPending), m.query(h).CurrentState)
	_, code = m.stop(h)
	require.Equal(t, smbtest.ErrCannotAcceptCtrl, code)
	services.SetFaults(smbtest.Faults{HoldStop: true})
	require.Equal(t, uint32(smbtest.Running), m.query(h).CurrentState)
	state, code := m.stop(h)
	require.Zero(t, code)
	require.Equal(t, smbtest.StopPending, state)
	_, code = m.stop(h)
	require.Equal(t, smbtest.ErrCannotAcceptCtrl, code)
	require.Equal(t, uint32(smbtest.StopPending), m.query(h).CurrentState)
	services.SetFaults(smbtest.Faults{})
	m.await(h, smbtest.Stopped)

	require.Zero(t, m.start(h))
	services.Exit("AGENT", smbtest.ErrSpecific, 7)
	st := m.await(h, smbtest.Stopped)
	require.Equal(t, uint32(7), st.ServiceSpecificExitCode)
	require.Equal(t, uint32(smbtest.ErrSpecific), st.Win32ExitCode)
}

func TestEnumerate(t *testing.T) {
	services := new(smbtest.Services)
	for i := range 30 {
		state := smbtest.Stopped
		if i%2 == 0 {
			state = smbtest.Running
		}
		require.NoError(t, services.Add(smbtest.Service{Name: fmt.Sprintf("svc%02d-größe", i), Command: "x", State: state}))
	}
	require.ErrorIs(t, services.Add(smbtest.Service{Name: "SVC00-größe"}), smbtest.ErrServiceExists)
	s := newServer(t, smbtest.Config{Signing: "optional", Services: services})
	m := manager(t, s)
	for _, process := range []bool{true, false} {
		var names []string
		rounds := 0
		for resume := uint32(0); ; rounds++ {
			var buf []byte
			var n, code uint32
			entry := 44
			if process {
				r, err := m.c.EnumServicesStatusExW(t.Context(), &svcctl.EnumServicesStatusExWRequest{ServiceManager: m.m, ServiceType: 0x30, ServiceState: 1, BufferLength: 600, ResumeIndex: resume})
				require.NotNil(t, r, "%v", err)
				buf, n, code, resume = r.Buffer, r.ServicesReturned, r.Return, r.ResumeIndex
			} else {
				entry = 36
				r, err := m.c.EnumServicesStatusW(t.Context(), &svcctl.EnumServicesStatusWRequest{ServiceManager: m.m, ServiceType: 0x30, ServiceState: 1, BufferLength: 600, ResumeIndex: resume})
				require.NotNil(t, r, "%v", err)
				buf, n, code, resume = r.Buffer, r.ServicesReturned, r.Return, r.ResumeIndex
			}
			for i := range int(n) {
				e := buf[i*entry:]
				require.Equal(t, uint32(smbtest.Running), binary.LittleEndian.Uint32(e[12:]))
				var name []rune
				for o := binary.LittleEndian.Uint32(e); ; o += 2 {
					u := binary.LittleEndian.Uint16(buf[o:])
					if u == 0 {
						break
					}
					name = append(name, rune(u))
				}
				names = append(names, string(name))
			}
			if code == 0 {
				break
			}
			require.Equal(t, smbtest.ErrMoreData, smbtest.Win32(code))
		}
		require.Len(t, names, 15)
		require.Equal(t, "svc28-größe", names[14])
		require.Positive(t, rounds)
	}
}
