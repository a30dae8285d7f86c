package smbtest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// State is the state of a service, as MS-SCMR numbers it (2.2.47).
type State uint32

// The states of a service.
const (
	Stopped      State = 1
	StartPending State = 2
	StopPending  State = 3
	Running      State = 4
)

func (s State) String() string {
	switch s {
	case Stopped:
		return "stopped"
	case StartPending:
		return "start pending"
	case StopPending:
		return "stop pending"
	case Running:
		return "running"
	}
	return fmt.Sprintf("State(%d)", uint32(s))
}

// Win32 is an error code of Windows (MS-ERREF, 2.2).
type Win32 uint32

func (e Win32) Error() string { return fmt.Sprintf("win32 error %d", uint32(e)) }

// The codes that the service control manager answers with.
const (
	ErrFileNotFound       Win32 = 2
	ErrAccessDenied       Win32 = 5
	ErrInvalidHandle      Win32 = 6
	ErrGenFailure         Win32 = 31
	ErrInvalidParameter   Win32 = 87
	ErrInsufficientBuffer Win32 = 122
	ErrInvalidName        Win32 = 123
	ErrInvalidLevel       Win32 = 124
	ErrMoreData           Win32 = 234
	ErrInvalidControl     Win32 = 1052
	ErrStartTimeout       Win32 = 1053
	ErrAlreadyRunning     Win32 = 1056
	ErrDisabled           Win32 = 1058
	ErrNoService          Win32 = 1060
	ErrCannotAcceptCtrl   Win32 = 1061
	ErrNotActive          Win32 = 1062
	ErrNoDatabase         Win32 = 1065
	ErrSpecific           Win32 = 1066
	ErrProcessAborted     Win32 = 1067
	ErrMarkedForDelete    Win32 = 1072
	ErrServiceExists      Win32 = 1073
	ErrNeverStarted       Win32 = 1077
	ErrDuplicateName      Win32 = 1078

	errNotImplemented Win32 = 120
)

// Service describes a service at one moment.
type Service struct {
	Name, DisplayName string
	Description       string
	Command           string // the command line
	Account           string // the account that it runs under; "" means LocalSystem
	Type, StartType   uint32 // MS-SCMR, 3.1.4.12
	State             State
	PID               uint32   // 0 unless it runs
	Args              []string // of the latest start
	ExitCode          Win32    // why it stopped; ErrNeverStarted before the first start
	SpecificExitCode  uint32   // where ExitCode is ErrSpecific
	Deleted           bool     // marked for deletion
	Handles           int      // that clients have open
}

// Faults are what goes wrong with services. The zero value means nothing.
type Faults struct {
	// Denied answers every call but the closing of handles with ERROR_ACCESS_DENIED.
	Denied bool
	// CreateDenied refuses, with ERROR_ACCESS_DENIED, those who open the service
	// control manager with the right to create services, as Windows does to
	// whoever is no administrator.
	CreateDenied bool
	// StartError, if not 0, is what starting a service ends with; ErrStartTimeout
	// after 30 seconds on Windows, here at once.
	StartError Win32
	// ExitCode, if not 0, is what a service that was started stops with at once.
	ExitCode Win32
	// HoldStart leaves services that are started in StartPending, HoldStop those
	// that are stopped in StopPending, until the fault is taken back.
	HoldStart, HoldStop bool
}

