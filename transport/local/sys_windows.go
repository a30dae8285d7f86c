package local

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
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
