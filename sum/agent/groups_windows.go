package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Each program that the agent starts is in a job object, which its children do not
// leave by themselves, so that they can be ended together. That of a job's program has a
// name that nobody can guess, and make before us; it is in the job's record, so that any
// process of ours finds it. It exists as long as one has a handle of it, as the program
// itself has: so it is there when the shim is dead, and closing the last handle does not
// end anybody. That of a probe has no name and ends with the agent.
//
// What a program inherits on Unix, to hold the host or to be known by its log as long
// as it lives, is here an event with a name. A handle of it is put into the program
// before that runs its first instruction.

// newGroup is a name for the group of a job's program.
func newGroup() string { return `Global\roundsman-program-` + rand.Text() }

// heldEvent is the event by which a program holds a file.
func heldEvent(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSuffix(name, hostNew))))
	return `Global\roundsman-held-` + hex.EncodeToString(sum[:16])
}

// ownGroup: programs have no window, and wait until they are in their group.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CmdLine: commandLineOf(cmd),
		CreationFlags: windows.CREATE_NO_WINDOW | windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_SUSPENDED}
}

// commandLineOf is the command line that cmd has been given; "" is that os/exec makes it.
func commandLineOf(cmd *exec.Cmd) string {
	if cmd.SysProcAttr == nil {
		return ""
	}
	return cmd.SysProcAttr.CmdLine
}

// endGroup ends what is in the group of a job's program. There is nothing that could be
// asked: a program without a console and a window hears no request.
func endGroup(_ int, group string, _ bool) error {
	name, err := windows.UTF16PtrFromString(group)
	if err != nil {
		return err
	}
	h, err := openJobObject(jobObjectTerminate, name)
	if err == windows.ERROR_FILE_NOT_FOUND {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("OpenJobObject", err)
	}
	defer windows.CloseHandle(h)
	return os.NewSyscallError("TerminateJobObject", windows.TerminateJobObject(h, ended))
}

// Access rights to job objects (winnt.h).
const (
	jobObjectQuery     = 0x4
	jobObjectTerminate = 0x8
)

// createJobObject makes a job object, or is ERROR_ALREADY_EXISTS: what is there is not
// ours, and whoever made it could end what is put into it. (That of package windows gives
// a handle of what is there.)
func createJobObject(sa *windows.SecurityAttributes, name *uint16) (windows.Handle, error) {
	r, _, err := windows.NewLazySystemDLL("kernel32.dll").NewProc("CreateJobObjectW").Call(uintptr(unsafe.Pointer(sa)), uintptr(unsafe.Pointer(name)))
	h := windows.Handle(r)
	switch {
	case h == 0:
		return 0, err
	case err == windows.ERROR_ALREADY_EXISTS:
		windows.CloseHandle(h)
		return 0, err
	}
	return h, nil
}

func openJobObject(access uint32, name *uint16) (windows.Handle, error) {
	h, _, err := windows.NewLazySystemDLL("kernel32.dll").NewProc("OpenJobObjectW").Call(uintptr(access), 0, uintptr(unsafe.Pointer(name)))
	if h == 0 {
		return 0, err
	}
	return windows.Handle(h), nil
}

// startProgram starts a job's program in a group with this name. It goes on when this
// process is killed. release is to be called when it has ended, or is left to itself.
func startProgram(cmd *exec.Cmd, group string) (release func(), err error) {
	ownGroup(cmd)
	return startGroup(cmd, group)
}

// runInGroup is cmd.Run for a program that ends with this process, and with all that it has
// started where its context ends.
func runInGroup(cmd *exec.Cmd) error {
	release, err := startGroup(cmd, "")
	if err != nil {
		return err
	}
	defer release()
	return cmd.Wait()
}

// startGroup starts a program in a group of its own; one without a name ends with this
// process. cmd.ExtraFiles become handles of the program that it does not know of.
func startGroup(cmd *exec.Cmd, group string) (release func(), err error) {
	extra := cmd.ExtraFiles
	cmd.ExtraFiles = nil // os/exec has none on Windows
	job, err := makeGroup(group)
	if err != nil {
		return nil, err
	}
	release = func() { _ = windows.CloseHandle(job) }
	if cmd.Cancel != nil {
		cmd.Cancel = func() error {
			_ = windows.TerminateJobObject(job, ended)
			return cmd.Process.Kill() // it may not be in there yet
		}
	}
	if err := cmd.Start(); err != nil {
		release()
		return nil, err
	}
	if err := intoGroup(job, cmd.Process.Pid, extra, group == ""); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		release()
		return nil, err
	}
	return release, nil
}

// makeGroup makes a group, which until its program runs ends with this process: nobody
// else would let that run. If this process is ended just then, so is a program that has
// barely begun.
func makeGroup(group string) (windows.Handle, error) {
	sa, err := attributes()
	if err != nil {
		return 0, err
	}
	var name *uint16
	if group != "" {
		if name, err = windows.UTF16PtrFromString(group); err != nil {
			return 0, err
		}
	}
	job, err := createJobObject(sa, name)
	if err != nil {
		return 0, os.NewSyscallError("CreateJobObject", err)
	}
	if err := limitJob(job, true); err != nil {
		windows.CloseHandle(job)
		return 0, err
	}
	return job, nil
}

