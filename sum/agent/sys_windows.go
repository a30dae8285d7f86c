package agent

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

// supported says whether the service runs on this system.
const supported = true

// ended is the exit code of programs that the agent ends: that of one that Ctrl-C
// ended (STATUS_CONTROL_C_EXIT). No installer uses it to say something.
const ended = uint32(windows.STATUS_CONTROL_C_EXIT)

// detach lets cmd go on when this process, or its console, ends.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CmdLine: commandLineOf(cmd),
		CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP}
}

// startDetached starts a process that goes on when this one ends, and also when the job
// object does that this one is in, as that of a CI runner, a service manager or a remote
// shell, if it lets anybody leave it; else confined is true.
func startDetached(proto *exec.Cmd) (cmd *exec.Cmd, confined bool, err error) {
	for _, leave := range []uint32{windows.CREATE_BREAKAWAY_FROM_JOB, 0} {
		cmd = &exec.Cmd{Path: proto.Path, Args: proto.Args, Env: proto.Env, Dir: proto.Dir, Stdout: proto.Stdout, Stderr: proto.Stderr}
		detach(cmd)
		cmd.SysProcAttr.CreationFlags |= leave
		if err = cmd.Start(); !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
			return cmd, leave == 0, err
		}
	}
	return nil, false, err
}

// askToEnd asks who holds a directory to end, by the event that it has for that (see
// askable).
func askToEnd(held holder) error {
	if held.Event == "" {
		return nil // it has none
	}
	h, err := openEvent(held.Event, windows.EVENT_MODIFY_STATE)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it does not listen any more
	}
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	return os.NewSyscallError("SetEvent", windows.SetEvent(h))
}

// endProcess ends a process.
func endProcess(pid int) error {
	h, err := windows.OpenProcess(windows.PROCESS_TERMINATE, false, uint32(pid))
	if err == windows.ERROR_INVALID_PARAMETER {
		return nil // there is none
	}
	if err != nil {
		return os.NewSyscallError("OpenProcess", err)
	}
	defer windows.CloseHandle(h)
	err = windows.TerminateProcess(h, ended)
	if err == windows.ERROR_ACCESS_DENIED && exited(h) {
		err = nil
	}
	return os.NewSyscallError("TerminateProcess", err)
}

// exited reports whether a process has ended. That its exit code is STILL_ACTIVE says
// nothing: a program may end with that.
func exited(process windows.Handle) bool {
	event, err := windows.WaitForSingleObject(process, 0)
	return err == nil && event == windows.WAIT_OBJECT_0
}

// exitOf takes an ended process apart. Exit codes have 32 bits and no sign; there are
// no signals.
func exitOf(ps *os.ProcessState) (code int, signal string) {
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok {
		return exitCode(ws.ExitCode), ""
	}
	return ps.ExitCode(), ""
}

// exitCode keeps codes above 1<<31 positive where an int has room for that.
func exitCode(code uint32) int {
	if strconv.IntSize == 32 {
		return int(min(code, 1<<31-1))
	}
	return int(code)
}

// systemCode is the system's error code in err's tree, if there is one:
// {"win32", "5"}.
func systemCode(err error) transport.Code {
	var no syscall.Errno
	if !errors.As(err, &no) || no >= syscall.APPLICATION_ERROR {
		return transport.Code{}
	}
	return transport.Code{Space: "win32", Value: strconv.Itoa(int(no))}
}

// isNoSpace reports a full disk or quota.
func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// mayPass reports an error that may pass by itself: a full disk or quota, too little
// memory, or somebody who has the file open, as those who look for viruses do.
func mayPass(err error) bool {
	return isNoSpace(err) || inUse(err) || errors.Is(err, windows.ERROR_NO_SYSTEM_RESOURCES) ||
		errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY) || errors.Is(err, windows.ERROR_TOO_MANY_OPEN_FILES)
}

// freeSpace is how many bytes this user may still write in dir.
func freeSpace(dir string) (int64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var mine, total, free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &mine, &total, &free); err != nil {
		return 0, &fs.PathError{Op: "GetDiskFreeSpaceEx", Path: dir, Err: err}
	}
	return int64(min(mine, 1<<63-1)), nil
}

// usualUmask is for Unix.
func usualUmask() {}

// syncDir does nothing: Windows has no such thing. NTFS writes its journal in order.
func syncDir(string) error { return nil }

// lookAtProcess tells one process from a later one with the same number: by the time
// of its creation, in units of 100 ns since 1601. It is "" when there is no such
// process any more. An error is that this could not be found out.
func lookAtProcess(pid int) (start string, err error) {
	if pid == firstProcess {
		return "0", nil // it cannot be asked, and always lives
	}
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION|windows.SYNCHRONIZE, false, uint32(pid))
	switch err {
	case windows.ERROR_INVALID_PARAMETER:
		return "", nil
	case windows.ERROR_ACCESS_DENIED: // another user's
		return listedProcess(pid)
	}
	if err != nil {
		return "", os.NewSyscallError("OpenProcess", err)
	}
	defer windows.CloseHandle(h)
	if exited(h) {
		return "", nil // somebody has a handle of it
	}
	var created, exit, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(h, &created, &exit, &kernel, &user); err != nil {
		return "", os.NewSyscallError("GetProcessTimes", err)
	}
	return filetime(created), nil
}

func filetime(t windows.Filetime) string {
	return strconv.FormatUint(uint64(t.HighDateTime)<<32|uint64(t.LowDateTime), 10)
}

// pidNamespace is for Linux.
func pidNamespace() string { return "" }

// spareReader is for programs whose output comes by a pipe.
func spareReader(*os.File) *os.File { return nil }

// groupAlive is for what package agentless holds.
func groupAlive(int) bool { return false }

// endSignals are Ctrl-C and Ctrl-Break, and what ends a console.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, os.Interrupt}

// logTo makes agent.log the standard output and error of this process.
func logTo(h home) error {
	log, err := openFile(h.path(LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	// The file stays open, as those do which it replaces.
	os.Stdout, os.Stderr = log, log
	return errors.Join(
		windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, windows.Handle(log.Fd())),
		windows.SetStdHandle(windows.STD_ERROR_HANDLE, windows.Handle(log.Fd())))
}

// bootID differs after every boot, and stays as it is when the clock is set. It is when
// the process System was created, as its clock said then; and as that is no
// better than the clock of the mainboard, whose battery may be empty, the number
// that Windows gives to each boot, where it counts them. What a fast start-up resumes is the
// same boot: services live on through it. It is "" when it cannot be found out.
func bootID() string {
	id := systemCreated()
	if id == "" {
		return ""
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters`, registry.QUERY_VALUE)
	if errors.Is(err, registry.ErrNotExist) {
		return id
	}
	if err != nil {
		return "" // not known, rather than another than a moment ago
	}
	defer k.Close()
	n, _, err := k.GetIntegerValue("BootId")
	switch {
	case err == nil:
		return id + "-" + strconv.FormatUint(n, 10)
	case errors.Is(err, registry.ErrNotExist), errors.Is(err, registry.ErrUnexpectedType):
		return id
	}
	return ""
}
