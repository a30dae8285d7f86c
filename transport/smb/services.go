package smb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/roundsman-go/roundsman/transport"
)

// Rights, types and states of MS-SCMR, sections 2.2.15, 3.1.4 and 3.1.4.12.
const (
	managerConnect = 0x0001
	managerCreate  = 0x0002

	rightDelete = 0x00010000
	rightQuery  = 0x0004
	rightStart  = 0x0010
	rightStop   = 0x0020

	ownProcess   = 0x10
	demandStart  = 3
	errorNormal  = 1
	controlStop  = 1
	processInfo  = 0 // SC_STATUS_PROCESS_INFO
	statusBuffer = 36

	stateStopped      = 1
	stateStartPending = 2
	stateStopPending  = 3
	stateRunning      = 4
)

// Win32 codes that are treated as more than a failure.
const (
	winAccessDenied  = 5
	winNotActive     = 1062
	winNeverStarted  = 1077
	winSpecificError = 1066
)

// manager is the service control manager of the host within one call.
type manager struct {
	k   *call
	ctx context.Context
	cli svcctl.SvcctlClient
	scm *svcctl.Handle
}

// services calls f with the service control manager, opened with the given rights.
func (c *conn) services(ctx context.Context, op, name string, rights uint32, f func(m *manager) error) error {
	if err := checkService(name, rights&managerCreate != 0); err != nil {
		return &transport.Error{Op: op, Target: c.target, Path: name, Kind: transport.ErrInvalid, Err: err}
	}
	k, err := c.begin(ctx, op, name)
	if err != nil {
		return err
	}
	defer k.end()
	_, err = work(k, func() (struct{}, error) {
		opened := false
		with := func(security dcerpc.Option) func(ctx context.Context, cc dcerpc.Conn) error {
			return func(ctx context.Context, cc dcerpc.Conn) error {
				cli, err := svcctl.NewSvcctlClient(ctx, cc, security)
				if err != nil {
					return err
				}
				resp, err := cli.OpenSCMW(ctx, &svcctl.OpenSCMWRequest{DesiredAccess: rights})
				if err != nil {
					if resp != nil && resp.Return != 0 {
						return winError(resp.Return)
					}
					return err
				}
				opened = true
				m := &manager{k, ctx, cli, resp.SCM}
				defer m.close(resp.SCM)
				return f(m)
			}
		}
		if c.managerPort.Load() == 0 {
			err := k.rpc("svcctl", with(dcerpc.WithInsecure()))
			if err == nil || opened || !refusesPipe(err) {
				return struct{}{}, err
			}
			port, perr := k.endpoint(svcctl.SvcctlSyntaxV2_0, ruleMapper)
			if perr != nil {
				return struct{}{}, &transport.Error{Kind: kindOf(perr), Err: errors.Join(err, perr),
					Hint: "the host refuses control of its services over named pipes, and its endpoint mapper cannot be asked for another way"}
			}
			c.managerPort.Store(uint32(port))
		}
		err := k.sealed(uint16(c.managerPort.Load()), ruleManager, with(k.seal()))
		if err != nil && !opened {
			c.managerPort.Store(0) // nobody proved that this is the port: the next call asks again
		}
		return struct{}{}, err
	})
	return err
}

// The rules of the Windows firewall that let the second way to the service control
// manager in.
const (
	ruleMapper  = "the endpoint mapper (rule Remote Service Management (RPC-EPMAP))"
	ruleManager = "the service control manager (rule Remote Service Management (RPC))"
)

// refusesPipe reports whether a host will have its services controlled, but not over the
// pipe: RPC_S_CANNOT_SUPPORT or RPC_S_PROTSEQ_NOT_SUPPORTED, as the result of an
// operation or as the status of a fault.
func refusesPipe(err error) bool {
	switch transport.CodeOf(err) {
	case winCode(1764), winCode(1703), rpcCode(1764), rpcCode(1703):
		return true
	}
	return false
}

// kindOf is the class of an error.
func kindOf(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		return te.Kind
	}
	return transport.ErrProtocol
}

// checkService refuses names that no service has. A new one has no comma or blank,
// either (MS-SCMR, section 3.1.4.12).
func checkService(name string, isNew bool) error {
	never := "/\\\x00"
	if isNew {
		never += ", "
	}
	switch {
	case name == "":
		return errors.New("the service has no name")
	case len(name) > 256 || strings.ContainsAny(name, never):
		return fmt.Errorf("%q is no name of a service: no slash or backslash, in a new one no comma or blank, and at most 256 characters", name)
	}
	return nil
}