// intoGroup puts a program that is suspended into its group, and lets it run.
func intoGroup(job windows.Handle, pid int, extra []*os.File, endWithUs bool) error {
	process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE|windows.PROCESS_DUP_HANDLE, false, uint32(pid))
	if err != nil {
		return os.NewSyscallError("OpenProcess", err)
	}
	defer windows.CloseHandle(process)
	if err := windows.AssignProcessToJobObject(job, process); err != nil {
		return os.NewSyscallError("AssignProcessToJobObject", err)
	}
	give := func(h windows.Handle, access, options uint32) error {
		var there windows.Handle
		return os.NewSyscallError("DuplicateHandle", windows.DuplicateHandle(windows.CurrentProcess(), h, process, &there, access, false, options))
	}
	if !endWithUs {
		if err := give(job, jobObjectQuery, 0); err != nil {
			return err
		}
	}
	for _, f := range extra {
		if err := give(windows.Handle(f.Fd()), 0, windows.DUPLICATE_SAME_ACCESS); err != nil {
			return err
		}
	}
	if err := resume(pid); err != nil {
		return err
	}
	if !endWithUs {
		return limitJob(job, false)
	}
	return nil
}

// limitJob says whether closing the last handle of a job object ends what is in it.
// Programs may let others leave it, as some installers do.
func limitJob(job windows.Handle, endOnClose bool) error {
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_BREAKAWAY_OK
	if endOnClose {
		limits.BasicLimitInformation.LimitFlags |= windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	}
	_, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
	return os.NewSyscallError("SetInformationJobObject", err)
}

// resume lets the threads of a program run: one, as it has not begun.
func resume(pid int) error {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return os.NewSyscallError("CreateToolhelp32Snapshot", err)
	}
	defer windows.CloseHandle(snapshot)
	e := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	n := 0
	for err = windows.Thread32First(snapshot, &e); err == nil; err = windows.Thread32Next(snapshot, &e) {
		if e.OwnerProcessID != uint32(pid) {
			continue
		}
		h, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, e.ThreadID)
		if err != nil {
			return os.NewSyscallError("OpenThread", err)
		}
		_, err = windows.ResumeThread(h)
		windows.CloseHandle(h)
		if err != nil {
			return os.NewSyscallError("ResumeThread", err)
		}
		n++
	}
	if n == 0 {
		return errors.New("the program has no thread")
	}
	return nil
}

// openEvent opens an event that another process may have made: fs.ErrNotExist where
// there is none.
func openEvent(name string, access uint32) (windows.Handle, error) {
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return 0, err
	}
	h, err := windows.OpenEvent(access, false, p)
	return h, os.NewSyscallError("OpenEvent", err)
}

// newEvent makes an event, or is fs.ErrExist.
func newEvent(name string) (windows.Handle, error) {
	sa, err := attributes()
	if err != nil {
		return 0, err
	}
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return 0, err
	}
	h, err := windows.CreateEvent(sa, 1, 0, p)
	if err != nil && h != 0 {
		windows.CloseHandle(h)
	}
	return h, os.NewSyscallError("CreateEvent", err)
}

// hold makes the event by which a program that gets a handle of it holds a file.
func hold(name string) (*os.File, error) {
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		h, err := newEvent(heldEvent(name))
		if err == nil {
			return os.NewFile(uintptr(h), name), nil
		}
		// Somebody may be looking at this moment.
		if !errors.Is(err, fs.ErrExist) || time.Now().After(end) {
			return nil, err
		}
	}
}

func holdHost(file *os.File) (*os.File, error)          { return hold(file.Name()) }
func holdProgramOutput(file *os.File) (*os.File, error) { return hold(file.Name()) }

// outputHeld reports whether a program has the job's log as its output.
func (h home) outputHeld(id string) bool { return fileHeld(h.output(id)) }

// fileHeld reports whether a process holds a file, or whether that cannot be found
// out.
func fileHeld(name string) bool {
	h, err := openEvent(heldEvent(name), windows.SYNCHRONIZE)
	if err == nil {
		windows.CloseHandle(h)
		return true
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// askable gives a context that ends also when another process asks this one to end, by an
// event (see askToEnd). The name of that is in the lock's file, and nobody else can guess it,
// and make it before us. Where there can be none it is empty, and this process is ended
// without being asked.
func askable(ctx context.Context) (asked context.Context, name string, stop func()) {
	asked, cancel := context.WithCancel(ctx)
	name = `Global\roundsman-end-` + rand.Text()
	event, err := newEvent(name)
	if err != nil {
		return asked, "", cancel
	}
	over, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		windows.CloseHandle(event)
		return asked, "", cancel
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if n, err := windows.WaitForMultipleObjects([]windows.Handle{event, over}, false, windows.INFINITE); err == nil && n == windows.WAIT_OBJECT_0 {
			cancel()
		}
	}()
	return asked, name, sync.OnceFunc(func() { // again, the handles would be others'
		_ = windows.SetEvent(over)
		<-watched
		windows.CloseHandle(event)
		windows.CloseHandle(over)
		cancel()
	})
}
