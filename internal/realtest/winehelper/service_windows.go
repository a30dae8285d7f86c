package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
)

// echo is a service for tests: on a pipe of its name it sends back what comes, to one
// client after the other. Stopped, it ends with exitCode as its own code; with the argument
// "linger" not before its client has gone.
type echo struct{ name string }

const exitCode = 7

func runEcho(name string) {
	if err := svc.Run(name, echo{name}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Execute implements svc.Handler.
func (e echo) Execute(args []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	status <- svc.Status{State: svc.StartPending}
	h, err := windows.CreateNamedPipe(text(`\\.\pipe\`+e.name), windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED,
		windows.PIPE_TYPE_BYTE|windows.PIPE_WAIT, 1, 4096, 4096, 0, nil)
	if err != nil {
		return true, code(err)
	}
	status <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop}
	linger, gone := slices.Contains(args, "linger"), make(chan struct{})
	go func() { // until the process ends
		for p := (pipe{h}); ; _ = windows.DisconnectNamedPipe(h) {
			if _, err := p.do(func(o *windows.Overlapped) error { return windows.ConnectNamedPipe(h, o) }); err == nil || err == windows.ERROR_PIPE_CONNECTED {
				_, _ = io.Copy(p.writer(), p.reader())
				if linger {
					gone <- struct{}{}
				}
			}
		}
	}()
	var stop <-chan struct{}
	for {
		select {
		case r := <-requests:
			switch {
			case r.Cmd == svc.Interrogate:
				status <- r.CurrentStatus
			case r.Cmd == svc.Stop && linger:
				stop = gone
			case r.Cmd == svc.Stop:
				return true, exitCode
			}
		case <-stop:
			return true, exitCode
		}
	}
}
