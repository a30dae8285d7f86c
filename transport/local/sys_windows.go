package local

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
	"golang.org/x/sys/windows"
)

// System error codes that package syscall has no name for (WinError.h).
const (
	errorSharingViolation = syscall.Errno(32)
	errorLockViolation    = syscall.Errno(33)
	errorHandleDiskFull   = syscall.Errno(39)
	errorDiskFull         = syscall.Errno(112)
	errorInvalidName      = syscall.Errno(123)
	errorDirectory        = syscall.Errno(267)
	errorDiskQuota        = syscall.Errno(1295)
	wsaeConnRefused       = syscall.Errno(10061)
)

// classOfErrno is the class of an error code that package fs does not know.
func classOfErrno(err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return nil
	}
	switch no {
	case errorDirectory: // below a file there is nothing
		return fs.ErrNotExist
	case errorHandleDiskFull, errorDiskFull, errorDiskQuota:
		return transport.ErrNoSpace
	case errorSharingViolation, errorLockViolation:
		return transport.ErrBusy
	case errorInvalidName:
		return transport.ErrInvalid
	case wsaeConnRefused:
		return transport.ErrUnreachable
	}
	return nil
}

// codeOf is the error code in err, if there is one: {"win32", "5"}.
func codeOf(err error) transport.Code {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return transport.Code{}
	}
	return transport.Code{Space: "win32", Value: strconv.Itoa(int(no))}
}

// inUse reports whether a file cannot be renamed because somebody has it open.
func inUse(err error) bool {
	return errors.Is(err, errorSharingViolation) || errors.Is(err, errorLockViolation)
}

// isOwn does not ask for the owner: what a directory on Windows holds is
// protected by what the directory hands down.
func isOwn(fs.FileInfo) bool { return true }

func hasOneName(fs.FileInfo) bool { return true }

// setMode does nothing: Windows has no such permissions. What the directory hands
// down holds.
func setMode(*os.File, fs.FileMode) error { return nil }

func setDirMode(string, fs.FileMode) error { return nil }

// syncDir does nothing: Windows has no such thing.
func syncDir(string) error { return nil }

// readable says nothing: to ask would wait for the read that is going on, as all
// that is done with one handle takes turns.
func readable(*os.File) bool { return false }

// tryLock locks a file that is open, as long as it is. What is locked is a byte
// that no file reaches: of those that are, others could not be read.
func tryLock(f *os.File) (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lerr error
	if err := raw.Control(func(fd uintptr) {
		lerr = windows.LockFileEx(windows.Handle(fd), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
			&windows.Overlapped{OffsetHigh: 1 << 30})
	}); err != nil {
		return false, err
	}
	return !inUse(lerr), nil
}

// unixSockets asks for one: they came with Windows 10 build 17063 and Windows
// Server 2019.
func unixSockets() bool {
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return false
	}
	_ = syscall.Closesocket(s)
	return true
}
