package local

import (
	"os"
	"os/exec"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/roundsman-go/roundsman/transport"
)

// Functions of kernel32 that package syscall does not have.
type kernel struct{ createJob, assign, terminate, ctrlEvent *syscall.LazyProc }

func loadKernel() kernel {
	dll := syscall.NewLazyDLL("kernel32.dll") // one of the DLLs that are never looked for elsewhere
	return kernel{dll.NewProc("CreateJobObjectW"), dll.NewProc("AssignProcessToJobObject"),
		dll.NewProc("TerminateJobObject"), dll.NewProc("GenerateConsoleCtrlEvent")}
}

// group is a program and what it started: a job object of Windows. What the
// program started before the job had it is not in it.
type group struct {
	cmd *exec.Cmd
	k   kernel

	mu  sync.Mutex
	job uintptr // 0: none
}

func newGroup(cmd *exec.Cmd) *group {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP, HideWindow: true}
	return &group{cmd: cmd, k: loadKernel()}
}

// started puts the program into a job. Where that fails it is ended alone.
func (g *group) started() {
	g.mu.Lock()
	defer g.mu.Unlock()
	job, _, _ := g.k.createJob.Call(0, 0)
	if job == 0 {
		return
	}
	letLeave(windows.Handle(job))
	assigned := false
	_ = g.cmd.Process.WithHandle(func(process uintptr) {
		ok, _, _ := g.k.assign.Call(job, process)
		assigned = ok != 0
	})
	if !assigned {
		_ = syscall.CloseHandle(syscall.Handle(job))
		return
	}
	g.job = job
}

// letLeave lets programs start others outside a job, with CREATE_BREAKAWAY_FROM_JOB: what
// is to go on when the program has ended, as the shim of an agent's job and some
// installers, asks for that. Where it fails, none leaves.
func letLeave(job windows.Handle) {
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_BREAKAWAY_OK},
	}
	_, _ = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
}

// close lets go of the job; what is in it goes on.
func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.job != 0 {
		_ = syscall.CloseHandle(syscall.Handle(g.job))
		g.job = 0
	}
}

// end asks the group to end, as Ctrl-Break does, which takes a console that both
// share; with force it ends the group.
func (g *group) end(force bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !force:
		_, _, _ = g.k.ctrlEvent.Call(syscall.CTRL_BREAK_EVENT, uintptr(g.cmd.Process.Pid))
	case g.job != 0:
		_, _, _ = g.k.terminate.Call(g.job, 1)
	default:
		_ = g.cmd.Process.Kill() // that it has ended is what is wanted
	}
}

// alive reports whether the program itself runs.
func (g *group) alive() bool {
	alive := false
	err := g.cmd.Process.WithHandle(func(process uintptr) {
		event, err := syscall.WaitForSingleObject(syscall.Handle(process), 0)
		alive = err == nil && event == syscall.WAIT_TIMEOUT
	})
	return err == nil && alive
}

// exitOf is how a program ended. Windows has no signals.
func exitOf(ps *os.ProcessState) transport.Exit { return transport.Exit{Code: ps.ExitCode()} }