// close closes a handle: one that is open keeps a service that is to be deleted. Those of
// a call that has ended the server itself closes, when the pipe is (MS-SCMR, section
// 3.1.6).
func (m *manager) close(h *svcctl.Handle) {
	if m.ctx.Err() == nil {
		_, _ = m.cli.CloseService(m.ctx, &svcctl.CloseServiceRequest{ServiceObject: h})
	}
}

// open opens a service.
func (m *manager) open(name string, rights uint32) (*svcctl.Handle, error) {
	resp, err := m.cli.OpenServiceW(m.ctx, &svcctl.OpenServiceWRequest{ServiceManager: m.scm, ServiceName: name, DesiredAccess: rights})
	if err != nil {
		if resp != nil && resp.Return != 0 {
			return nil, winError(resp.Return)
		}
		return nil, err
	}
	return resp.Service, nil
}

// with calls f with a service.
func (c *conn) with(ctx context.Context, op, name string, rights uint32, f func(m *manager, h *svcctl.Handle) error) error {
	return c.services(ctx, op, name, managerConnect, func(m *manager) error {
		h, err := m.open(name, rights)
		if err != nil {
			return err
		}
		defer m.close(h)
		return f(m, h)
	})
}

// CreateService implements transport.Services: a service that is started on demand, in
// a process of its own, as LocalSystem.
func (c *conn) CreateService(ctx context.Context, cfg transport.ServiceConfig) error {
	const op = "create service"
	if len(cfg.Argv) == 0 || cfg.Argv[0] == "" {
		return &transport.Error{Op: op, Target: c.target, Path: cfg.Name, Kind: transport.ErrInvalid, Hint: "the service has no program"}
	}
	line, err := commandLine(cfg.Argv)
	if err != nil {
		return &transport.Error{Op: op, Target: c.target, Path: cfg.Name, Kind: transport.ErrInvalid, Err: err}
	}
	return c.services(ctx, op, cfg.Name, managerConnect|managerCreate, func(m *manager) error {
		resp, err := m.cli.CreateServiceW(m.ctx, &svcctl.CreateServiceWRequest{
			ServiceManager: m.scm, ServiceName: cfg.Name, DisplayName: cfg.DisplayName, DesiredAccess: rightQuery,
			ServiceType: ownProcess, StartType: demandStart, ErrorControl: errorNormal, BinaryPathName: line,
		})
		if err != nil {
			if resp != nil && resp.Return != 0 {
				return winError(resp.Return)
			}
			return err
		}
		m.close(resp.Service)
		return nil
	})
}

