package smbtest

import (
	"errors"
	"os"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
)

// A Backend is a service control manager that really has services, such as that of Wine,
// and hands out handles as Windows does. An error that has a method Win32, which returns
// an error code of Windows as a uint32, or that is a Win32, is the answer to the
// client; any other is ErrGenFailure. Its methods are called from several goroutines.
type Backend interface {
	// CreateService creates a service with a process of its own, and opens it.
	CreateService(name, displayName, command string, startType uint32) (handle uint64, err error)
	OpenService(name string) (handle uint64, err error)
	CloseService(handle uint64) error
	StartService(handle uint64, args []string) error
	// StopService sends the control "stop"; it does not wait.
	StopService(handle uint64) error
	DeleteService(handle uint64) error
	// QueryService returns the nine numbers of a SERVICE_STATUS_PROCESS (MS-SCMR,
	// section 2.2.49).
	QueryService(handle uint64) ([9]uint32, error)
	// Use reports whether a program runs, whose path is as in a service's command
	// line. It is asked again and again from the service's start on until it says no.
	Use(program string) bool
}

// there calls f without the lock, which is held.
func (s *Services) there(f func(b Backend) error) Win32 {
	s.mu.Unlock()
	err := f(s.Backend)
	s.mu.Lock()
	return backendCode(err)
}

// backendCode is the code for an error of a Backend.
func backendCode(err error) Win32 {
	var own Win32
	var other interface{ Win32() uint32 }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return own
	case errors.As(err, &other):
		return Win32(other.Win32())
	}
	return ErrGenFailure
}

// here is the code of a call that only services in memory answer.
func (s *Services) here(code Win32) Win32 {
	if code == 0 && s.Backend != nil {
		return errNotImplemented
	}
	return code
}

// The following are what scm does where there is a Backend. They are called with the lock
// held.

// createThere creates a service, and opens it.
func (c *scm) createThere(name, display, command string, startType, access uint32) (*svcctl.Handle, Win32) {
	s := c.services
	h := &handle{svc: &service{Service: Service{Name: name}}, access: serviceAccess(access)}
	if code := s.there(func(b Backend) (err error) {
		h.there, err = b.CreateService(name, display, command, startType)
		return err
	}); code != 0 {
		return &svcctl.Handle{}, code
	}
	if s.programs == nil {
		s.programs = make(map[string]string)
	}
	if argv := splitCommand(command); len(argv) > 0 {
		s.programs[strings.ToLower(name)] = argv[0]
	}
	return c.open(h), 0
}

func (c *scm) openThere(name string, access uint32) (*svcctl.Handle, Win32) {
	h := &handle{svc: &service{Service: Service{Name: name}}, access: serviceAccess(access)}
	if code := c.services.there(func(b Backend) (err error) {
		h.there, err = b.OpenService(name)
		return err
	}); code != 0 {
		return &svcctl.Handle{}, code
	}
	return c.open(h), 0
}

// startThere starts a service. From then on its program cannot be removed.
func (c *scm) startThere(h *handle, args []string) Win32 {
	s := c.services
	if s.faults.StartError != 0 {
		return s.faults.StartError
	}
	program := s.programs[strings.ToLower(h.svc.Name)]
	return s.there(func(b Backend) error {
		started, err := c.use(b, program)
		if err != nil {
			return err
		}
		defer started()
		return b.StartService(h.there, args)
	})
}

func (c *scm) controlThere(h *handle, control uint32) Win32 {
	if control != controlStop && control != controlInterrogate {
		return ErrInvalidControl
	}
	s := c.services
	if control == controlStop {
		if code := s.there(func(b Backend) error { return b.StopService(h.there) }); code != 0 {
			return code
		}
	}
	if code := s.refresh(h); code != 0 {
		return code
	}
	if control == controlInterrogate && h.svc.State == Stopped {
		return ErrNotActive
	}
	return 0
}

// refresh has the state of a service that a Backend has. It is called with the lock held.
func (s *Services) refresh(h *handle) Win32 {
	if s.Backend == nil {
		return 0
	}
	var st [9]uint32
	code := s.there(func(b Backend) (err error) {
		st, err = b.QueryService(h.there)
		return err
	})
	if code == 0 {
		svc := h.svc
		svc.Type, svc.State, svc.ExitCode, svc.SpecificExitCode, svc.PID = st[0], State(st[1]), Win32(st[3]), st[4], st[7]
	}
	return code
}

// usePoll is how often a Backend is asked whether a program still runs.
const usePoll = 20 * time.Millisecond

// usage is a program that runs, or is about to.
type usage struct{ starting int }

// use keeps a program from being removed over SMB until it does not run any more, which
// is looked at once started was called.
func (s *Server) use(b Backend, program string) (started func(), err error) {
	path := s.Path(program)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Stat(path); err != nil || s.closed {
		return func() {}, nil // what is not there is for the Backend to say
	}
	u := s.uses[path]
	if u == nil {
		undo, err := s.smbd.pin(path)
		if err != nil {
			return nil, err
		}
		u = new(usage)
		s.uses[path] = u
		s.wg.Go(func() {
			s.awaitUnused(u, func() bool { return b.Use(program) })
			defer s.mu.Unlock()
			delete(s.uses, path)
			_ = undo() // of a file that others have removed nothing is left
		})
	}
	u.starting++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		u.starting--
	}, nil
}

// awaitUnused returns with the lock held.
func (s *Server) awaitUnused(u *usage, runs func() bool) {
	for closing := false; ; {
		s.mu.Lock()
		if closing || u.starting == 0 && !runs() {
			return
		}
		s.mu.Unlock()
		select {
		case <-time.After(usePoll):
		case <-s.closing:
			closing = true
		}
	}
}