// Services is an in-memory service control manager. The zero value is ready for
// use and knows no service. It is safe for concurrent use.
type Services struct {
	// Run, if set, is called when a service starts, with its name and its command
	// line, split as Windows does: Server.Path turns argv[0] into a local path. It
	// returns when the program runs; stop, which may be nil, is called once when the
	// service is asked to stop, and returns when the program has ended. A Win32
	// error is the answer to the client. A program that ends by itself is reported
	// with Exit. Run must not be changed once a server uses the Services.
	Run func(name string, argv []string) (stop func(), err error)

	// Backend, if set, has the services instead: what clients create, start, stop and
	// delete they do there. As long as the program of a service runs that was created
	// through this Services, a file of it on a share cannot be removed, as with
	// Server.Pin. Of the Faults Denied, CreateDenied and StartError are what happens
	// before the Backend is asked; the others, Run, Add, List, Lookup, Hold and Exit are
	// for services in memory. Clients cannot enumerate services or change their
	// configuration (ERROR_CALL_NOT_IMPLEMENTED). Close leaves the services alone.
	// Backend must not be changed once a server uses the Services.
	Backend Backend

	wg sync.WaitGroup // stops under way

	mu      sync.Mutex
	faults  Faults
	byName  map[string]*service // by name in lower case
	handles map[[16]byte]*handle
	calls   []string
	lastPID uint32

	programs map[string]string // of a Backend's services, by name in lower case
}

type service struct {
	Service
	life *life // nil while stopped
}

// life is one run of a service, from its start on.
type life struct {
	stop    func()
	stopped bool // stop has returned
}

// handle is what a client has open: a service, or the manager itself.
type handle struct {
	svc    *service // nil for the manager
	access uint32
	there  uint64 // the Backend's, if there is one
}

// SetFaults replaces the faults.
func (s *Services) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
	for _, svc := range s.byName {
		if svc.State == StartPending && svc.life != nil && !f.HoldStart {
			svc.State = Running
		}
		if svc.State == StopPending && svc.life != nil && svc.life.stopped && !f.HoldStop {
			s.ended(svc, 0, 0)
		}
	}
}

// Add registers a service as if it had been created before; what is not set is as
// for a service that is started on demand and never was. A service of that name
// is an error.
func (s *Services) Add(svc Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[strings.ToLower(svc.Name)] != nil {
		return fmt.Errorf("smbtest: add service %s: %w", svc.Name, ErrServiceExists)
	}
	svc.Deleted, svc.Handles = false, 0
	if svc.DisplayName == "" {
		svc.DisplayName = svc.Name
	}
	if svc.Type == 0 {
		svc.Type = typeOwnProcess
	}
	if svc.StartType == 0 {
		svc.StartType = startDemand
	}
	if svc.State == 0 {
		svc.State, svc.ExitCode = Stopped, ErrNeverStarted
	}
	added := &service{Service: svc}
	if svc.State != Stopped {
		added.PID, added.life = s.pid(), &life{}
	}
	s.put(added)
	return nil
}

func (s *Services) put(svc *service) {
	if s.byName == nil {
		s.byName = make(map[string]*service)
	}
	s.byName[strings.ToLower(svc.Name)] = svc
}

func (s *Services) pid() uint32 {
	if s.lastPID == 0 {
		s.lastPID = 4000
	}
	s.lastPID += 4
	return s.lastPID
}

// List returns the services, sorted by name.
func (s *Services) List() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Service, 0, len(s.byName))
	for _, svc := range s.byName {
		out = append(out, s.snapshot(svc))
	}
	slices.SortFunc(out, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Lookup returns a service by its name, in whatever case.
func (s *Services) Lookup(name string) (Service, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.byName[strings.ToLower(name)]
	if svc == nil {
		return Service{}, false
	}
	return s.snapshot(svc), true
}

func (s *Services) snapshot(svc *service) Service {
	out := svc.Service
	out.Args = slices.Clone(svc.Args)
	out.Handles = s.opens(svc)
	return out
}

// opens counts the handles of a service.
func (s *Services) opens(svc *service) int {
	n := 0
	for _, h := range s.handles {
		if h.svc == svc {
			n++
		}
	}
	return n
}

// Handles returns how many handles clients have open, of services and of the
// manager.
func (s *Services) Handles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.handles)
}

