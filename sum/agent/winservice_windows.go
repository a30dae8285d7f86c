package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// serveAsService is serve as a service of Windows, which the service control manager
// starts with the option -service and its name. Whether this process is one is not
// found out but said.
func serveAsService(h home, name string) error {
	return runService(&windowsService{home: h, name: name, work: func(ctx context.Context) (bool, error) {
		var boot Bootstrap
		if err := readJSON(h.path(BootstrapName), &boot); err != nil {
			return false, err
		}
		gone, err := serve(ctx, h)
		var ready Ready
		if err != nil && (readJSON(h.path(ReadyName), &ready) != nil || ready.Nonce != boot.Nonce) {
			err = h.whyNotStarted(err)
		}
		if err != nil && h.waitsFor(boot.Nonce) {
			err = errors.Join(err, os.Remove(h.path(BootstrapName)))
		}
		return gone, err
	}})
}

// removeAsService is the command remove as a service. The entry of that stays, as its exit
// code is there.
func removeAsService(h home, name string) error {
	return runService(&windowsService{home: h, name: name, work: func(ctx context.Context) (bool, error) {
		ctx, event, over := askable(ctx)
		defer over()
		_, err := removeAgent(ctx, h, holder{process: thisProcess(), Event: event})
		return false, err
	}})
}

// runService returns when the service has stopped, and fails at once where the service
// control manager did not start this process.
func runService(s *windowsService) error {
	if err := runHandler(s.name, s); err != nil {
		return err
	}
	return s.err
}

// windowsService is a service, as the service control manager knows it.
type windowsService struct {
	home home
	name string
	// work is what it does. gone is that its entry is to be deleted.
	work func(ctx context.Context) (gone bool, err error)
	err  error // of work
}

// Execute implements svc.Handler. The service stops when its work is done, when it is told
// to, and when the host shuts down. Its exit code is that of the command, and why is in
// agent.log; but ERROR_INVALID_OWNER of Windows where the directory is not ours alone.
func (s *windowsService) Execute(args []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	if len(args) > 0 && args[0] != "" {
		s.name = args[0] // as the service control manager knows it
	}
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(startTime.Milliseconds())}
	// There is no log where others could exchange it.
	if s.err = s.home.check(); errors.Is(s.err, errNotOurs) {
		return false, uint32(windows.ERROR_INVALID_OWNER)
	}
	if s.err == nil {
		s.err = logTo(s.home)
	}
	if s.err != nil {
		return true, uint32(exitStatus(s.err))
	}
	// Signals mean nothing to a service: Go makes SIGTERM of what every console hears when
	// any user logs off.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.delayShutdown()
	done, gone := make(chan struct{}), false
	go func() {
		defer close(done)
		gone, s.err = s.work(ctx)
	}()
	// Whether an agent listens is told by ready.json, with the bootstrap's nonce.
	status <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown}
	var waits <-chan time.Time // while a job delays the shutdown
	var until time.Time
	pending := svc.Status{State: svc.StopPending, WaitHint: uint32((replyTime + leaveTime).Milliseconds())}
	end := func() {
		waits = nil
		pending.CheckPoint++
		status <- pending
		cancel()
	}
	for {
		select {
		case <-waits:
			if time.Now().Before(until) && s.home.mustNotEnd() {
				pending.CheckPoint++
				status <- pending
			} else {
				end()
			}
		case <-done:
			status <- svc.Status{State: svc.StopPending}
			if gone {
				// It goes when this process has stopped.
				_, err := deleteService(s.name, nil)
				s.err = errors.Join(s.err, err)
			}
			if s.err != nil {
				fmt.Fprintf(os.Stderr, "roundsman-agent as %s: %v\n", s.name, s.err)
			}
			return true, uint32(exitStatus(s.err))
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				end()
			case svc.PreShutdown:
				if !s.home.mustNotEnd() {
					end()
					break
				}
				fmt.Fprintf(os.Stderr, "roundsman-agent as %s: a job must not be interrupted and delays the shutdown, for %v at most\n", s.name, longestDelay)
				tick := time.NewTicker(shutdownPoll)
				defer tick.Stop()
				waits, until = tick.C, time.Now().Add(longestDelay)
				pending.CheckPoint++
				status <- pending
			}
		}
	}
}

const (
	// longestDelay is how long a job that must not be interrupted delays a shutdown of the
	// host, as it does where systemd runs.
	longestDelay = 30 * time.Minute
	shutdownPoll = time.Second // how often it is looked whether one does
)

// mustNotEnd reports whether a job runs here that must not be interrupted.
func (h home) mustNotEnd() bool {
	for _, id := range h.busy() {
		var job Job
		sh := shim{home: h, id: id}
		if err := readLimited(sh.spec(), &job, maxRecord); err == nil && job.NoKill {
			return true
		}
	}
	return false
}

