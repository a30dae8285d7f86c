package agent

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/windows/svc"
)

// serveAsService is serve as a service of Windows, which the service control manager
// starts with the option -service and its name. Whether this process is one is not
// found out but said.
func serveAsService(h home, name string) error {
	if err := logTo(h); err != nil {
		return err
	}
	s := &windowsService{home: h}
	// It returns when the service has stopped, and fails at once where the service
	// control manager did not start this process.
	if err := svc.Run(name, s); err != nil {
		return fmt.Errorf("the service control manager did not start this process as %s: %w", name, err)
	}
	return s.err
}

// windowsService is the service, as the service control manager knows it.
type windowsService struct {
	home home
	err  error // of serve
}

// failedExit is the service's own exit code where serve failed; why is in agent.log.
const failedExit = 1

// Execute implements svc.Handler. The service stops when it is told to, when the host
// shuts down, when its manager says so, and at the end of its lease.
func (s *windowsService) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(startTime.Milliseconds())}
	ctx, stop := notifyEnd()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.err = serve(ctx, s.home)
	}()
	// Whether it listens is told by ready.json, with the bootstrap's nonce.
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	for {
		select {
		case <-done:
			status <- svc.Status{State: svc.StopPending}
			if s.err != nil {
				fmt.Fprintf(os.Stderr, "roundsman-agent serve: %v\n", s.err)
				return true, failedExit
			}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32((replyTime + leaveTime).Milliseconds())}
				cancel()
			}
		}
	}
}
