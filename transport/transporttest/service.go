package transporttest

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// A ServiceProgram runs as a service of a target until its context ends, which
// means that it is to stop, or until it returns by itself. It returns why.
type ServiceProgram func(ctx context.Context, t *Target, cfg transport.ServiceConfig, args []string) transport.Code

type serviceScript struct {
	match func(transport.ServiceConfig) bool
	run   ServiceProgram
}

type service struct {
	cfg     transport.ServiceConfig
	run     ServiceProgram
	state   transport.ServiceState
	pid     uint32
	exit    transport.Code
	deleted bool
	stop    context.CancelFunc
	stopped chan struct{} // closed when the program has returned; nil before the first start
}

// waitStopped waits for a program whose context has ended.
func (s *service) waitStopped() {
	if s.stopped != nil {
		<-s.stopped
	}
}

// OnService says which services may be created and what runs when they are
// started. Later scripts go before earlier ones; a service that none accepts is
// a violation.
func (t *Target) OnService(match func(transport.ServiceConfig) bool, run ServiceProgram) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.expects = append(t.expects, serviceScript{match, run})
}

// Services returns the names of the services that are registered, sorted.
func (t *Target) Services() []string {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	var out []string
	for _, s := range t.services {
		out = append(out, s.cfg.Name)
	}
	slices.Sort(out)
	return out
}

// service runs f as a call on a service that must exist; f is called with the
// lock of the fake held.
func (c *conn) service(ctx context.Context, op, name string, f func(s *service) error) (err error) {
	k, err := c.use(ctx, op, name, transport.CapServices)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	s := c.t.services[strings.ToLower(name)]
	if s == nil {
		return c.win32(op, name, fs.ErrNotExist, "1060")
	}
	return f(s)
}

// win32 returns an error with a code of MS-ERREF, section 2.2.
func (c *conn) win32(op, name string, kind error, code string) error {
	e := c.fail(op, name, kind, nil)
	e.Code = transport.Code{Space: "win32", Value: code}
	return e
}

// CreateService implements transport.Services.
func (c *conn) CreateService(ctx context.Context, cfg transport.ServiceConfig) (err error) {
	const op = "create service"
	if cfg.Name == "" || len(cfg.Argv) == 0 || cfg.Argv[0] == "" {
		return c.invalid(ctx, op, cfg.Name, "the service has no name or no program")
	}
	k, err := c.use(ctx, op, cfg.Name, transport.CapServices)
	k.entry.Argv = slices.Clone(cfg.Argv)
	defer func() { k.end(&err) }()
	if err != nil {
		return err
	}
	c.f.mu.Lock()
	scripts := slices.Clone(c.t.expects)
	c.f.mu.Unlock()
	i := len(scripts) - 1
	for i >= 0 && !scripts[i].match(cfg) {
		i--
	}
	if i < 0 {
		return c.fail(op, cfg.Name, transport.ErrRejected, c.f.violate("create service %q on %q: no script for %q", cfg.Name, c.ep.Address, cfg.Argv))
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	key := strings.ToLower(cfg.Name)
	if s := c.t.services[key]; s != nil {
		if s.deleted {
			return c.win32(op, cfg.Name, transport.ErrBusy, "1072") // marked for deletion
		}
		return c.win32(op, cfg.Name, fs.ErrExist, "1073")
	}
	c.t.services[key] = &service{cfg: cfg, run: scripts[i].run, state: transport.ServiceStopped}
	return nil
}

// StartService implements transport.Services.
func (c *conn) StartService(ctx context.Context, name string, args ...string) error {
	const op = "start service"
	return c.service(ctx, op, name, func(s *service) error {
		if s.state != transport.ServiceStopped {
			return c.win32(op, name, transport.ErrRejected, "1056")
		}
		c.f.lastPID++
		s.state, s.pid, s.exit = transport.ServiceRunning, uint32(c.f.lastPID), transport.Code{}
		life, stop := context.WithCancel(c.t.boot)
		stopped := make(chan struct{})
		s.stop, s.stopped = stop, stopped
		args := slices.Clone(args)
		c.f.spawn(func() {
			exit := s.run(life, c.t, s.cfg, args)
			stop()
			c.f.mu.Lock()
			s.state, s.pid, s.exit = transport.ServiceStopped, 0, exit
			if s.deleted {
				delete(c.t.services, strings.ToLower(name))
			}
			c.f.mu.Unlock()
			close(stopped)
		})
		return nil
	})
}

// QueryService implements transport.Services.
func (c *conn) QueryService(ctx context.Context, name string) (st transport.ServiceStatus, err error) {
	err = c.service(ctx, "query service", name, func(s *service) error {
		st = transport.ServiceStatus{State: s.state, PID: s.pid, Exit: s.exit}
		return nil
	})
	return st, err
}

// StopService implements transport.Services.
func (c *conn) StopService(ctx context.Context, name string) error {
	const op = "stop service"
	var stopped <-chan struct{}
	err := c.service(ctx, op, name, func(s *service) error {
		if s.state == transport.ServiceStopped {
			return c.win32(op, name, transport.ErrRejected, "1062")
		}
		s.state = transport.ServiceStopping
		s.stop()
		stopped = s.stopped
		return nil
	})
	if err != nil {
		return err
	}
	err = c.wait(ctx, op, name, stopped)
	var te *transport.Error
	if errors.As(err, &te) {
		te.Hint = "the service was asked to stop"
	}
	return err
}

// DeleteService implements transport.Services. As on Windows, a service that
// runs is marked, and gone when it has stopped.
func (c *conn) DeleteService(ctx context.Context, name string) error {
	return c.service(ctx, "delete service", name, func(s *service) error {
		if s.deleted {
			return c.win32("delete service", name, transport.ErrBusy, "1072")
		}
		s.deleted = true
		if s.state == transport.ServiceStopped {
			delete(c.t.services, strings.ToLower(name))
		}
		return nil
	})
}