// delayShutdown asks the service control manager for the time that such a job may need: of
// itself it waits for ten seconds, or on older systems three minutes, however many
// checkpoints it is told.
func (s *windowsService) delayShutdown() {
	fail := func(call string, err error) {
		fmt.Fprintf(os.Stderr, "roundsman-agent as %s: jobs cannot delay a shutdown of the host for long: %v\n", s.name, os.NewSyscallError(call, err))
	}
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		fail("OpenSCManager", err)
		return
	}
	defer windows.CloseServiceHandle(manager)
	p, err := windows.UTF16PtrFromString(s.name)
	if err != nil {
		fail("OpenService", err)
		return
	}
	h, err := windows.OpenService(manager, p, windows.SERVICE_CHANGE_CONFIG)
	if err != nil {
		fail("OpenService", err)
		return
	}
	defer windows.CloseServiceHandle(h)
	// SERVICE_PRESHUTDOWN_INFO
	milliseconds := uint32((longestDelay + replyTime + leaveTime).Milliseconds())
	if err := windows.ChangeServiceConfig2(h, windows.SERVICE_CONFIG_PRESHUTDOWN_INFO, (*byte)(unsafe.Pointer(&milliseconds))); err != nil {
		fail("ChangeServiceConfig2", err)
	}
}

// deleteService deletes the entry of a service, if it is there and ours allows it. One that
// runs goes when it has stopped. It reports whether it was this call that did: one that was
// deleted before may be there as long as somebody has it open.
func deleteService(name string, ours func(commandLine string) bool) (deleted bool, err error) {
	fail := func(call string, err error) (bool, error) {
		switch {
		case err == nil, errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST), errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE):
			return false, nil
		}
		return false, fmt.Errorf("deleting the service %s: %w", name, os.NewSyscallError(call, err))
	}
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return fail("OpenSCManager", err)
	}
	defer windows.CloseServiceHandle(manager)
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return fail("OpenService", err)
	}
	h, err := windows.OpenService(manager, p, windows.DELETE|windows.SERVICE_QUERY_CONFIG)
	if err != nil {
		return fail("OpenService", err)
	}
	defer windows.CloseServiceHandle(h)
	if ours != nil {
		if command, err := commandLine(h); err != nil || !ours(command) {
			return fail("QueryServiceConfig", err)
		}
	}
	if err := windows.DeleteService(h); err != nil {
		return fail("DeleteService", err)
	}
	return true, nil
}

// commandLine is what a service is started by.
func commandLine(service windows.Handle) (string, error) {
	buf := make([]uint64, 8<<10/8) // aligned; no more is ever needed
	config := (*windows.QUERY_SERVICE_CONFIG)(unsafe.Pointer(&buf[0]))
	var needed uint32
	if err := windows.QueryServiceConfig(service, config, uint32(len(buf)*8), &needed); err != nil {
		return "", err
	}
	return windows.UTF16PtrToString(config.BinaryPathName), nil
}

// forgetService deletes the entry of the service of this directory's agent, which cannot do
// it itself any more. One of that name that is another directory's stays.
func (h home) forgetService() error { return h.forget(ServiceName(h.id())) }

// forgetServices is forgetService, and does the same to the service of the command remove.
func (h home) forgetServices() error {
	return errors.Join(h.forgetService(), h.forget(RemoveServiceName(h.id())))
}

func (h home) forget(name string) error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return nil // who may not make one has none
	}
	_, err := deleteService(name, h.runs)
	return err
}

// runs reports whether a command line is that of the program in this directory.
func (h home) runs(command string) bool {
	return strings.Contains(strings.ToLower(command), strings.ToLower(h.path(programName)))
}

// forgetOrphans deletes the entries of services of agents whose program is gone from its
// directory below this base directory: such as that of a removal whose manager was killed
// before it could ask how it went. One that runs, or that was changed after before, stays.
// It returns their names.
func (h home) forgetOrphans(ctx context.Context, before time.Time) (names []string, err error) {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return nil, nil
	}
	handle, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT|windows.SC_MANAGER_ENUMERATE_SERVICE)
	if err != nil {
		return nil, os.NewSyscallError("OpenSCManager", err)
	}
	defer windows.CloseServiceHandle(handle)
	services, err := (&mgr.Mgr{Handle: handle}).ListServices()
	if err != nil {
		return nil, os.NewSyscallError("EnumServicesStatusEx", err)
	}
	var errs []error
	for _, name := range services {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		id := name[strings.LastIndexByte(name, '-')+1:]
		if !isAgentID(id) || id == h.id() || name != ServiceName(id) && name != RemoveServiceName(id) {
			continue
		}
		other := home(filepath.Join(h.base(), id))
		if _, err := os.Lstat(other.path(programName)); !errors.Is(err, fs.ErrNotExist) || !serviceIdle(handle, name, before) {
			continue
		}
		deleted, err := deleteService(name, other.runs)
		if deleted {
			names = append(names, name)
		}
		errs = append(errs, err)
	}
	return names, errors.Join(errs...)
}

// serviceIdle reports whether a service is known to have stopped, and its entry to have
// been made, or last changed, before a time.
func serviceIdle(manager windows.Handle, name string, before time.Time) bool {
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return false
	}
	h, err := windows.OpenService(manager, p, windows.SERVICE_QUERY_STATUS)
	if err != nil {
		return false
	}
	defer windows.CloseServiceHandle(h)
	var st windows.SERVICE_STATUS
	if err := windows.QueryServiceStatus(h, &st); err != nil || st.CurrentState != windows.SERVICE_STOPPED {
		return false
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\`+name, registry.QUERY_VALUE)
	if err != nil {
		return false
	}
	defer k.Close()
	info, err := k.Stat()
	return err == nil && info.ModTime().Before(before)
}
