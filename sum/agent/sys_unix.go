//go:build linux || darwin

package agent

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/transport"
)

// supported says whether the service runs on this system.
const supported = true

// lockFile opens a file and locks it (flock), without waiting. It reports nil
// when another process has the lock. With create false a file that is not there
// is fs.ErrNotExist. The lock ends with the process or with Close.
func lockFile(name string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	return lockOpened(name, flags, unix.LOCK_EX)
}

// shareFile is lockFile with create for a lock that others may have, too.
func shareFile(name string) (*os.File, error) {
	return lockOpened(name, os.O_RDWR|os.O_CREATE, unix.LOCK_SH)
}

func lockOpened(name string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err = flockNow(f, how); err == unix.EWOULDBLOCK {
		f.Close()
		return nil, nil
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
	}
	// Whoever cleans up removes the file while holding its lock: then this is
	// the lock of a file that no one else will find.
	mine, err1 := f.Stat()
	there, err2 := os.Stat(name)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		if flags&os.O_CREATE != 0 {
			return lockOpened(name, flags, how)
		}
		return nil, &fs.PathError{Op: "flock", Path: name, Err: fs.ErrNotExist}
	}
	return f, nil
}

func flockNow(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// tryLock locks an open file (flock), and reports false where that cannot be.
func tryLock(f *os.File) bool { return flockNow(f, unix.LOCK_EX) == nil }

// detach makes cmd the leader of a session of its own, without a terminal.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// ownGroup makes cmd the leader of a process group, so that its children can be
// ended with it.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup asks a process group to end, or with force ends it.
func endGroup(pid int, _ string, force bool) error {
	sig := unix.SIGTERM
	if force {
		sig = unix.SIGKILL
	}
	if err := unix.Kill(-pid, sig); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

// askToEnd asks who holds a directory to end.
func askToEnd(h holder) error { return sendSignal(h.PID, unix.SIGTERM) }

// endProcess ends a process.
func endProcess(pid int) error { return sendSignal(pid, unix.SIGKILL) }

func sendSignal(pid int, sig unix.Signal) error {
	if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

// endNow is for Windows.
func endNow(int) {}

// exitOf takes an ended process apart. The signal is without "SIG".
func exitOf(ps *os.ProcessState) (code int, signal string) {
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return -1, strings.TrimPrefix(unix.SignalName(ws.Signal()), "SIG")
	}
	return ps.ExitCode(), ""
}

// systemCode is the code of the system's error number in err's tree, if there is one:
// {"errno", "ENOSPC"}.
func systemCode(err error) transport.Code {
	if name := errnoName(err); name != "" {
		return transport.Code{Space: "errno", Value: name}
	}
	return transport.Code{}
}

// errnoName names the system's error number in err's tree, or is "".
func errnoName(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return unix.ErrnoName(no)
	}
	return ""
}

// isNoSpace reports a full disk or quota.
func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// mayPass reports an error that may pass by itself: a full disk or quota, or too many
// open files.
func mayPass(err error) bool {
	return isNoSpace(err) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// freeSpace is how many bytes this user may still write in dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// ownedByMe reports whether this user owns the file.
func ownedByMe(_ string, fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// usualUmask makes what a program creates readable, as installers expect.
func usualUmask() { unix.Umask(0o022) }

// syncDir makes a rename in dir survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// endSignals are those that must not end a shim and that end an agent in order.
var endSignals = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}