// commandLine writes a command as CommandLineToArgvW and the C runtime read it. The
// program is always quoted: else a blank in its path would let another program in
// front of it begin.
func commandLine(argv []string) (string, error) {
	var b strings.Builder
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", errors.New("an argument with a NUL in it")
		}
		if i > 0 && strings.Count(arg, "%") > 1 {
			return "", fmt.Errorf("%q would have a variable of the environment expanded in it", arg)
		}
		if i == 0 {
			if strings.ContainsRune(arg, '"') {
				return "", errors.New("the path of a program cannot have a quote in it")
			}
			b.WriteString(`"` + arg + `"`)
			continue
		}
		b.WriteByte(' ')
		if arg != "" && !strings.ContainsAny(arg, " \t\n\v\"") {
			b.WriteString(arg)
			continue
		}
		b.WriteByte('"')
		slashes := 0
		for _, r := range arg {
			switch r {
			case '\\':
				slashes++
				continue
			case '"':
				b.WriteString(strings.Repeat(`\`, 2*slashes+1))
			default:
				b.WriteString(strings.Repeat(`\`, slashes))
			}
			slashes = 0
			b.WriteRune(r)
		}
		b.WriteString(strings.Repeat(`\`, 2*slashes) + `"`)
	}
	return b.String(), nil
}

// StartService implements transport.Services. It returns when the service has said
// that it runs, or that it starts.
func (c *conn) StartService(ctx context.Context, name string, args ...string) error {
	return c.with(ctx, "start service", name, rightStart, func(m *manager, h *svcctl.Handle) error {
		req := &svcctl.StartServiceWRequest{Service: h, Argc: uint32(len(args))}
		for _, a := range args {
			req.Argv = append(req.Argv, &svcctl.UnicodeString{StringPointer: a})
		}
		resp, err := m.cli.StartServiceW(m.ctx, req)
		if err != nil && resp != nil && resp.Return != 0 {
			e := winError(resp.Return)
			if resp.Return == winAccessDenied { // whoever has the handle may start it
				e.Hint = "the host does not let the service's own account run the program: security software that blocks it says so, and so do access rights of the file"
			}
			return e
		}
		return err
	})
}

// QueryService implements transport.Services.
func (c *conn) QueryService(ctx context.Context, name string) (st transport.ServiceStatus, err error) {
	err = c.with(ctx, "query service", name, rightQuery, func(m *manager, h *svcctl.Handle) (err error) {
		st, err = m.query(h)
		return err
	})
	return st, err
}

func (m *manager) query(h *svcctl.Handle) (transport.ServiceStatus, error) {
	resp, err := m.cli.QueryServiceStatusEx(m.ctx, &svcctl.QueryServiceStatusExRequest{Service: h, InfoLevel: processInfo, BufferLength: statusBuffer})
	if err != nil {
		if resp != nil && resp.Return != 0 {
			return transport.ServiceStatus{}, winError(resp.Return)
		}
		return transport.ServiceStatus{}, err
	}
	return parseStatus(resp.Buffer)
}

// parseStatus reads a SERVICE_STATUS_PROCESS (MS-SCMR, section 2.2.49).
func parseStatus(b []byte) (st transport.ServiceStatus, err error) {
	if len(b) < statusBuffer {
		return st, badFrame("a status of a service of %d bytes", len(b))
	}
	u := func(i int) uint32 {
		return uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
	}
	switch state := u(1); state {
	case stateStopped:
		st.State = transport.ServiceStopped
	case stateStartPending, 5: // and CONTINUE_PENDING
		st.State = transport.ServiceStarting
	case stateStopPending:
		st.State = transport.ServiceStopping
	case stateRunning, 6, 7: // and PAUSE_PENDING, PAUSED: its process is there
		st.State = transport.ServiceRunning
	default:
		return st, badFrame("a service in state %d", state)
	}
	st.PID = u(7)
	if st.State == transport.ServiceStopped {
		st.PID = 0
		switch code := u(3); code {
		case 0, winNeverStarted:
		case winSpecificError:
			st.Exit = transport.Code{Space: "service", Value: fmt.Sprint(u(4))}
		default:
			st.Exit = winCode(code)
		}
	}
	return st, nil
}

// StopService implements transport.Services. That the service does not run is no
// error.
func (c *conn) StopService(ctx context.Context, name string) error {
	return c.with(ctx, "stop service", name, rightStop|rightQuery, func(m *manager, h *svcctl.Handle) error {
		end := time.Now().Add(c.opts.StopTimeout)
		for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
			resp, err := m.cli.ControlService(m.ctx, &svcctl.ControlServiceRequest{Service: h, Control: controlStop})
			code := uint32(0)
			if err != nil {
				if resp == nil || resp.Return == 0 {
					return err
				}
				code = resp.Return
			}
			switch code {
			case 0, winNotActive, 1061: // 1061: it starts, or stops already
			default:
				return winError(code)
			}
			st, err := m.query(h)
			if err != nil {
				return err
			}
			if st.State == transport.ServiceStopped {
				return nil
			}
			if time.Now().After(end) {
				return &transport.Error{Kind: transport.ErrTimeout, Err: fmt.Errorf("the service is %s after %v", st.State, c.opts.StopTimeout),
					Hint: "its process may hang; it ends when that is ended on the host"}
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-m.ctx.Done():
				timer.Stop()
				return m.ctx.Err()
			}
		}
	})
}

// DeleteService implements transport.Services. One that is marked for deletion already,
// and goes when it stops or the last closes it, is no error.
func (c *conn) DeleteService(ctx context.Context, name string) error {
	return c.with(ctx, "delete service", name, rightDelete, func(m *manager, h *svcctl.Handle) error {
		resp, err := m.cli.DeleteService(m.ctx, &svcctl.DeleteServiceRequest{Service: h})
		if err != nil && resp != nil && resp.Return != 0 {
			if resp.Return == 1072 {
				return nil
			}
			return winError(resp.Return)
		}
		return err
	})
}
