package agent

import (
	"context"
	"math"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// shutdownReason is what the event log says of a restart that an agent asked for:
// planned, of the operating system, to install something.
const shutdownReason = windows.SHTDN_REASON_MAJOR_OPERATINGSYSTEM | windows.SHTDN_REASON_MINOR_INSTALLATION | windows.SHTDN_REASON_FLAG_PLANNED

// restartDelay is in seconds, the unit of InitiateSystemShutdownEx.
func restartDelay(delay time.Duration) time.Duration {
	return (max(delay, 0) + time.Second - 1) / time.Second * time.Second
}

// restartHost asks Windows to restart, and to show a message, in any language, to
// everybody who is logged in. Programs that do not end are ended.
func (s *service) restartHost(_ context.Context, message string, delay time.Duration) (taken bool, err error) {
	return restartBy(initiateShutdown, message, delay)
}

// restartBy reports with taken that the host goes down, whoever asked for that.
func restartBy(initiate func(message string, delay time.Duration) error, message string, delay time.Duration) (taken bool, err error) {
	switch err := initiate(rebootMessage(message), restartDelay(delay)); err {
	case nil:
		return true, nil
	case windows.ERROR_ACCESS_DENIED, windows.ERROR_PRIVILEGE_NOT_HELD, windows.ERROR_NOT_ALL_ASSIGNED:
		return false, fault(channel.CodeRefused, "this user may not restart this host: %v", err)
	case windows.ERROR_SHUTDOWN_IS_SCHEDULED, windows.ERROR_SHUTDOWN_IN_PROGRESS:
		// Somebody else's, with a message and a time of its own: nothing may begin here.
		return true, fault(channel.CodeRefused, "this host is about to shut down or restart already, as somebody else has asked: %v", err)
	default:
		return false, fault(channel.CodeInternal, "Windows does not restart: %v", err)
	}
}

// canRestart is for systems where a program is needed for it.
func (s *service) canRestart() error { return nil }

// initiateShutdown is InitiateSystemShutdownEx, with the privilege that it takes.
func initiateShutdown(message string, delay time.Duration) error {
	if err := enablePrivilege("SeShutdownPrivilege"); err != nil {
		return err
	}
	var text *uint16
	if message != "" {
		var err error
		if text, err = windows.UTF16PtrFromString(message); err != nil {
			return err
		}
	}
	return windows.InitiateSystemShutdownEx(nil, text, uint32(min(delay/time.Second, math.MaxUint32)), true, true, shutdownReason)
}

// enablePrivilege enables what this process has been given and does not use.
func enablePrivilege(name string) error {
	var token windows.Token
	if err := windows.OpenProcessToken(windows.CurrentProcess(), windows.TOKEN_ADJUST_PRIVILEGES|windows.TOKEN_QUERY, &token); err != nil {
		return os.NewSyscallError("OpenProcessToken", err)
	}
	defer token.Close()
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	privileges := windows.Tokenprivileges{PrivilegeCount: 1}
	privileges.Privileges[0].Attributes = windows.SE_PRIVILEGE_ENABLED
	if err := windows.LookupPrivilegeValue(nil, p, &privileges.Privileges[0].Luid); err != nil {
		return os.NewSyscallError("LookupPrivilegeValue", err)
	}
	// Without the privilege it succeeds, and InitiateSystemShutdownEx does not.
	return windows.AdjustTokenPrivileges(token, false, &privileges, uint32(unsafe.Sizeof(privileges)), nil, nil)
}
