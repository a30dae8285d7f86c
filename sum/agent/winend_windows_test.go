package agent

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// deaf is a service that takes one request, and stops when its gate is gone.
type deaf struct{ gate string }

const deafExit = 7

// waits is the file that says that a third request waits to be taken: the first is, and the
// second waits within package svc.
func (d deaf) waits() string { return d.gate + ".waits" }

// Execute implements svc.Handler.
func (d deaf) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	status <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop}
	<-requests
	for stacks := make([]byte, 1<<20); ; time.Sleep(10 * time.Millisecond) {
		// The handler returns when its request was taken on.
		if bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("svc.ctlHandler")) {
			_ = os.WriteFile(d.waits(), nil, 0o600)
		}
		if _, err := os.Stat(d.gate); err != nil {
			return true, deafExit
		}
	}
}

// TestWindowsServiceProcessEnds: what the service control manager asks of a service that is
// about to stop keeps its process from nothing.
func TestWindowsServiceProcessEnds(t *testing.T) {
	h := newWinHost(t)
	gate := h.home.path("gate")
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	s, err := h.scm.CreateService(h.agentName(), h.home.path(programName), mgr.Config{StartType: mgr.StartManual}, "deaf", h.agentName(), gate)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Start())
	var pid int
	h.await("the start of the service", func() bool {
		st, err := s.Query()
		require.NoError(t, err)
		pid = int(st.ProcessId)
		return st.State == svc.Running
	})
	process := thisWinProcess(t, pid)
	over := make(chan struct{}, 3)
	for range cap(over) { // one is taken, one waits to be, and one for that
		go func() {
			_, _ = s.Control(svc.Interrogate)
			over <- struct{}{}
		}()
	}
	<-over
	<-over
	h.await("the third request", func() bool { _, err := os.Stat(deaf{gate}.waits()); return err == nil })
	require.NoError(t, os.Remove(gate))
	require.Equal(t, deafExit, h.exit(s))
	h.await("the end of the process", func() bool { return !process.alive() })
	<-over
}

// TestWindowsAskable: who is asked to end has told by which event, and nobody else can.
func TestWindowsAskable(t *testing.T) {
	first, name, over := askable(t.Context())
	defer over()
	second, other, end := askable(t.Context())
	require.NotEqual(t, name, other, "nobody can guess it")
	h, err := openEvent(name, windows.READ_CONTROL)
	require.NoError(t, err)
	sd, err := windows.GetSecurityInfo(h, windows.SE_KERNEL_OBJECT, windows.DACL_SECURITY_INFORMATION)
	require.NoError(t, windows.CloseHandle(h))
	require.NoError(t, err)
	require.Contains(t, sd.String(), ";;;SY)")
	require.Contains(t, sd.String(), ";;;BA)")
	require.NotContains(t, sd.String(), ";;;WD)", "everybody")
	require.NoError(t, askToEnd(holder{Event: name}))
	<-first.Done()
	require.NoError(t, second.Err())
	end()
	require.ErrorIs(t, second.Err(), context.Canceled)
	require.NoError(t, askToEnd(holder{Event: other}), "it does not listen any more")
	require.NoError(t, askToEnd(holder{}), "an older one has none")
}

// keepStd undoes logTo at the end of a test.
func keepStd(t *testing.T) {
	out, errs := os.Stdout, os.Stderr
	t.Cleanup(func() {
		os.Stdout, os.Stderr = out, errs
		require.NoError(t, windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, windows.Handle(out.Fd())))
		require.NoError(t, windows.SetStdHandle(windows.STD_ERROR_HANDLE, windows.Handle(errs.Fd())))
	})
}

// TestWindowsServiceLogoff: what all consoles hear when any user logs off, of which Go makes
// SIGTERM for whoever wants to know, is nothing to a service.
func TestWindowsServiceLogoff(t *testing.T) {
	keepStd(t)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGTERM) // under Wine nobody else keeps the process alive
	defer signal.Stop(caught)
	heard, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	s := startedService(t, home(tempDir(t)))
	routine := windows.NewLazySystemDLL("kernel32.dll").NewProc("CtrlRoutine")
	require.NoError(t, routine.Find())
	go routine.Call(windows.CTRL_LOGOFF_EVENT) // it does not return
	<-caught
	<-heard.Done() // as the context of the service would be
	require.NoError(t, s.ctx.Err(), "it serves on")
	for range 10 {
		s.requests <- svc.ChangeRequest{Cmd: svc.Interrogate, CurrentStatus: s.running}
		require.Equal(t, s.running, <-s.states)
	}
	require.NoError(t, s.ctx.Err(), "it serves on")
	s.requests <- svc.ChangeRequest{Cmd: svc.Stop}
	s.ends(t)
	_ = os.Stdout.Close()
}
