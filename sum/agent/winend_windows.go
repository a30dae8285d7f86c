package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
)

// endNow ends this process as os.Exit does, but without a word to the libraries that are
// loaded into it: ExitProcess waits for what they do at its end, and those that security
// software has put there may wait for ever. What was to be written has been.
func endNow(status int) {
	_ = windows.TerminateProcess(windows.CurrentProcess(), uint32(status))
}

// runHandler returns when the service has stopped, and fails at once where the service
// control manager did not start this process.
func runHandler(name string, s svc.Handler) error {
	if err := svc.Run(name, ending{s}); err != nil {
		return fmt.Errorf("the service control manager did not start this process as %s: %w", name, err)
	}
	return nil
}

// ending is a service whose process ends when it has stopped. Package svc takes no request
// after the end of Execute, nor a second one before its end that is not asked for: the
// control handler then waits for ever, and with it the dispatcher, by whose end svc.Run
// returns, and a program that could be deleted stays.
type ending struct{ svc.Handler }

// endTime is how long the process of a service lives at most that is over. By then package
// svc has told the service control manager.
const endTime = 5 * time.Second

// Execute implements svc.Handler.
func (e ending) Execute(args []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	specific, code = e.Handler.Execute(args, requests, status)
	time.AfterFunc(endTime, func() { endNow(int(code)) })
	return specific, code
}