// Calls returns the calls that clients made, in order, as "CreateServiceW name".
// The closing of handles is left out.
func (s *Services) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Hold opens a service as another client would, such as the management console: if
// the service is deleted it stays, marked for deletion, until release is called.
func (s *Services) Hold(name string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.byName[strings.ToLower(name)]
	if svc == nil {
		return nil, fmt.Errorf("smbtest: hold service %s: %w", name, ErrNoService)
	}
	id := s.newHandle(&handle{svc: svc})
	return func() { _ = s.closeHandle(id) }, nil
}

// Exit says that the program of a service has ended by itself with an exit code:
// ErrProcessAborted is what Windows says of one that crashed, ErrSpecific of one
// with a code of its own. A service that does not run is left alone.
func (s *Services) Exit(name string, code Win32, specific uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if svc := s.byName[strings.ToLower(name)]; svc != nil && svc.life != nil {
		s.ended(svc, code, specific)
	}
}

// Close stops what runs and waits until it has. The services stay registered.
func (s *Services) Close() {
	s.mu.Lock()
	s.faults.HoldStart, s.faults.HoldStop = false, false
	for _, svc := range s.byName {
		switch {
		case svc.life == nil:
		case svc.State == StopPending:
			if svc.life.stopped {
				s.ended(svc, 0, 0)
			}
		default:
			s.stop(svc)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// ended notes the end of a service.
func (s *Services) ended(svc *service, code Win32, specific uint32) {
	svc.State, svc.PID, svc.ExitCode, svc.SpecificExitCode, svc.life = Stopped, 0, code, specific, nil
	s.reap(svc)
}

// reap removes a service that is marked for deletion once nothing uses it
// (MS-SCMR, 3.1.4.3).
func (s *Services) reap(svc *service) {
	if svc.Deleted && svc.life == nil && s.opens(svc) == 0 && s.byName[strings.ToLower(svc.Name)] == svc {
		delete(s.byName, strings.ToLower(svc.Name))
	}
}

// start starts a service. It is called with the lock held, which it gives up while
// Run is called.
func (s *Services) start(svc *service, args []string) Win32 {
	switch {
	case svc.Deleted:
		return ErrMarkedForDelete
	case svc.life != nil:
		return ErrAlreadyRunning
	case svc.StartType == startDisabled:
		return ErrDisabled
	case s.faults.StartError != 0:
		return s.faults.StartError
	}
	l := new(life)
	svc.life, svc.State, svc.PID, svc.Args, svc.ExitCode, svc.SpecificExitCode = l, StartPending, s.pid(), args, 0, 0
	if s.Run != nil {
		name, command := svc.Name, svc.Command
		s.mu.Unlock()
		stop, err := s.Run(name, splitCommand(command))
		s.mu.Lock()
		if err != nil {
			code := startError(err)
			if svc.life == l {
				s.ended(svc, 0, 0)
			}
			return code
		}
		l.stop = stop
	}
	switch {
	case svc.life != l: // Exit was called meanwhile
	case s.faults.ExitCode != 0:
		s.stopWith(svc, s.faults.ExitCode)
	case !s.faults.HoldStart:
		svc.State = Running
	}
	return 0
}

// startError is the code for an error of Run.
func startError(err error) Win32 {
	var code Win32
	switch {
	case errors.As(err, &code):
		return code
	case errors.Is(err, fs.ErrNotExist):
		return ErrFileNotFound
	case errors.Is(err, fs.ErrPermission):
		return ErrAccessDenied
	}
	return ErrStartTimeout
}

// stop asks a service that runs to stop.
func (s *Services) stop(svc *service) { s.stopWith(svc, 0) }

func (s *Services) stopWith(svc *service, code Win32) {
	l := svc.life
	svc.State = StopPending
	s.wg.Go(func() {
		if l.stop != nil {
			l.stop()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		l.stopped = true
		if svc.life == l && (!s.faults.HoldStop || code != 0) {
			s.ended(svc, code, 0)
		}
	})
}
